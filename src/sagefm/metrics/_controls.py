"""Controls: what the neighbors' profile and linear models of a section recover without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sagefm._arguments import as_array, as_seed, listed, number, whole_number
from sagefm._constants import MAX_FOLDS, SPATIAL_KEY, UNS_KEY
from sagefm._progress import ProgressBar
from sagefm.data._blocks import to_memory
from sagefm.data._genes import assign_folds, get_gene_names, make_vocabulary
from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys, entry, get_table, untouched_on_error
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.metrics._predictors import (
    Components,
    Model,
    Neighborhood,
    SectionCounts,
    fit_components,
    fit_factor_model,
)
from sagefm.metrics._recovery import Recovery
from sagefm.metrics._rows import PredictedRows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from sagefm.metrics._predictors import Predictor

PREDICTORS: Final = ("neighborhood", "pca", "factors")


def controls(
    adata: Any,
    *,
    predicted: str | Any | None = None,
    predictors: Sequence[str] = ("neighborhood", "pca"),
    train: ArrayLike | None = None,
    test: ArrayLike | None = None,
    vocabulary: Sequence[str] | None = None,
    n_folds: int = 4,
    n_hidden: int = 1,
    n_components: int = 20,
    components: NDArray[np.float64] | None = None,
    ridge: float = 100.0,
    rng: int | np.random.Generator = 0,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Return the recovery of hidden genes by predictors without a network, beside that of a model.

    Genes are hidden in folds at one spot at a time, as in :func:`sagefm.tl.impute`. A predictor multiplies the rates of
    the null model (the profile of the section's other spots times the size factor of the spot's visible genes) by a
    ratio, and reads no hidden count:

    - ``"neighborhood"``: the profile of the spot's neighbors, shrunk to the section's, over the section's profile;
    - ``"pca"``: principal components of ``u = log1p(10,000 x / total)`` less the section's mean. Scores are a ridge
      regression on the visible genes, and the ratio is ``expm1(u_mean + reconstruction) / expm1(u_mean)``;
    - ``"factors"``: a Poisson factor model of the counts (non-negative matrix factorization).

    Parameters
    ----------
    adata
        AnnData with raw counts, and spot coordinates or a graph. The graph is built and stored if there is none.
    predicted
        Expected counts of a model, for the same spots, folds and null: a key of ``layers`` written by
        :func:`sagefm.tl.impute`, or a matrix (n_spots, n_vars). Its genes must have been hidden in folds, too.
    predictors
        Names of predictors.
    train, test
        Spots (positions or masks) that components and factors are fitted on, and spots that are predicted. Default:
        all spots are predicted, each quarter from a fit on the others.
    vocabulary
        Gene symbols of the model, in order, or ``"published"``: folds are those of its imputation, and genes that it
        does not know take no part. Default: the genes of `adata`.
    n_folds, rng
        Number of folds, and their seed; as in :func:`sagefm.tl.impute`.
    n_hidden
        Number of consecutive folds that are hidden at a time. If it is `n_folds`, a spot shows only its total counts.
    n_components
        Number of principal components, and of factors.
    components
        Loadings of other sections (n_components, n_vars), see :func:`fit_components`. Default: components of `train`.
    ridge
        Penalty on the scores, in units of the noise of u.
    layer, gene_key, spatial_key, library_key, neighbors_key, progress
        As in :func:`sagefm.tl.embed`.

    Returns
    -------
    For each predictor, and for ``"predicted"`` if it is given, a table with the columns of
    :func:`sagefm.metrics.recovery` and one row per gene of `adata`, NaN for genes outside the vocabulary.

    Raises
    ------
    sagefm.errors.SagefmError
        Counts, coordinates, graph or keys that :func:`sagefm.tl.embed` refuses; an argument outside its range, of the
        wrong shape, or unknown.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200)
    >>> tables = sagefm.metrics.controls(adata, n_components=5)
    >>> list(tables)
    ['neighborhood', 'pca']
    """
    names = listed(predictors, argument="predictors", what=f"some of {list(PREDICTORS)}", may_be_empty=True)
    unknown = [name for name in names if name not in PREDICTORS]
    if unknown:
        raise ArgumentError(f"predictors holds {unknown}; expected some of {list(PREDICTORS)}.")
    n_folds = whole_number(n_folds, name="n_folds", minimum=2, maximum=MAX_FOLDS)
    if whole_number(n_hidden, name="n_hidden", minimum=1) > n_folds:
        raise ArgumentError(f"n_hidden={n_hidden}; expected at most n_folds={n_folds}.")
    ridge = number(ridge, name="ridge", is_valid=lambda x: x > 0, expected="a number above 0")
    if (train is None) != (test is None):
        raise ArgumentError("train and test belong together: pass both, or neither.")
    n_components, rng = whole_number(n_components, name="n_components", minimum=1), as_seed(rng)
    table = get_table(adata)
    if components is not None:
        components = as_array(components, name="components")
        if components.ndim != 2 or components.shape[1] != table.n_vars:
            raise ArgumentError(f"components has shape {components.shape}; expected the {table.n_vars} genes of adata.")
    train, test = _as_mask(train, table.n_obs, name="train"), _as_mask(test, table.n_obs, name="test")
    model = None if predicted is None else _read_predicted(table, predicted)

    symbols = make_vocabulary(get_gene_names(table, gene_key), vocabulary)
    reader = read_table(adata, symbols, TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key))
    columns = reader.match.columns
    folds = assign_folds(reader.match.genes, len(symbols), n_folds, rng)
    loadings = None if components is None else components[:, columns]
    scored = names if model is None else [*names, "predicted"]
    sums = {name: Recovery(len(columns)) for name in scored}
    n_predictions = n_folds * int(table.n_obs if test is None else test.sum())
    bar = ProgressBar("controls", n_predictions, "prediction", progress=progress)
    with bar, untouched_on_error(table):
        for part in reader.sections():
            section = SectionCounts(to_memory(part.counts), part.neighbors)
            for total in sums.values():
                total.begin_section(part.coordinates)
            splits = split_spots(section.n_spots, rng)
            if train is not None and test is not None:
                splits = [(np.flatnonzero(train[part.rows]), np.flatnonzero(test[part.rows]))]
            for fitted_on, spots in splits:
                if not len(spots):
                    continue
                if not len(fitted_on):
                    raise ArgumentError(f"test has spots of library {part.name!r}, of which train has none.")
                fitted = make_predictors(
                    section, fitted_on, names, n_components=n_components, components=loadings, ridge=ridge, rng=rng
                )
                if model is not None:
                    fitted["predicted"] = Model(model, part.rows, columns)
                add_recovery(sums, section, spots, fitted, folds, n_hidden, done=bar.update)
    genes = table.var_names
    return {name: total.result().set_axis(genes[columns]).reindex(genes) for name, total in sums.items()}


