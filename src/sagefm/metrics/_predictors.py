"""Predictors of hidden genes that know no network.

Notation, for spot i of a section: x its visible counts, p_g the profile of the *other* spots (a half count added to every
gene), size its size factor, so that the null's rate is ``size p_g``; u = log1p(scale x / total). Every predictor
returns a ratio to that rate.

A :class:`View` holds zeros where a gene is hidden, and profiles and means of the other spots alone: no predictor
can read a hidden count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from scipy import sparse

from sagefm._arguments import whole_number
from sagefm._constants import PROFILE_PRIOR
from sagefm.data._counts import log_normalize
from sagefm.data._graph import averaging
from sagefm.errors import ArgumentError
from sagefm.module._factors import Factors, fit_factors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

#: Spots that the factor model is fitted on.
_N_FACTOR_SPOTS: Final = 1000
#: Normalised counts added to both sides of a ratio: where nothing is reconstructed it is exactly one.
_FLOOR: Final = 1e-6


class SectionCounts:
    """Counts of a section, and the sums that predictors share.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    neighbors
        Ones where a spot is a neighbor (n_spots, n_spots), without the diagonal.
    scale
        Counts that spots are brought to.
    """

    def __init__(self, counts: sparse.csr_matrix, neighbors: sparse.csr_matrix, scale: float = 1e4) -> None:
        self.counts, self.neighbors, self.scale = sparse.csr_matrix(counts), sparse.csr_matrix(neighbors), scale
        self.totals = np.asarray(self.counts.sum(axis=1, dtype=np.float64)).ravel()
        self.gene_totals = np.asarray(self.counts.sum(axis=0, dtype=np.float64)).ravel()
        self.u = log_normalize(self.counts, scale, np.maximum(self.totals, 1)).astype(np.float64)
        self.u_sum = np.asarray(self.u.sum(axis=0)).ravel()

    @cached_property
    def averaging(self) -> sparse.csr_matrix:
        """Mean over the neighbors (n_spots, n_spots)."""
        return sparse.csr_matrix(averaging(self.neighbors, with_center=False), dtype=np.float64)

    @cached_property
    def around(self) -> sparse.csc_matrix:
        """Counts of the neighbors, added up (n_spots, n_genes)."""
        return sparse.csc_matrix(self.neighbors.astype(np.float32) @ self.counts, dtype=np.float32)

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return int(self.counts.shape[0])

    def views(
        self,
        spots: NDArray[np.int64],
        folds: NDArray[np.int64],
        n_hidden: int,
        block_rows: int,
        genes: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[View, NDArray[np.float64]]]:
        """Yield what is visible of some spots, fold by fold, with the hidden counts to predict (n_spots, n_wanted).

        Fold k is predicted while folds k, k+1, ..., k+n_hidden-1 (cyclic) are hidden. With `genes` (n_genes,),
        the others are not predicted; they are shown and hidden all the same.
        """
        n_folds = int(folds.max()) + 1
        for start in range(0, len(spots), block_rows):
            rows = spots[start : start + block_rows]
            x = self.counts[rows].toarray().astype(np.float64)
            profile = self.gene_totals - x + PROFILE_PRIOR
            mean = np.maximum(self.u_sum - self.u[rows].toarray(), 0) / max(self.n_spots - 1, 1)
            for fold in range(n_folds):
                shown = (folds - fold) % n_folds >= n_hidden
                wanted = np.flatnonzero((folds == fold) if genes is None else (folds == fold) & genes)
                # Where the spot shows nothing, its depth is all that is known of it.
                known = shown if shown.any() else np.ones_like(shown)
                visible = np.maximum(x[:, known].sum(axis=1, keepdims=True), 1)
                size = visible / profile[:, known].sum(axis=1, keepdims=True)
                yield (
                    View(rows, x * shown, np.flatnonzero(shown), wanted, known, profile, size, mean, self.scale),
                    x[:, wanted],
                )


@dataclass(frozen=True)
class View:
    """What is visible of some spots while genes are hidden.

    Attributes
    ----------
    spots
        Spots (n_spots,).
    counts
        Counts (n_spots, n_genes), zero where hidden.
    shown, wanted
        Positions of the visible genes and of the genes to predict, which are hidden.
    known
        True for the genes that the size factor is of (n_genes,): the visible ones, or all where none is.
    profile
        Counts of each gene in the other spots, and a half (n_spots, n_genes).
    size
        Size factor (n_spots, 1): the null's rate is ``size * profile``.
    mean
        Mean of u over the other spots (n_spots, n_genes).
    scale
        Counts that spots are brought to in u.
    """

    spots: NDArray[np.int64]
    counts: NDArray[np.float64]
    shown: NDArray[np.int64]
    wanted: NDArray[np.int64]
    known: NDArray[np.bool_]
    profile: NDArray[np.float64]
    size: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: float

    @cached_property
    def null(self) -> NDArray[np.float64]:
        """Rates of the null model (n_spots, n_wanted)."""
        return self.size * self.profile[:, self.wanted]

    @cached_property
    def wanted_mean(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of u of the wanted genes over the other spots, and expm1 of it (n_spots, n_wanted)."""
        mean = self.mean[:, self.wanted]
        return mean, np.expm1(mean)

    @cached_property
    def depth(self) -> NDArray[np.float64]:
        """Counts that the spot is expected to have (n_spots, 1)."""
        depth: NDArray[np.float64] = self.size * self.profile.sum(axis=1, keepdims=True)
        return depth

    @cached_property
    def deviation(self) -> NDArray[np.float64]:
        """Values u less their mean over the other spots, of the visible genes (n_spots, n_shown)."""
        if not len(self.shown):
            return np.zeros((len(self.spots), 0))
        u = np.log1p(self.counts[:, self.shown] * (self.scale / self.depth))
        deviation: NDArray[np.float64] = u - self.mean[:, self.shown]
        return deviation


