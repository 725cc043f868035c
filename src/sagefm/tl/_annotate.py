"""``sagefm.tl.annotate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

import sagefm
from sagefm._arguments import as_seed, key_name, number, one_of, whole_number
from sagefm._constants import ANNOTATION_KEY, EMBEDDING_KEY, UNLABELLED, UNS_KEY, UNSURE
from sagefm.data._labels import read_labels
from sagefm.data._table import copy_data, entry, get_column, get_embedding, get_libraries, get_table
from sagefm.errors import ArgumentError
from sagefm.tl._common import record

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    rng: int | np.random.Generator = 0,
    unlabelled: Sequence[str] = UNLABELLED,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = ANNOTATION_KEY,
    progress: bool = True,
    copy: bool = False,
) -> Any:
    """Transfer labels to spots from an annotated reference that was embedded with the same model.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with an embedding.
    reference
        AnnData, SpatialData or MuData with labels, and an embedding from the same model. It is not changed.
    label_key
        Column of the reference's ``obs`` with the labels.
    use_rep
        Key of the embedding in ``obsm`` (n_spots, n_latent), the same for both.
    method
        ``"logistic"``: logistic regression on standardized features, with the penalty that best predicts left-out spots
        (or donors) of the reference. ``"neighbors"``: the proportions of the classes among the spots of the reference
        that are nearest in the embedding.
    n_neighbors
        Number of nearest spots for ``"neighbors"``.
    threshold
        Spots whose most probable class has a probability below this are labeled "unsure". At 0.5, a label is more
        likely right than wrong; at 0, every spot gets a label.
    reference_library_key
        Column of the reference's ``obs`` that names the donor (or section) of each spot. Pass it if the reference has
        several: probabilities are then calibrated on left-out donors. Default: they are calibrated on left-out spots.
        These resemble their neighbors, so accuracy and probabilities are too optimistic for a new donor.
    n_folds
        Number of cross-validation folds; no more than the number of donors, if `reference_library_key` is given.
    rng
        Seed for splitting the spots into folds. Splitting by donor needs none.
    unlabelled
        Labels that mean "no label", in addition to missing values; "unsure" always does.
    table_key
        Table of a SpatialData object; the same for both.
    mod
        Modality of a MuData object; the same for both.
    key_added
        Column of ``obs`` for the labels; also used to name the other results (see below).
    progress
        As in :func:`sagefm.tl.embed`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.obs[key_added]``
        Label of each spot, categorical: a class of the reference, or "unsure".
    ``adata.obsm[f"{key_added}_probability"]``
        DataFrame of calibrated probabilities (n_spots, n_classes); each row sums to 1. A slash in the name of a class
        becomes a vertical bar in the name of its column, because files cannot store slashes there.
    ``adata.uns["sagefm"][key_added]``
        Parameters; ``classes``; ``strength``, the inverse penalty of the logistic regression; ``temperature``;
        ``cross_validated_accuracy``, over all spots of the reference; ``cross_validated_sure``, the share of these
        spots that reach the threshold; ``cross_validated_accuracy_sure``, the accuracy on that share; ``unsure``, the
        share of spots of `adata` that do not reach the threshold.

    Raises
    ------
    sagefm.errors.SagefmError
        A key does not exist; embeddings are not finite, differ in width, or come from different models; the reference
        has fewer than two classes, a class with one spot, or a single donor; an argument is outside its range.

    Notes
    -----
    The probabilities of the classifier are calibrated with one temperature, which minimizes the log loss of the
    cross-validated predictions on the reference (Guo et al. 2017). They hold for spots like those of the reference.
    Spots of a tissue that the reference lacks get one of its labels, possibly with a high probability.

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
    # scikit-learn takes a second to import, and the other tools do not need it.
    from sagefm.tl._classifier import fit, make_folds

    one_of(method, ("logistic", "neighbors"), name="method")
    expected = "a probability, from 0 to 1"
    threshold = number(threshold, name="threshold", is_valid=lambda x: 0 <= x <= 1, expected=expected)
    inputs = [key_name(label_key, name="label_key"), key_name(use_rep, name="use_rep")]
    if not isinstance(key_added, str) or not key_added or key_added in inputs:
        raise ArgumentError(f"key_added={key_added!r}; expected a name other than the inputs', {inputs}.")
    n_folds = whole_number(n_folds, name="n_folds", minimum=2)
    n_neighbors = whole_number(n_neighbors, name="n_neighbors", minimum=1)
    rng = as_seed(rng)
    table = get_table(adata, table_key=table_key, mod=mod)
    reference_table = get_table(reference, table_key=table_key, mod=mod)
    embedding = get_embedding(table, use_rep)
    known, codes, classes, donors = _read_reference(
        reference_table, label_key, use_rep, reference_library_key, unlabelled
    )
    _check_same_model(table, reference_table, use_rep, (embedding.shape[1], known.shape[1]))

    folds = make_folds(codes, donors, n_folds, rng)
    classifier = fit(known, codes, folds, method=method, n_neighbors=n_neighbors, progress=progress)
    probability = classifier.probability(embedding)
    is_sure = probability.max(axis=1) >= threshold
    is_right = classifier.cross_validated.argmax(axis=1) == codes
    is_sure_held = classifier.cross_validated.max(axis=1) >= threshold
    params = {
        **_model_of(table, use_rep),
        "sagefm_version": sagefm.__version__,
        "label_key": label_key,
        "use_rep": use_rep,
        "method": method,
        **({"n_neighbors": n_neighbors} if method == "neighbors" else {}),
        "threshold": float(threshold),
        **({} if reference_library_key is None else {"reference_library_key": reference_library_key}),
        "n_folds": len(folds),
        "rng": rng,
        "classes": np.array(classes),
        "n_spots_reference": len(codes),
        "strength": classifier.strength,
        "temperature": classifier.temperature,
        "cross_validated_accuracy": float(is_right.mean()),
        "cross_validated_accuracy_sure": float(is_right[is_sure_held].mean()) if is_sure_held.any() else float("nan"),
        "cross_validated_sure": float(is_sure_held.mean()),
        "unsure": float(1 - is_sure.mean()),
    }

    data = copy_data(adata) if copy else adata
    table = get_table(data, table_key=table_key, mod=mod)
    # The category after the classes is "unsure".
    labels = np.where(is_sure, probability.argmax(axis=1), len(classes))
    columns = [name.replace("/", "|") for name in classes]
    table.obs[key_added] = pd.Categorical.from_codes(labels, categories=[*classes, UNSURE])
    table.obsm[f"{key_added}_probability"] = pd.DataFrame(probability, index=table.obs_names, columns=columns)
    record(table, key_added, params)
    return data if copy else None


