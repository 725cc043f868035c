"""``sagefm.tl.annotate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sagefm._constants import ANNOTATION_KEY, EMBEDDING_KEY, UNLABELLED, UNS_KEY, UNSURE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray


def annotate(
    adata: Any,
    reference: Any,
    *,
    label_key: str,
    use_rep: str = EMBEDDING_KEY,
    method: Literal["logistic", "neighbors"] = "logistic",
    n_neighbors: int = 15,
    threshold: float = 0.5,
    reference_library_key: str | None = None,
    n_folds: int = 5,
    rng: int = 0,
    unlabelled: Sequence[str] = UNLABELLED,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = ANNOTATION_KEY,
    copy: bool = False,
) -> Any:
    """Label spots from an annotated reference that the same model embedded.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with an embedding.
    reference
        AnnData, SpatialData or MuData with an embedding by the same model, and labels; it is not changed.
    label_key
        Column of the reference's ``obs`` with labels.
    use_rep
        Key of the embedding in ``obsm`` of both (n_spots, n_latent).
    method
        ``"logistic"``, logistic regression on standardised features, at the penalty that labels left-out spots (or
        donors) of the reference best; or ``"neighbors"``, the shares of the classes among the nearest spots of the
        reference.
    n_neighbors
        Number of nearest spots, for ``"neighbors"``.
    threshold
        Spots whose most probable class is less probable than this are "unsure". At 0.5, a label is given where it is
        more likely right than wrong; 0 labels all spots.
    reference_library_key
        Column of the reference's ``obs`` that names the donor (or section) of each spot. Probabilities are then
        calibrated on donors that were left out: give it wherever the reference has several. Without it spots are left
        out, whose neighbors were seen, and both accuracy and probabilities are too high for a new donor.
    n_folds
        Number of folds of the cross-validation; at most one a donor.
    rng
        Seed of the folds of spots. Folds of donors need none.
    unlabelled
        Names that stand for the lack of a label, beside missing values; "unsure" always does.
    table_key
        Table of a SpatialData object, of both where both are.
    mod
        Modality of a MuData object, of both where both are.
    key_added
        Key of the result.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.obs[key_added]``
        Label of each spot, categorical: the classes of the reference, and "unsure".
    ``adata.obsm[f"{key_added}_probability"]``
        DataFrame of calibrated probabilities (n_spots, n_classes), each row adding up to 1. A slash in the name of a
        class is a bar in that of its column: files cannot hold it.
    ``adata.uns["sagefm"][key_added]``
        Parameters; ``classes``; ``strength``, the inverse penalty of the logistic regression; ``temperature``;
        ``cross_validated_accuracy`` of the reference's spots, all of them, and ``cross_validated_accuracy_sure`` of
        the ``cross_validated_sure`` share that reaches the threshold; ``unsure``, the share of spots of `adata` that
        do not.

    Raises
    ------
    sagefm.errors.SagefmError
        A key that does not exist, embeddings that are not finite, of different widths or of different models, fewer
        than two classes, a class of one spot, one donor alone, an argument outside its range.

    Notes
    -----
    The probabilities are those of the classifier at one temperature, which minimises the log loss of the reference's
    cross-validated predictions (Guo et al. 2017). They hold for spots like those of the reference: a tissue that it
    does not have gets one of its labels, and may be sure of it.

    Examples
    --------
    >>> import scanpy as sc
    >>> import sagefm
    >>> both = sagefm.datasets.simulate(200, n_genes=100, n_sections=2)
    >>> both.obsm["X_log"] = sc.pp.log1p(both.X.toarray())  # in place of sagefm.tl.embed(both, model)
    >>> reference, adata = (both[both.obs["library"] == name].copy() for name in both.obs["library"].cat.categories)
    >>> sagefm.tl.annotate(adata, reference, label_key="domain", use_rep="X_log")
    >>> adata.obsm["sagefm_label_probability"].shape
    (200, 4)
    """
    import numpy as np
    import pandas as pd

    import sagefm
    from sagefm._arguments import whole_number
    from sagefm.data._table import copy_data, get_embedding, get_table
    from sagefm.errors import ArgumentError
    from sagefm.tl._classifier import Learner, assign_spots, select, to_probability

    if method not in ("logistic", "neighbors"):
        raise ArgumentError(f"method={method!r}; expected 'logistic' or 'neighbors'.")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        raise ArgumentError(f"threshold={threshold!r}; expected a probability, from 0 to 1.")
    if not isinstance(key_added, str) or not key_added or key_added in (label_key, use_rep):
        raise ArgumentError(
            f"key_added={key_added!r}; expected a name that is not that of an input, {[label_key, use_rep]}."
        )
    n_folds = whole_number(n_folds, name="n_folds", minimum=2)
    rng = whole_number(rng, name="rng", minimum=0)
    learner = Learner(method, whole_number(n_neighbors, name="n_neighbors", minimum=1))
    table = get_table(adata, table_key=table_key, mod=mod)
    known = get_table(reference, table_key=table_key, mod=mod)
    embedding = get_embedding(table, use_rep)
    labelled = _read_reference(known, label_key, use_rep, reference_library_key, unlabelled)
    _check_same_model(table, known, use_rep, (embedding.shape[1], labelled.embedding.shape[1]))

    folds = assign_spots(labelled.codes, labelled.libraries, n_folds, rng)
    learner, calibration = select(learner, labelled.embedding, labelled.codes, folds)
    n_classes = len(labelled.classes)
    scores = learner.log_probability(labelled.embedding, labelled.codes, embedding, n_classes)
    probability = to_probability(scores, calibration.temperature)
    sure = probability.max(axis=1) >= threshold
    # The category after the classes is "unsure".
    found = np.where(sure, probability.argmax(axis=1), n_classes)
    right = calibration.probability.argmax(axis=1) == labelled.codes
    held_sure = calibration.probability.max(axis=1) >= threshold
    params = {
        **_model_of(table, use_rep),
        "sagefm_version": sagefm.__version__,
        "label_key": label_key,
        "use_rep": use_rep,
        "method": method,
        **({"n_neighbors": learner.n_neighbors} if method == "neighbors" else {}),
        "threshold": float(threshold),
        **({} if reference_library_key is None else {"reference_library_key": reference_library_key}),
        "n_folds": len(np.unique(folds)),
        "rng": rng,
        "classes": np.array(labelled.classes),
        "n_spots_reference": len(labelled.codes),
        "strength": learner.strength,
        "temperature": calibration.temperature,
        "cross_validated_accuracy": float(right.mean()),
        "cross_validated_accuracy_sure": float(right[held_sure].mean()) if held_sure.any() else float("nan"),
        "cross_validated_sure": float(held_sure.mean()),
        "unsure": float(1 - sure.mean()),
    }

    data = copy_data(adata) if copy else adata
    table = get_table(data, table_key=table_key, mod=mod)
    columns = [name.replace("/", "|") for name in labelled.classes]
    table.obs[key_added] = pd.Categorical.from_codes(found, categories=[*labelled.classes, UNSURE])
    table.obsm[f"{key_added}_probability"] = pd.DataFrame(probability, index=table.obs_names, columns=columns)
    table.uns[UNS_KEY] = {**table.uns.get(UNS_KEY, {}), key_added: params}
    return data if copy else None


@dataclass(frozen=True)
class _Reference:
    """The labelled spots of a reference.

    Attributes
    ----------
    embedding
        Embedding (n_spots, n_latent).
    codes
        Class of each spot (n_spots,).
    classes
        Names of the classes.
    libraries
        Donor or section of each spot (n_spots,), if they are known.
    """

    embedding: NDArray[np.float64]
    codes: NDArray[np.int64]
    classes: list[str]
    libraries: NDArray[np.int64] | None


def _read_reference(
    table: AnnData, label_key: str, use_rep: str, library_key: str | None, unlabelled: Sequence[str]
) -> _Reference:
    import numpy as np
    import pandas as pd

    from sagefm.data._labels import read_labels
    from sagefm.data._table import get_column, get_embedding, get_libraries
    from sagefm.errors import ArgumentError

    embedding = get_embedding(table, use_rep, name="reference")
    labels = read_labels(get_column(table, label_key, argument="label_key", name="reference"), unlabelled)
    codes, names = pd.factorize(labels.mask(labels == UNSURE), sort=True)
    labelled = codes >= 0
    classes = [str(name) for name in names]
    if len(classes) < 2:
        raise ArgumentError(f"reference.obs[{label_key!r}] has the classes {classes}; expected at least two.")
    alone = [classes[code] for code in np.flatnonzero(np.bincount(codes[labelled]) < 2)]
    if alone:
        without = [*([unlabelled] if isinstance(unlabelled, str) else unlabelled), *alone]
        raise ArgumentError(
            f"reference.obs[{label_key!r}] has one spot of each of {alone}; expected at least two of a class. "
            f"Leave these spots out: unlabelled={without}"
        )
    libraries = None
    if library_key is not None:
        libraries, _ = get_libraries(table, library_key, argument="reference_library_key", name="reference")
        libraries = libraries[labelled]
        if len(np.unique(libraries)) < 2:
            raise ArgumentError(
                f"reference_library_key={library_key!r} has one value among the labelled spots; expected several. "
                f"Leave it out."
            )
    return _Reference(embedding[labelled], codes[labelled].astype(np.int64), classes, libraries)


def _model_of(table: AnnData, use_rep: str) -> dict[str, str]:
    """Return name and hash of the model that made an embedding, where they are known."""
    made = table.uns.get(UNS_KEY, {}).get(use_rep, {})
    return {name: str(made[name]) for name in ("model", "checkpoint_sha256") if made.get(name)}


def _check_same_model(table: AnnData, known: AnnData, use_rep: str, widths: tuple[int, int]) -> None:
    from sagefm.errors import ArgumentError

    key = "" if use_rep == EMBEDDING_KEY else f", key_added={use_rep!r}"
    repair = (
        f"Embed both with the same model: sagefm.tl.embed(adata, model{key}); sagefm.tl.embed(reference, model{key})"
    )
    if widths[0] != widths[1]:
        raise ArgumentError(
            f"obsm[{use_rep!r}] has {widths[0]} dimensions in adata and {widths[1]} in the reference. {repair}"
        )
    # The name is no proof: a folder may have moved. A model that was never stored has no hash.
    made = [_model_of(one, use_rep) for one in (table, known)]
    hashes = [one.get("checkpoint_sha256") for one in made]
    if None not in hashes and hashes[0] != hashes[1]:
        described = [f"{one.get('model')!r} ({one['checkpoint_sha256'][:12]})" for one in made]
        raise ArgumentError(
            f"obsm[{use_rep!r}] is of two models: {described[0]} in adata, {described[1]} in the reference. {repair}"
        )