class Predictor(Protocol):
    """Gives the ratio of each wanted rate to the null's (n_spots, n_wanted)."""

    def __call__(self, view: View) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Neighborhood:
    """The profile of the neighbors, with `prior` spots of the section's profile added, over the section's."""

    section: SectionCounts
    prior: float

    def __call__(self, view: View) -> NDArray[np.float64]:
        section = self.section
        around = section.around[:, view.wanted][view.spots].toarray()
        around_totals = (section.neighbors[view.spots] @ section.totals)[:, None]
        weight = self.prior * (section.totals.sum() - section.totals[view.spots, None]) / max(section.n_spots - 1, 1)
        weight = np.maximum(weight, PROFILE_PRIOR)
        profile = view.profile[:, view.wanted] / view.profile.sum(axis=1, keepdims=True)
        ratio: NDArray[np.float64] = (around / profile + weight) / (around_totals + weight)
        return ratio


@dataclass(frozen=True)
class Profile:
    """Another corpus' profile (n_genes,) times the size factor; genes that it does not hold keep the section's."""

    profile: NDArray[np.float64]

    def __call__(self, view: View) -> NDArray[np.float64]:
        held = np.nan_to_num(self.profile) > 0
        share = np.where(held, self.profile, 0.0)
        of_section = view.profile / view.profile[:, held & view.known].sum(axis=1, keepdims=True)
        ratio = share[view.wanted] / share[held & view.known].sum() / of_section[:, view.wanted]
        kept: NDArray[np.float64] = np.where(held[view.wanted], ratio, 1.0)
        return kept


@dataclass(frozen=True)
class Components:
    """Principal components of u: scores are a ridge regression on the visible genes, about a prior mean.

    With L the loadings and d the deviations of the visible genes, noise of variance ``ridge`` in d and ``z ~ N(m, 1)``,

        z = (L L' + ridge)^-1 (L d + ridge m),    ratio = expm1(u_mean + L' z) / expm1(u_mean).

    Attributes
    ----------
    loadings
        Scaled so that scores have unit variance (n_components, n_genes).
    prior_mean
        m of every spot of the section (n_spots, n_components), read off its neighbors; zeros if left out.
    """

    loadings: NDArray[np.float64]
    ridge: float
    prior_mean: NDArray[np.float64] | None = None

    def __call__(self, view: View) -> NDArray[np.float64]:
        shown = self.loadings[:, view.shown]
        target = shown @ view.deviation.T
        if self.prior_mean is not None:
            target += self.ridge * self.prior_mean[view.spots].T
        scores = np.linalg.solve(shown @ shown.T + self.ridge * np.eye(len(shown)), target).T
        mean, mean_counts = view.wanted_mean
        reconstructed = np.maximum(mean + scores @ self.loadings[:, view.wanted], 0)
        ratio: NDArray[np.float64] = (np.expm1(reconstructed) + _FLOOR) / (mean_counts + _FLOOR)
        return ratio


