"""Predictors of a hidden gene at a spot, each a log rate ratio to the null model.

The null model is the section's profile times the depth of the spot: its log ratio is 0. Notation, for spot i and hidden
gene g: x the counts, s_i the expected counts of a gene with a total of one, p_g the gene's expected total, from the
spots that may be read. Each predictor is fitted to the counts of hidden genes at spots that may be read, and then reads
of a spot what is visible there. A spot's own counts are never read: where they were in the fit, they are taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from sagefm.module._factors import project_genes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sagefm.inference._visible import Visible

    Floats = NDArray[np.float32]

#: Prior precision of the ridge's weights.
PRECISION: Final = 30.0
#: Bound on the ridge's log rate ratio, below.
_LEAST: Final = -3.0
#: Expected counts that the neighbors' rate is shrunk by.
STRENGTH: Final = 30.0
#: Spots that rates of profiles are fitted on.
N_RATE_SPOTS: Final = 1280
#: Part of a spot's prediction that is others' where its own count is taken out, at least.
_LEAST_OTHERS: Final = 0.2


class Hidden(NamedTuple):
    """Counts of hidden genes that predictors are fitted to.

    Attributes
    ----------
    genes
        Position of each gene in the section (n_genes,).
    counts
        Counts at the sampled spots (n_sample, n_genes).
    others
        Sampled spots that may be read (n_sample,).
    readable
        The same for predictors that take out a spot's own counts (n_sample,).
    total
        p, from `others` (n_genes,).
    """

    genes: NDArray[np.int64]
    counts: Floats
    others: NDArray[np.bool_]
    readable: NDArray[np.bool_]
    total: Floats

    @classmethod
    def of(
        cls,
        genes: NDArray[np.int64],
        counts: Floats,
        others: NDArray[np.bool_],
        readable: NDArray[np.bool_],
        sizes: Floats,
    ) -> Hidden:
        """Return hidden counts, with their totals; `sizes` are s of the sampled spots."""
        sums = counts[others].sum(axis=0, dtype=np.float64)
        total = (sums + 0.5) / max(float(sizes[others].sum(dtype=np.float64)), 1e-6) if others.any() else sums + 0.5
        return cls(genes, counts, others, readable, total.astype(np.float32))


class Spots(NamedTuple):
    """Spots at which hidden genes are predicted.

    `rows` are their positions (n_rows,), `counts` their own counts of the genes (n_rows, n_genes), of which a predictor
    only takes out what it has read, and `around` the sums over their neighbors (n_rows, n_genes), with the sums of the
    neighbors' sizes (n_rows, 1); None where neighbors are not read.
    """

    rows: NDArray[np.int64]
    counts: Floats
    around: Floats | None = None
    around_sizes: Floats | None = None


class Fitted(Protocol):
    """A predictor of some genes."""

    def log_ratio(self, spots: Spots) -> Floats:
        """Return log rate ratios (n_rows, n_genes)."""


class Predictor(Protocol):
    """A predictor that is to be fitted."""

    def fit(self, hidden: Hidden) -> Fitted:
        """Return the predictor of the genes whose counts these are."""


@dataclass(frozen=True)
class Network:
    """The network as it was trained: ``F_g z_i + f_g``, z the embedding of what is visible of spot and neighborhood."""

    decode: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]

    def fit(self, hidden: Hidden) -> FittedNetwork:
        """Return the network's read-out of these genes: nothing is fitted to the section."""
        return FittedNetwork(self.decode, hidden.genes)


@dataclass(frozen=True)
class FittedNetwork:
    """The read-out of some genes; see :class:`Network`."""

    decode: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]
    genes: NDArray[np.int64]

    def log_ratio(self, spots: Spots) -> Floats:
        """Return ``F_g z_i + f_g``."""
        return self.decode(spots.rows, self.genes)


@dataclass(frozen=True)
class FactorModel:
    """A Poisson factor model: ``log (w_i h_g) - log (w0_i h_g)``.

    w_i are the weights of the profiles of the visible genes at a spot, w0_i those of the mean spot at its depth, and h_g
    the gene's rates in these profiles, projected from its counts at other spots (:mod:`sagefm.module._factors`).
    """

    visible: Visible
    sample: NDArray[np.int64]

    def fit(self, hidden: Hidden) -> FittedFactorModel:
        """Return the model with the rates of the hidden genes."""
        weights = self.visible.weights
        if weights is None:
            raise ValueError("No factor model was fitted to the visible genes.")
        rows = np.flatnonzero(hidden.others)[:N_RATE_SPOTS]
        rates = project_genes(weights[self.sample[rows]], hidden.counts[rows], hidden.total)
        return FittedFactorModel(self.visible, rates)


