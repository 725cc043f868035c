"""Predictors of hidden genes that know no network.

Notation, for spot i of a section: x its visible counts; p_g the counts of gene g in the *other* spots, and a half; size
its size factor, so that the rate of the null model is ``size p_g``; u = log1p(10,000 x / total). A predictor returns
the ratio of its rates to those of the null model.

A :class:`View` holds zeros where a gene is hidden, and sums over the other spots: no predictor can read a hidden count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator, svds

from sagefm._arguments import shown, whole_number
from sagefm._constants import BLOCK_ROWS, PROFILE_PRIOR
from sagefm.data._counts import check_counts, log_normalize
from sagefm.errors import ArgumentError
from sagefm.module._factors import Factors, fit_factors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from sagefm.metrics._rows import PredictedRows

#: Counts that spots are brought to in u.
SCALE: Final = 1e4
#: Spots of the section's profile added to that of a neighborhood.
_PRIOR_SPOTS: Final = 10.0
#: Spots that the factor model is fitted on.
_N_FACTOR_SPOTS: Final = 1000
#: Normalized counts added to both sides of a ratio: where nothing is reconstructed it is exactly one.
_FLOOR: Final = 1e-6


class SectionCounts:
    """Counts (n_spots, n_genes) and neighbors (n_spots, n_spots) of a section, and sums that predictors share."""

    def __init__(self, counts: sparse.csr_matrix, neighbors: sparse.csr_matrix) -> None:
        self.counts, self.neighbors = sparse.csr_matrix(counts), sparse.csr_matrix(neighbors)
        self.n_spots = int(self.counts.shape[0])
        self.totals = np.asarray(self.counts.sum(axis=1, dtype=np.float64)).ravel()
        self.gene_totals = np.asarray(self.counts.sum(axis=0, dtype=np.float64)).ravel()
        self.u = log_normalize(self.counts, SCALE, np.maximum(self.totals, 1)).astype(np.float64)
        self.u_sum = np.asarray(self.u.sum(axis=0)).ravel()

    @cached_property
    def around(self) -> sparse.csc_matrix:
        """Counts of the neighbors, added up (n_spots, n_genes)."""
        return sparse.csc_matrix(self.neighbors.astype(np.float32) @ self.counts, dtype=np.float32)

    def views(
        self,
        spots: NDArray[np.int64],
        folds: NDArray[np.int64],
        n_hidden: int,
        block_rows: int = BLOCK_ROWS,
        genes: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[View, NDArray[np.float64]]]:
        """Yield what is visible of some spots, fold by fold, with the hidden counts to predict (n_spots, n_wanted).

        Fold k is predicted while folds k, k+1, ..., k+n_hidden-1 (cyclic) are hidden. Only `genes` (n_genes,) are
        predicted, if they are given; all are shown and hidden.
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
                yield View(rows, x * shown, np.flatnonzero(shown), wanted, profile, size, mean), x[:, wanted]


@dataclass(frozen=True)
class View:
    """What is visible of some spots while genes are hidden."""

    spots: NDArray[np.int64]
    #: (n_spots, n_genes), zero where hidden.
    counts: NDArray[np.float64]
    #: Positions of the visible genes, and of the hidden genes to predict.
    shown: NDArray[np.int64]
    wanted: NDArray[np.int64]
    #: Counts of each gene in the other spots, and a half (n_spots, n_genes).
    profile: NDArray[np.float64]
    #: Size factor (n_spots, 1).
    size: NDArray[np.float64]
    #: Mean of u over the other spots (n_spots, n_genes).
    mean: NDArray[np.float64]

    @cached_property
    def null(self) -> NDArray[np.float64]:
        """Rates of the null model (n_spots, n_wanted)."""
        return self.size * self.profile[:, self.wanted]

    @cached_property
    def depth(self) -> NDArray[np.float64]:
        """Expected total counts of a spot (n_spots, 1)."""
        depth: NDArray[np.float64] = self.size * self.profile.sum(axis=1, keepdims=True)
        return depth


#: Gives the ratio of each wanted rate to the null model's (n_spots, n_wanted).
Predictor: TypeAlias = Callable[[View], "NDArray[np.float64]"]


@dataclass(frozen=True)
class Neighborhood:
    """The profile of the neighbors, with ten spots of the section's profile added, over the section's."""

    section: SectionCounts

    def __call__(self, view: View) -> NDArray[np.float64]:
        section = self.section
        around = section.around[:, view.wanted][view.spots].toarray()
        around_totals = (section.neighbors[view.spots] @ section.totals)[:, None]
        mean_total = (section.totals.sum() - section.totals[view.spots, None]) / max(section.n_spots - 1, 1)
        weight = np.maximum(_PRIOR_SPOTS * mean_total, PROFILE_PRIOR)
        profile = view.profile[:, view.wanted] / view.profile.sum(axis=1, keepdims=True)
        return np.asarray((around / profile + weight) / (around_totals + weight))


