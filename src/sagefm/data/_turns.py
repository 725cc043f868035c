"""Tissue that is turned and mirrored: patterns stay, and what relates neighbors is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The turns and mirror images of a square.
TURNS: Final = tuple(np.array(m) for m in (
    [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]],
    [[1, 0], [0, -1]], [[-1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1], [-1, 0]],
))  # fmt: skip


def turned_spots(coordinates: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the spot that each turn and mirror image brings nearest to each spot, and how near, both (7, n_spots).

    The bounding box is stretched to a square, which its turns cover; distances are in those of nearest spots (median).
    """
    corner, extent = coordinates.min(axis=0), np.ptp(coordinates, axis=0)
    square = (coordinates - corner) / np.where(extent > 0, extent, 1) - 0.5
    tree = cKDTree(square)
    distances, spots = np.array([tree.query(square @ matrix) for matrix in TURNS]).transpose(1, 0, 2)
    return spots.astype(np.int64), distances / np.median(tree.query(square, 2)[0][:, 1])


def overlapping_turns(
    coordinates: NDArray[np.float64], min_overlap: float = 0.6
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the turns after which at least `min_overlap` of the spots fall on tissue: these, and the spots on each."""
    turned = [(np.flatnonzero(near < 2), moved) for moved, near in zip(*turned_spots(coordinates), strict=True)]
    return [(spots, moved[spots]) for spots, moved in turned if len(spots) >= min_overlap * len(coordinates)]
