"""Predictors stacked by what they are worth on the section.

The log rate ratio is ``sum_p w_bp L_p``, with L_p that of predictor p and weights ``w >= 0`` for each bin b of expression,
which maximize the Poisson likelihood of hidden counts that no predictor has read. A predictor that does not help has the
weight 0, and if none does, the null model is left.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import nnls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

#: Mean counts of a spot that separate the bins.
EDGES: Final = (0.1, 0.3, 1.0, 3.0)
#: Genes of each bin that weights are fitted on, and the least mean counts of a spot that these have.
_GENES_PER_BIN: Final = 100
_LEAST_MEAN: Final = 0.02
#: Prior mean of the weights of all genes, 0 for other predictors, and its precision, in expected counts times squared
#: log ratios; and the precision of the weights of a bin around the former. A section of hundreds of spots has thousands.
_PRIOR: Final = {"network": 0.7, "factors": 0.2, "ridge": 0.2}
_PRECISION: Final = 20.0
_BIN_PRECISION: Final = 20.0
_N_STEPS: Final = 4
#: Bound of the log ratio while weights are fitted.
_BOUND: Final = 5.0


def bin_names() -> list[str]:
    """Return the bins as text, in mean counts of a spot."""
    return [f"< {EDGES[0]:g}", *(f"{low:g} - {high:g}" for low, high in pairwise(EDGES)), f"> {EDGES[-1]:g}"]


def bins(means: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the bin of each gene by its mean counts of a spot."""
    return np.asarray(np.searchsorted(EDGES, means, side="right"))


def genes_to_fit(means: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return genes that weights are fitted on: of each bin at most 100, evenly spaced by their mean counts of a spot."""
    order = np.argsort(means, kind="stable")
    order = order[means[order] >= _LEAST_MEAN]
    genes = [np.zeros(0, dtype=np.int64)]
    for b in range(len(EDGES) + 1):
        members = order[bins(means[order]) == b]
        places = np.linspace(0, len(members) - 1, min(len(members), _GENES_PER_BIN)).round().astype(int)
        genes.append(members[places])
    return np.concatenate(genes)


def prior_weights(names: Iterable[str]) -> NDArray[np.float64]:
    """Return the weights of predictors before anything is known of a section (n_bins, n_predictors)."""
    return np.tile([_PRIOR.get(name, 0.0) for name in names], (len(EDGES) + 1, 1))


def fit_weights(
    log_ratios: Mapping[str, NDArray[np.floating]],
    counts: NDArray[np.floating],
    null: NDArray[np.floating],
    bin_of: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the weight of each predictor in each bin (n_bins, n_predictors).

    `log_ratios` are those of the predictors, by name, `counts` the hidden counts and `null` the rates of the null model, each
    (n_spots, n_genes); `bin_of` is the bin of each gene.
    """
    stacked = np.stack(list(log_ratios.values()), axis=-1).astype(np.float64)
    weights = prior_weights(log_ratios)
    pooled = _maximize(stacked, counts, null, weights[0], _PRECISION)
    weights[:] = pooled
    for b in np.unique(bin_of):
        own = bin_of == b
        weights[b] = _maximize(stacked[:, own], counts[:, own], null[:, own], pooled, _BIN_PRECISION)
    return weights


def _maximize(
    stacked: NDArray[np.float64],
    counts: NDArray[np.floating],
    null: NDArray[np.floating],
    prior: NDArray[np.float64],
    precision: float,
) -> NDArray[np.float64]:
    """Return weights of largest posterior density: Newton's steps, each a least-squares problem with weights >= 0."""
    design = stacked.reshape(-1, stacked.shape[-1])
    x, base = counts.ravel().astype(np.float64), null.ravel().astype(np.float64)
    weights = prior
    for _ in range(_N_STEPS):
        rates = base * np.exp((design @ weights).clip(-_BOUND, _BOUND))
        curvature = design.T @ (design * rates[:, None]) + precision * np.eye(len(prior))
        target = curvature @ weights + design.T @ (x - rates) + precision * (prior - weights)
        factor = np.linalg.cholesky(curvature)
        weights = nnls(factor.T, np.linalg.solve(factor, target))[0]
    return weights
