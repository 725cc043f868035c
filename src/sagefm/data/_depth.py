"""What a section's profile gives at the depth of each spot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import sparse

from sagefm._constants import ANSCOMBE

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Ratio of neighboring depths: cubic interpolation is then exact to float32.
_RATIO: Final = 1.1


def expected_roots(sizes: NDArray[np.floating], profile: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return what :func:`~sagefm.data._counts.root` gives for the expected counts of spots (n_spots, n_genes).

    Parameters
    ----------
    sizes
        Counts of each spot (n_spots,).
    profile
        Share of each gene in the counts (n_genes,).
    """
    rates = np.multiply.outer(np.asarray(sizes, np.float32), np.asarray(profile, np.float32))
    roots: NDArray[np.float32] = np.sqrt(4 * rates + np.float32(ANSCOMBE)) - np.float32(ANSCOMBE**0.5)
    return roots


def depth_grid(sizes: NDArray[np.floating]) -> tuple[sparse.csr_matrix, NDArray[np.floating]]:
    """Return weights (n_spots, n_depths) and depths (n_depths,) between which a function of depth is interpolated.

    A function of depth alone, such as the product of :func:`expected_roots` with weights, is computed at some tens of
    depths and not at each spot: ``weights @ function(depths)``, by a cubic in the logarithm of depth.
    """
    position = np.log(np.maximum(np.asarray(sizes, np.float64), 1)) / np.log(_RATIO)
    first = int(np.floor(position.min())) - 1
    cell = np.floor(position).astype(np.int64)
    t = position - cell
    # Lagrange's cubic through the depths at -1, 0, 1 and 2.
    weights = np.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ]
    )
    columns = cell[:, None] - first + np.arange(-1, 3)
    n_depths = int(columns.max()) + 1
    indptr = np.arange(0, columns.size + 1, 4)
    matrix = sparse.csr_matrix(
        (weights.T.ravel().astype(np.float32), columns.ravel(), indptr), shape=(len(position), n_depths)
    )
    return matrix, np.exp(np.log(_RATIO) * np.arange(first, first + n_depths, dtype=np.float64))