def fit_components(
    counts: Sequence[sparse.csr_matrix], n_components: int = 20, scale: float = 1e4
) -> NDArray[np.float64]:
    """Return principal components of the deviations of sections from their own means, pooled over sections.

    Parameters
    ----------
    counts
        Raw counts of sections (n_spots, n_genes), of the same genes. A gene that a section did not measure is a column
        of zeros, which is no deviation.
    n_components
        Number of components; at most one less than there are spots or genes.
    scale
        Counts that spots are brought to.

    Returns
    -------
    Loadings (n_components, n_genes), scaled so that scores have unit variance, the largest component first.

    Raises
    ------
    ArgumentError
        No section, sections of different genes, or fewer than one component.

    Examples
    --------
    >>> import sagefm
    >>> donors = [sagefm.datasets.simulate(100, n_genes=200, rng=seed).X for seed in (0, 1)]
    >>> sagefm.metrics.fit_components(donors, 5).shape
    (5, 200)
    """
    from scipy.sparse.linalg import LinearOperator, svds

    if len({section.shape[1] for section in counts}) != 1:
        raise ArgumentError(f"counts has the shapes {[section.shape for section in counts]}; expected the same genes.")
    n_components = whole_number(n_components, name="n_components", minimum=1)
    values = [log_normalize(sparse.csr_matrix(section), scale).astype(np.float64) for section in counts]
    u = sparse.csr_matrix(sparse.vstack(values))
    n_spots = np.array([section.shape[0] for section in values])
    means = np.stack([np.asarray(section.mean(axis=0)).ravel() for section in values])
    owner = np.repeat(np.arange(len(values)), n_spots)
    member = sparse.csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    transposed = u.T.tocsr()
    # The means are taken off after the products: nothing is made dense.
    operator = LinearOperator(
        u.shape,
        matvec=lambda v: u @ v.ravel() - (means @ v.ravel())[owner],
        rmatvec=lambda v: transposed @ v.ravel() - means.T @ (member @ v.ravel()),
        dtype=np.float64,
    )
    n_components = min(n_components, min(u.shape) - 1)
    start = np.random.default_rng(0).normal(size=min(u.shape))
    _, values_of, loadings = svds(operator, k=n_components, v0=start)
    order = np.argsort(-values_of)
    scaled: NDArray[np.float64] = loadings[order] * (values_of[order] / np.sqrt(max(len(owner) - 1, 1)))[:, None]
    return scaled


def with_neighbors(
    components: Components, section: SectionCounts, train: NDArray[np.int64], penalty: float = 1.0
) -> Components:
    """Return components with the prior of each spot's scores from the mean scores of its neighbors.

    The regression of scores on the neighbors' is fitted on `train` and their neighbors among `train`.
    """
    loadings = components.loadings
    unit = np.eye(len(loadings))
    # The mean is of `train` alone: a spot that is predicted must not reach its neighbors' scores through it.
    mean = np.asarray(section.u[train].mean(axis=0)).ravel()
    deviation = section.u @ loadings.T - mean @ loadings.T
    scores = np.linalg.solve(loadings @ loadings.T + components.ridge * unit, deviation.T).T
    around = averaging(sparse.csr_matrix(section.neighbors[train][:, train]), with_center=False) @ scores[train]
    weights = np.linalg.solve(around.T @ around + penalty * unit, around.T @ scores[train])
    return replace(components, prior_mean=section.averaging @ scores @ weights)


@dataclass(frozen=True)
class FactorModel:
    """The rates of a Poisson factor model over those of its mean spot."""

    factors: Factors

    def __call__(self, view: View) -> NDArray[np.float64]:
        x = view.counts[:, view.shown].astype(np.float32)
        ratio = self.factors.ratio(x, view.depth.astype(np.float32), view.shown, view.wanted)
        return np.asarray(ratio, dtype=np.float64)


def fit_factor_model(section: SectionCounts, train: NDArray[np.int64], n_components: int, rng: int) -> FactorModel:
    """Fit a Poisson factor model on at most 1,000 of `train`."""
    if len(train) > _N_FACTOR_SPOTS:
        train = np.sort(np.random.default_rng(rng).choice(train, _N_FACTOR_SPOTS, replace=False))
    # So few spots are faster dense.
    return FactorModel(fit_factors(section.counts[train].toarray().astype(np.float32), n_components, rng))
