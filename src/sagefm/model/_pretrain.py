"""Training on a corpus of files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from sagefm._arguments import as_seed, key_name, shown
from sagefm._constants import N_SPOTS
from sagefm.checkpoint._checkpoint import Checkpoint, check_storable
from sagefm.data._corpus import Corpus
from sagefm.data._genes import make_vocabulary
from sagefm.errors import ArgumentError, CoordinatesError, MissingKeyError
from sagefm.model._sagefm import SAGEFM
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig
from sagefm.training._config import SETTINGS, TrainingConfig
from sagefm.training._fit import check_trainer_arguments, fit
from sagefm.training._sections import CorpusSections

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy as np


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
    state_file: str | os.PathLike[str] | None = None,
    rng: int | np.random.Generator = 0,
    progress: bool = True,
    **train: Any,
) -> SAGEFM:
    """Train a new model on the sections of a corpus, which are read from their files during training.

    With several devices or nodes (``strategy="ddp"``), each reads its own sections.

    Parameters
    ----------
    corpus
        Sections in files, as a :class:`sagefm.datasets.Corpus`.
    architecture, hidden, likelihood, dropout, scale
        As in :class:`SAGEFM`.
    vocabulary
        Genes of the model. Default: those that were measured in at least half of the files. A gene that was not
        measured in a section is neither read nor predicted there.
    split_by
        Column of ``corpus.metadata``, e.g. the donor or the organ: sections with the same value are held out together.
        Default: sections are held out one by one, as are sections without a value.
    sections_in_memory
        Number of sections whose spots are mixed in batches at a time (about as many more are in memory). Default: all
        sections, each read once.
    state_file, progress
        As in :meth:`SAGEFM.train`.
    rng
        Seed, or random generator, for the initial values, the split, the order of spots and the masks.
    **train
        Further arguments of :meth:`SAGEFM.train`: ``max_epochs``, ``batch_size``, ``early_stopping``, ``devices``, ...

    Returns
    -------
    The trained model, without a table. ``model.to_checkpoint().training["sections"]`` holds the sha256 of each file.

    Raises
    ------
    sagefm.errors.SagefmError
        A file cannot be used (the message gives its path and says why), or an argument is outside its range.

    Examples
    --------
    >>> import sagefm
    >>> for seed in (0, 1, 2):
    ...     sagefm.datasets.simulate(100, n_genes=300, rng=seed).write_h5ad(f"s{seed}.h5ad")
    >>> corpus = sagefm.datasets.Corpus.from_folder(".")
    >>> model = sagefm.model.pretrain(corpus, hidden=(64, 16), max_epochs=2)
    >>> model.save("model")
    """
    if not isinstance(corpus, Corpus):
        raise ArgumentError(f"corpus is {shown(corpus)}; expected a Corpus: sagefm.datasets.Corpus.from_folder(...).")
    if split_by is not None:
        key_name(split_by, name="split_by")
    settings = {name: train.pop(name) for name in SETTINGS & train.keys()}
    check_trainer_arguments(train)
    small = [name for i, name in enumerate(corpus.names) if corpus.shape(i)[0] < N_SPOTS]
    if small:
        raise CoordinatesError(
            f"{len(small)} sections have fewer than the {N_SPOTS} spots of a neighborhood, e.g. {small[:3]}. "
            f"Leave them out: corpus.subset([name not in {small[:3]} for name in corpus.names])"
        )
    genes = make_vocabulary(pd.Index([]), corpus.vocabulary(progress=progress) if vocabulary is None else vocabulary)
    network_config = NetworkConfig.of(
        architecture, n_genes=len(genes), hidden=hidden, likelihood=likelihood, scale=scale, dropout=dropout
    )
    seed = as_seed(rng)
    config = TrainingConfig.of(network_config, rng=seed, sections_in_memory=sections_in_memory, **settings)
    sections = CorpusSections(corpus, genes, network_config, keep=sections_in_memory is None)
    network = make_network(network_config, seed)
    checkpoint = Checkpoint(
        network=network,
        vocabulary=genes,
        name="SAGEFM",
        training={"sections": dict.fromkeys(corpus.names, ""), "validation_sections": list(sections.names)},
        setup={key: getattr(corpus, key) for key in ("layer", "gene_key", "spatial_key", "library_key")},
    )
    check_storable(checkpoint)
    result = fit(
        network,
        sections,
        genes.symbols,
        config,
        groups=None if split_by is None else _groups(sections, split_by),
        state_file=state_file,
        progress=progress,
        trainer_arguments=train,
    )
    hashes = {name: corpus.sha256(i) for i, name in enumerate(corpus.names)}
    training = {**result.record, "sections": hashes}
    model = SAGEFM.from_pretrained(
        replace(checkpoint, network=result.network, training=training, history=result.losses)
    )
    model._saves = result.saves
    return model


def _groups(sections: CorpusSections, split_by: str) -> list[str]:
    """Return the donor or organ of each section; those without a value are groups of their own."""
    metadata = sections.corpus.metadata
    if split_by not in metadata:
        columns = list(metadata.columns)
        raise MissingKeyError(f"split_by={split_by!r} is not a column of the corpus' metadata; found {columns}.")
    values = metadata[split_by].iloc[sections.files]
    return values.astype(str).where(values.notna(), [f"section {name}" for name in sections.names]).tolist()