def _read_reference(
    table: AnnData, label_key: str, use_rep: str, library_key: str | None, unlabelled: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str], NDArray[np.int64] | None]:
    """Return embedding (n_spots, n_latent) and class of the labelled spots, names of the classes, donor of each spot."""
    embedding = get_embedding(table, use_rep, name="reference")
    labels = read_labels(get_column(table, label_key, argument="label_key", name="reference"), unlabelled)
    codes, names = pd.factorize(labels.mask(labels == UNSURE), sort=True)
    labelled = codes >= 0
    classes = [str(name) for name in names]
    if len(classes) < 2:
        raise ArgumentError(f"reference.obs[{label_key!r}] has the classes {classes}; expected at least two.")
    single = [classes[code] for code in np.flatnonzero(np.bincount(codes[labelled]) < 2)]
    if single:
        without = [*([unlabelled] if isinstance(unlabelled, str) else unlabelled), *single]
        raise ArgumentError(
            f"reference.obs[{label_key!r}] has one spot of each of {single}; expected at least two of a class. "
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
    return embedding[labelled], codes[labelled].astype(np.int64), classes, libraries


def _model_of(table: AnnData, use_rep: str) -> dict[str, str]:
    """Return name and hash of the model that an embedding is from, if they are known."""
    params = entry(table, UNS_KEY, use_rep)
    return {name: str(params[name]) for name in ("model", "checkpoint_sha256") if params.get(name)}


def _check_same_model(table: AnnData, reference: AnnData, use_rep: str, widths: tuple[int, int]) -> None:
    key = "" if use_rep == EMBEDDING_KEY else f", key_added={use_rep!r}"
    repair = (
        f"Embed both with the same model: sagefm.tl.embed(adata, model{key}); sagefm.tl.embed(reference, model{key})"
    )
    if widths[0] != widths[1]:
        raise ArgumentError(
            f"obsm[{use_rep!r}] has {widths[0]} dimensions in adata and {widths[1]} in the reference. {repair}"
        )
    # The name is no proof: a folder may have moved. A model that was never stored has no hash.
    models = [_model_of(table, use_rep), _model_of(reference, use_rep)]
    hashes = [model.get("checkpoint_sha256") for model in models]
    if None not in hashes and hashes[0] != hashes[1]:
        described = [f"{model.get('model')!r} ({model['checkpoint_sha256'][:12]})" for model in models]
        raise ArgumentError(
            f"obsm[{use_rep!r}] is of two models: {described[0]} in adata, {described[1]} in the reference. {repair}"
        )
