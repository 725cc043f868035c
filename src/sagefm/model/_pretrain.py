"""Training on a corpus of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from sagefm import __version__
from sagefm._constants import N_SPOTS
from sagefm.checkpoint._checkpoint import Checkpoint
from sagefm.data._genes import make_vocabulary
from sagefm.errors import CoordinatesError, MissingKeyError
from sagefm.model._sagefm import SAGEFM
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig
from sagefm.training._fit import fit
from sagefm.training._sections import CorpusSections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sagefm.data._corpus import Corpus


def pretrain(
    corpus: Corpus,
    *,
    architecture: Literal["center_neighborhood", "published"] = "center_neighborhood",
    hidden: Sequence[int] | None = None,
    likelihood: Literal["poisson", "negative_binomial"] = "poisson",
    dropout: float = 0.5,
    scale: float = 1e4,
    vocabulary: Sequence[str] | Literal["published"] | None = None,
    split_by: str | None = None,
    sections_in_memory: int | None = None,
    max_epochs: int = 100,
    early_stopping: bool = True,
    patience: int = 10,
    seed: int = 0,
    **train: Any,
) -> SAGEFM:
    """Train a new model on the sections of a corpus, which are read while it trains.

    Parameters
    ----------
    corpus
        Sections in files.
    architecture, hidden, likelihood, dropout, scale
        As in :class:`SAGEFM`.
    vocabulary
        Genes of the model; those that at least half of the sections measured if left out. Of a section that measured
        fewer, the others are neither read nor predicted.
    split_by
        Column of ``corpus.metadata``, e.g. the donor or the organ: sections of one value are held out together.
        Sections without a value are held out one by one, as all are if this is left out.
    sections_in_memory
        Sections that are mixed in batches at a time (about as many more are in memory); all, read once, if left out.
    max_epochs
        Passes through the training spots.
    early_stopping, patience
        Stop after `patience` epochs without a better validation loss.
    seed
        Seed of initial values, split, order and masks.
    **train
        Further arguments of :meth:`SAGEFM.train`: ``batch_size``, ``devices``, ``strategy``, ``state_file``, ...

    Returns
    -------
    The model, without a table. ``model.to_checkpoint().training["sections"]`` holds the sha256 of each section.

    Raises
    ------
    sagefm.errors.SagefmError
        What is wrong with a section, and its path; see :mod:`sagefm.errors`.

    Notes
    -----
    With several devices or nodes, each reads sections of its own (``strategy="ddp"``).

    Examples
    --------
    >>> import sagefm
    >>> for seed in (0, 1, 2):
    ...     sagefm.datasets.simulate(100, n_genes=300, rng=seed).write_h5ad(f"s{seed}.h5ad")
    >>> corpus = sagefm.datasets.Corpus.from_folder(".")
    >>> model = sagefm.model.pretrain(corpus, hidden=(64, 16), max_epochs=2)
    >>> model.save("model")
    """
    small = [name for i, name in enumerate(corpus.names) if corpus.shape(i)[0] < N_SPOTS]
    if small:
        raise CoordinatesError(
            f"{len(small)} sections have fewer than the {N_SPOTS} spots of a neighborhood, e.g. {small[:3]}. "
            f"Leave them out: corpus.subset([name not in {small[:3]} for name in corpus.names])"
        )
    genes = corpus.vocabulary() if vocabulary is None else vocabulary
    made = make_vocabulary(pd.Index([]), genes)
    config = NetworkConfig.of(
        architecture, n_genes=len(made), hidden=hidden, likelihood=likelihood, scale=scale, dropout=dropout
    )
    groups = None
    if split_by is not None:
        if split_by not in corpus.metadata:
            raise MissingKeyError(
                f"split_by={split_by!r} is not a column of the corpus' metadata; found {list(corpus.metadata.columns)}."
            )
        column = corpus.metadata[split_by]
        groups = column.astype(str).where(column.notna(), [f"section {name}" for name in corpus.names]).tolist()
    network = make_network(config, seed)
    sections = CorpusSections(corpus, made, config, keep=sections_in_memory is None)
    history = fit(
        network,
        sections,
        made.symbols,
        groups=groups,
        window=sections_in_memory,
        max_epochs=max_epochs,
        patience=patience if early_stopping else None,
        seed=seed,
        **train,
    )
    training = {
        **history.training,
        "n_spots": int(sections.sizes.sum()),
        "sections": {name: corpus.sha256(i) for i, name in enumerate(corpus.names)},
        "is_trained": True,
        "sagefm_version": __version__,
    }
    names = {"layer": corpus.layer, "gene_key": corpus.gene_key, "spatial_key": corpus.spatial_key}
    model = SAGEFM.from_pretrained(
        Checkpoint(
            network=network, vocabulary=made, name="SAGEFM", training=training, setup=names, history=history.losses
        )
    )
    model._saves = history.saves
    return model