@dataclass(frozen=True)
class FittedFactorModel:
    """The rates of some genes (n_profiles, n_genes); see :class:`FactorModel`."""

    visible: Visible
    rates: Floats

    def log_ratio(self, spots: Spots) -> Floats:
        """Return ``log (w_i h_g) - log (w0_i h_g)``."""
        weights: Any = self.visible.weights
        mean_weights: Any = self.visible.mean_weights
        ratio = (weights[spots.rows] @ self.rates) / (mean_weights[spots.rows] @ self.rates)
        return np.log(ratio, out=ratio)


class Ridge:
    """Ridge regression on the features y of the visible genes, leave-one-out.

    With D the mean of y y^T weighted by s (diagonal), S the sum of s over the spots j that may be read,

        b_g = (p_g S D + lambda)^-1 sum_j y_j (x_jg - p_g s_j),    f = b_g y_i without j = i

    and the log ratio is log(1 + f) above 0, f below: a first step is linear, and taken as an exponent it would overshoot
    where a gene rises several times. Leaving i out is exact in the sum; its part in D is known without its counts.
    """

    def __init__(self, visible: Visible, sample: NDArray[np.int64]) -> None:
        self.visible, self.sample = visible, sample
        self._last: Any = (None, None, None)

    def fit(self, hidden: Hidden) -> FittedRidge:
        """Return the weights of the hidden genes."""
        rows = self.sample[hidden.readable]
        # In float64: what a spot's own count has added is taken out again.
        y, sizes = self.visible.features[rows].astype(np.float64), self.visible.sizes[rows].astype(np.float64)
        counts, readable, product = self._last
        # Fits for several parts differ in p alone.
        if counts is not hidden.counts or readable is not hidden.readable:
            product = y.T @ hidden.counts[hidden.readable]
            self._last = (hidden.counts, hidden.readable, product)
        shrunk = 1 / (hidden.total * (self.visible.variances[:, None] * sizes.sum()) + PRECISION)
        is_read = np.zeros(len(self.visible.sizes), dtype=bool)
        is_read[rows] = True
        weights = shrunk * (product - np.outer(sizes @ y, hidden.total))
        return FittedRidge(self.visible, shrunk, weights, hidden.total, is_read)


@dataclass(frozen=True)
class FittedRidge:
    """Weights of some genes (n_features, n_genes); see :class:`Ridge`."""

    visible: Visible
    shrunk: NDArray[np.float64]
    weights: NDArray[np.float64]
    total: Floats
    is_read: NDArray[np.bool_]

    def log_ratio(self, spots: Spots) -> Floats:
        """Return log(1 + f) above 0, f below."""
        y, sizes = self.visible.features[spots.rows].astype(np.float64), self.visible.sizes[spots.rows, None]
        f = y @ self.weights
        own = self.is_read[spots.rows]
        if own.any():
            leverage = (y[own] ** 2) @ self.shrunk
            expected = sizes[own] * self.total
            f[own] -= leverage * (spots.counts[own] - expected)
            f[own] /= (1 - leverage * expected).clip(_LEAST_OTHERS)
        return np.where(f > 0, np.log1p(f.clip(0)), f.clip(_LEAST)).astype(np.float32)


@dataclass(frozen=True)
class Neighbors:
    """The gene's own counts at the neighbors, shrunk to the profile by 30 expected counts.

    ``log [(sum_j x_jg + 30) / (p_g sum_j s_j + 30)]`` over the neighbors j: kriging with a covariance that ends at the
    neighborhood.
    """

    def fit(self, hidden: Hidden) -> FittedNeighbors:
        """Return the predictor of the hidden genes."""
        return FittedNeighbors(hidden.total)


@dataclass(frozen=True)
class FittedNeighbors:
    """Totals of some genes (n_genes,); see :class:`Neighbors`."""

    total: Floats

    def log_ratio(self, spots: Spots) -> Floats:
        """Return the logarithm of the neighbors' shrunk rate over that of the profile."""
        if spots.around is None or spots.around_sizes is None:
            return np.zeros_like(spots.counts)
        ratio = (spots.around + STRENGTH) / (spots.around_sizes * self.total + STRENGTH)
        return np.asarray(np.log(ratio, out=ratio), dtype=np.float32)
