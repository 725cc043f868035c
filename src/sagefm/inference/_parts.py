"""Parts of the spots of a section: what predicts a part is fitted to hidden counts of other spots alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

#: Random parts, and tiles on a side.
N_PARTS: Final = 5
_N_SIDE: Final = 3
#: Spots that models of the section are fitted on, where there are more; and of these, the ones that have all of their
#: neighbors among them.
_MAX_SAMPLE: Final = 4096
_N_CENTERS: Final = 400


@dataclass(frozen=True)
class Parts:
    """A partition of the spots.

    Attributes
    ----------
    part
        Part of each spot (n_spots,).
    readable
        Spots whose hidden counts may be read to predict a part (n_parts, n_spots).
    """

    part: NDArray[np.int64]
    readable: NDArray[np.bool_]

    @property
    def n_parts(self) -> int:
        """Number of parts."""
        return len(self.readable)


def random_parts(names: pd.Index, rng: int) -> Parts:
    """Return parts drawn from the names of the spots; a part's own hidden counts are not read."""
    part = (_draw(names, rng) % N_PARTS).astype(np.int64)
    return Parts(part, part != np.arange(N_PARTS)[:, None])


def tiles(coordinates: NDArray[np.float64], neighbors: sparse.csr_matrix) -> Parts:
    """Return three by three tiles of equal numbers of spots; neither a tile nor its spots' neighbors are read."""
    x, y = coordinates[:, 0], coordinates[:, 1]
    column = _thirds(np.lexsort((y, x)))
    part = np.empty(len(x), dtype=np.int64)
    for i in range(_N_SIDE):
        rows = np.flatnonzero(column == i)
        part[rows] = i * _N_SIDE + _thirds(np.lexsort((x[rows], y[rows])))
    is_part = part == np.arange(_N_SIDE**2)[:, None]
    return Parts(part, ~is_part & ((is_part @ neighbors) == 0))


def draw_sample(names: pd.Index, neighbors: sparse.csr_matrix, rng: int) -> NDArray[np.int64]:
    """Return the spots that a section is fitted on, drawn from their names, in random order.

    They are all spots, or of more than 4,096 some with their neighbors; those with all of their neighbors come first.
    """
    order = np.argsort(_draw(names, rng + 1), kind="stable")
    if len(order) <= _MAX_SAMPLE:
        return order
    centers = order[:_N_CENTERS]
    is_sampled = np.zeros(len(order), dtype=bool)
    is_sampled[neighbors[centers].indices] = True
    is_sampled[centers] = False
    return np.concatenate([centers, order[is_sampled[order]]])


def _draw(names: pd.Index, rng: int) -> NDArray[np.uint64]:
    """Return a random number for each name (n_spots,): the order of the spots does not matter."""
    return pd.util.hash_array(names.to_numpy(dtype=object), hash_key=f"{rng:016d}"[-16:])


def _thirds(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the third of an order that each item is in (n_items,)."""
    thirds = np.empty(len(order), dtype=np.int64)
    thirds[order] = np.arange(len(order)) * _N_SIDE // max(len(order), 1)
    return thirds
