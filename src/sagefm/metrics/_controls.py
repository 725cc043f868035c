"""Controls: what a section's mean profile, its neighborhoods, and linear models recover without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy import sparse

from sagefm._arguments import whole_number
from sagefm.data._genes import assign_folds
from sagefm.errors import ArgumentError
from sagefm.metrics._predictors import (
    Components,
    Neighborhood,
    Profile,
    SectionCounts,
    fit_components,
    fit_factor_model,
    with_neighbors,
)
from sagefm.metrics._recovery import Measured, Recovery, add_measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sagefm.metrics._predictors import Predictor

PREDICTORS: Final = ("neighborhood", "pca", "pca_around", "factors", "profile")


def controls(
    counts: sparse.csr_matrix,
    neighbors: sparse.csr_matrix,
    *,
    train: NDArray[np.int64] | None = None,
    test: NDArray[np.int64] | None = None,
    predicted: NDArray[np.float32] | None = None,
    predictors: Sequence[str] = ("neighborhood", "pca"),
    n_folds: int = 4,
    n_hidden: int = 1,
    n_components: int = 20,
    components: NDArray[np.float64] | None = None,
    profile: NDArray[np.float64] | None = None,
    ridge: float = 100.0,
    prior: float = 10.0,
    scale: float = 1e4,
    rng: int = 0,
    block_rows: int = 1024,
) -> dict[str, pd.DataFrame]:
    """Return the recovery of hidden genes by predictors that know no network.

    Genes are hidden fold by fold at the spots `test`, as in :func:`sagefm.tl.impute`. A predictor multiplies the
    null model (the profile of the section's other spots times the size factor of the spot's visible genes) by a ratio:

    - ``"neighborhood"``: the profile of the spot's neighbors, with `prior` spots of the section's profile added, over
      the section's profile;
    - ``"pca"``: principal components of ``u = log1p(scale x / total)`` less the section's mean; the scores of a spot
      are a ridge regression on its visible genes; ``expm1(u_mean + reconstruction) / expm1(u_mean)``;
    - ``"pca_around"``: the same, the scores drawn to what the mean scores of the spot's neighbors predict;
    - ``"factors"``: a Poisson factor model (non-negative, Kullback-Leibler divergence) of the counts;
    - ``"profile"``: the profile of another corpus over the section's.

    No predictor reads a hidden count.

    Parameters
    ----------
    counts
        Raw counts of a section (n_spots, n_genes).
    neighbors
        Ones where a spot is a neighbor (n_spots, n_spots), without the diagonal.
    train, test
        Spots that components and factors are fitted on, and spots that are predicted. Both left out: all spots are
        predicted, each quarter from a fit of the others.
    predicted
        Expected counts of a model (n_spots, n_genes), to be held against the controls on the same spots, folds and
        null: ``adata.layers["sagefm_imputed"]``. Its genes must have been hidden in folds too.
    predictors
        Names of predictors.
    n_folds
        Number of folds.
    n_hidden
        Consecutive folds that are hidden at a time; of `n_folds`, the spot shows its total counts alone.
    n_components
        Principal components, and factors.
    components
        Loadings of another corpus (n_components, n_genes), of :func:`fit_components`: no component is fitted on the
        section then.
    profile
        Profile of another corpus (n_genes,), any sum; genes of value 0 or NaN are left at the section's.
    ridge
        Penalty on the scores, in units of the noise of u.
    prior
        Spots of the section's profile added to a neighborhood.
    scale
        Counts that spots are brought to.
    rng
        Seed of the folds.
    block_rows
        Spots made dense at a time.

    Returns
    -------
    For each predictor, and for ``"predicted"`` where given, a table as of :func:`sagefm.metrics.recovery`, a row a gene.

    Raises
    ------
    ArgumentError
        `predicted`, `components` or `profile` do not fit `counts`, a name is unknown, or one of `train` and `test` is
        missing.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200)
    >>> sagefm.pp.spatial_neighbors(adata)
    >>> found = sagefm.metrics.controls(adata.X, adata.obsp["sagefm_connectivities"], n_components=5)
    >>> list(found)
    ['neighborhood', 'pca']
    """
    n_genes = counts.shape[1]
    if predicted is not None and predicted.shape != counts.shape:
        raise ArgumentError(f"predicted has shape {predicted.shape}; expected that of counts, {counts.shape}.")
    for name, array in (("components", components), ("profile", profile)):
        if array is not None and array.shape[-1] != n_genes:
            raise ArgumentError(f"{name} is of {array.shape[-1]} genes; expected the {n_genes} of counts.")
    unknown = [name for name in predictors if name not in PREDICTORS]
    if unknown:
        raise ArgumentError(f"predictors holds {unknown}; expected some of {list(PREDICTORS)}.")
    if "profile" in predictors and profile is None:
        raise ArgumentError("predictors holds 'profile'; pass the profile of another corpus, profile=...")
    if whole_number(n_hidden, name="n_hidden", minimum=1) > n_folds:
        raise ArgumentError(f"n_hidden={n_hidden}; expected at most n_folds={n_folds}.")
    if (train is None) != (test is None):
        raise ArgumentError("train and test belong together: pass both, or neither.")

    section = SectionCounts(counts, neighbors, scale)
    folds = assign_folds(np.arange(n_genes), n_genes, n_folds, rng)
    splits = split_spots(section.n_spots, rng) if train is None or test is None else [(train, test)]
    sums: dict[str, Recovery] = {}
    for fitted_on, spots in splits:
        made = make_predictors(
            section,
            fitted_on,
            predictors,
            n_components=n_components,
            components=components,
            profile=profile,
            ridge=ridge,
            prior=prior,
            rng=rng,
        )
        models = {} if predicted is None else {"predicted": predicted}
        add_recovery(sums, section, spots, made, folds, n_hidden, models=models, block_rows=block_rows)
    return {name: recovery.result() for name, recovery in sums.items()}


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
    profile: NDArray[np.float64] | None = None,
    ridge: float = 100.0,
    prior: float = 10.0,
    rng: int = 0,
) -> dict[str, Predictor]:
    """Return predictors by name, fitted on the spots `train`; the arguments are those of :func:`controls`."""
    made: dict[str, Predictor] = {}
    if {"pca", "pca_around"} & set(names) and components is None:
        components = fit_components([section.counts[train]], n_components, section.scale)
    for name in names:
        if name == "neighborhood":
            made[name] = Neighborhood(section, prior)
        elif name == "factors":
            made[name] = fit_factor_model(section, train, n_components, rng)
        elif name == "profile" and profile is not None:
            made[name] = Profile(profile)
        elif components is not None:
            alone = Components(components, ridge)
            made[name] = alone if name == "pca" else with_neighbors(alone, section, train)
    return made


def add_recovery(
    sums: dict[str, Recovery],
    section: SectionCounts,
    spots: NDArray[np.int64],
    predictors: Mapping[str, Predictor],
    folds: NDArray[np.int64],
    n_hidden: int,
    *,
    models: Mapping[str, NDArray[np.float32]],
    genes: NDArray[np.bool_] | None = None,
    block_rows: int = 1024,
) -> None:
    """Add the recovery of `spots` by each predictor, and by expected counts of `models` (n_spots, n_genes), to sums.

    With `genes` (n_genes,), the others are left out of the sums.
    """
    for name in (*predictors, *models):
        sums.setdefault(name, Recovery(len(folds))).add_spots(len(spots))
    for view, hidden in section.views(spots, folds, n_hidden, block_rows, genes):
        rates: dict[str, NDArray[np.floating]] = {
            name: view.null * predict(view) for name, predict in predictors.items()
        }
        rates |= {name: model[view.spots][:, view.wanted] for name, model in models.items()}
        measured = Measured(hidden, view.null)
        for name, rate in rates.items():
            add_measured(sums[name], measured, rate, view.wanted)