@dataclass(frozen=True)
class Components:
    """Principal components of u: scores are a ridge regression on the visible genes.

    With L the loadings (n_components, n_genes), scaled so that scores have unit variance, and d the deviations of u from
    its mean over the other spots,

        z = (L L' + ridge)^-1 L d  over the visible genes,    ratio = expm1(u_mean + L' z) / expm1(u_mean).
    """

    loadings: NDArray[np.float64]
    ridge: float

    def scores(self, view: View) -> NDArray[np.float64]:
        """Return z (n_spots, n_components)."""
        shown = self.loadings[:, view.shown]
        deviation = np.log1p(view.counts[:, view.shown] * (SCALE / view.depth)) - view.mean[:, view.shown]
        precision = shown @ shown.T + self.ridge * np.eye(len(shown))
        return np.asarray(np.linalg.solve(precision, shown @ deviation.T).T, dtype=np.float64)

    def __call__(self, view: View) -> NDArray[np.float64]:
        mean = view.mean[:, view.wanted]
        reconstructed = np.maximum(mean + self.scores(view) @ self.loadings[:, view.wanted], 0)
        return np.asarray((np.expm1(reconstructed) + _FLOOR) / (np.expm1(mean) + _FLOOR))


@dataclass(frozen=True)
class FactorModel:
    """The rates of a Poisson factor model over those of its mean spot."""

    factors: Factors

    def __call__(self, view: View) -> NDArray[np.float64]:
        x = view.counts[:, view.shown].astype(np.float32)
        ratio = self.factors.ratio(x, view.depth.astype(np.float32), view.shown, view.wanted)
        return np.asarray(ratio, dtype=np.float64)


class Model:
    """Expected counts of a model over those of the null; `rows` and `columns` place the section in the table."""

    def __init__(self, predicted: PredictedRows, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        self.predicted, self.rows, self.columns = predicted, rows, columns
        self._spots = np.arange(0)

    def __call__(self, view: View) -> NDArray[np.float64]:
        # The folds of a block follow one another: its rows are read once.
        if view.spots is not self._spots:
            self._spots, self._rates = view.spots, self.predicted[self.rows[view.spots]][:, self.columns]
        return self._rates[:, view.wanted] / view.null


def fit_factor_model(section: SectionCounts, train: NDArray[np.int64], n_components: int, rng: int = 0) -> FactorModel:
    """Fit a Poisson factor model on at most 1,000 of the spots `train`."""
    if len(train) > _N_FACTOR_SPOTS:
        train = np.sort(np.random.default_rng(rng).choice(train, _N_FACTOR_SPOTS, replace=False))
    # So few spots are faster dense.
    return FactorModel(fit_factors(section.counts[train].toarray().astype(np.float32), n_components, rng))


def fit_components(counts: Sequence[sparse.csr_matrix], n_components: int = 20) -> NDArray[np.float64]:
    """Return principal components of the deviations of sections from their own means, pooled over sections.

    Counts are brought to 10,000 a spot and transformed by log1p.

    Parameters
    ----------
    counts
        Raw counts of sections (n_spots, n_genes), all of the same genes. A gene that a section did not measure is a
        column of zeros, which is no deviation.
    n_components
        Number of components; at most one less than the number of spots or genes.

    Returns
    -------
    Loadings (n_components, n_genes), scaled so that scores have unit variance, the largest component first.

    Raises
    ------
    ArgumentError
        No section, sections of different genes, or fewer than one component.
    CountsError
        Values that are not raw counts.

    Examples
    --------
    >>> import sagefm
    >>> donors = [sagefm.datasets.simulate(100, n_genes=200, rng=seed).X for seed in (0, 1)]
    >>> sagefm.metrics.fit_components(donors, 5).shape
    (5, 200)
    """
    if not isinstance(counts, Sequence) or not all(np.ndim(section) == 2 for section in counts):
        raise ArgumentError(f"counts is {shown(counts)}; expected a list of matrices (n_spots, n_genes).")
    if len({section.shape[1] for section in counts}) != 1:
        raise ArgumentError(f"counts has the shapes {[section.shape for section in counts]}; expected the same genes.")
    n_components = whole_number(n_components, name="n_components", minimum=1)
    sections = [sparse.csr_matrix(section) for section in counts]
    for section in sections:
        check_counts(section.data, where="counts")
    values = [log_normalize(section, SCALE).astype(np.float64) for section in sections]
    u = sparse.csr_matrix(sparse.vstack(values))
    if min(u.shape) < 2:
        raise ArgumentError(f"counts has {u.shape[0]} spots and {u.shape[1]} genes; expected at least two of each.")
    means = np.stack([np.asarray(section.mean(axis=0)).ravel() for section in values])
    is_of_section = sparse.block_diag([np.ones((section.shape[0], 1)) for section in values], format="csr")
    # The means are taken off after the products: nothing is made dense.
    deviations = aslinearoperator(u) - aslinearoperator(is_of_section) @ aslinearoperator(means)
    start = np.random.default_rng(0).normal(size=min(u.shape))
    _, sizes, loadings = svds(deviations, k=min(n_components, min(u.shape) - 1), v0=start)
    order = np.argsort(-sizes)
    scaled: NDArray[np.float64] = loadings[order] * (sizes[order] / np.sqrt(max(u.shape[0] - 1, 1)))[:, None]
    return scaled