def _as_mask(spots: ArrayLike | None, n_spots: int, *, name: str) -> NDArray[np.bool_] | None:
    """Return positions of spots, or a mask of them, as a mask (n_spots,)."""
    if spots is None:
        return None
    positions, mask = np.asarray(spots), np.zeros(n_spots, dtype=bool)
    is_mask = positions.dtype == bool and positions.shape == (n_spots,)
    is_list = np.issubdtype(positions.dtype, np.integer) and positions.ndim == 1
    if not positions.size or not (is_mask or (is_list and positions.min() >= 0 and positions.max() < n_spots)):
        raise ArgumentError(f"{name}={spots!r}; expected positions of spots, from 0 to {n_spots - 1}, or a mask.")
    mask[positions] = True
    return mask


def _read_predicted(table: AnnData, predicted: Any) -> PredictedRows:
    """Return expected counts from a layer that ``tl.impute`` wrote, or from a matrix."""
    if not isinstance(predicted, str):
        return PredictedRows(predicted, table.shape)
    if predicted not in table.layers:
        raise MissingKeyError(
            f"predicted={predicted!r} is not in adata.layers; found {list(table.layers)}. "
            f"Call sagefm.tl.impute(adata, model, key_added={predicted!r})"
        )
    params = entry(table, UNS_KEY, predicted)
    if "target_sum" in params:
        raise ArgumentError(
            f"predicted={predicted!r} was brought to {params['target_sum']:g} counts a spot; expected counts at the depth "
            f"of each spot are compared. Call sagefm.tl.impute(adata, model, key_added={predicted!r})"
        )
    return PredictedRows(table.layers[predicted], table.shape, is_log=params.get("scale") == "log1p")


def split_spots(n_spots: int, rng: int = 0, n_splits: int = 4) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return `n_splits` pairs of spots to fit on and spots to predict, the latter a partition of all."""
    groups = np.random.default_rng(rng).permutation(n_spots) % n_splits
    return [(np.flatnonzero(groups != k), np.flatnonzero(groups == k)) for k in range(n_splits)]


def make_predictors(
    section: SectionCounts,
    train: NDArray[np.int64],
    names: Sequence[str],
    *,
    n_components: int = 20,
    components: NDArray[np.float64] | None = None,
    ridge: float = 100.0,
    rng: int = 0,
) -> dict[str, Predictor]:
    """Return predictors by name, fitted on the spots `train`; see :func:`controls`."""
    predictors: dict[str, Predictor] = {}
    for name in names:
        if name == "neighborhood":
            predictors[name] = Neighborhood(section)
        elif name == "factors":
            predictors[name] = fit_factor_model(section, train, n_components, rng)
        else:
            loadings = fit_components([section.counts[train]], n_components) if components is None else components
            predictors[name] = Components(loadings, ridge)
    return predictors


def add_recovery(
    sums: dict[str, Recovery],
    section: SectionCounts,
    spots: NDArray[np.int64],
    predictors: Mapping[str, Predictor],
    folds: NDArray[np.int64],
    n_hidden: int,
    genes: NDArray[np.bool_] | None = None,
    done: Callable[[int], object] | None = None,
) -> None:
    """Add the recovery of `spots` by each predictor to `sums`; of `genes` (n_genes,) only, if they are given.

    `done` is told of how many spots a fold was predicted.
    """
    for name in predictors:
        sums.setdefault(name, Recovery(len(folds))).add_spots(len(spots))
    for view, hidden in section.views(spots, folds, n_hidden, genes=genes):
        for name, predict in predictors.items():
            sums[name].update(hidden, view.null * predict(view), null=view.null, genes=view.wanted, spots=view.spots)
        if done is not None:
            done(len(view.spots))
