"""The array of a simulated section: places of its spots, their neighbors, domains, and smooth fields."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from sagefm._constants import N_SPOTS

#: um between neighboring spots of a Visium array.
PITCH = 100.0
#: Waves that are added up to a field.
_N_WAVES = 256


def lattice(n_spots: int) -> NDArray[np.int64]:
    """Return the places of a roughly square section, row by row: array row, array column (n_spots, 2).

    As on a Visium array, columns count half a pitch and even rows hold even columns.
    """
    width = round(math.sqrt(n_spots * math.sqrt(3.0) / 2))
    row, place = np.divmod(np.arange(n_spots), width)
    return np.column_stack([row, 2 * place + row % 2])


def nearest(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the 14 nearest spots of each spot, of equal ones the first (n_spots, 14).

    Squared distances are whole numbers in units of half a pitch, so that ties are exact. The fourteenth
    neighbor's distance ends well before the 32nd candidate on this lattice, on edges and corners too.
    """
    scaled = array * np.array([math.sqrt(3.0), 1.0])
    _, candidates = cKDTree(scaled).query(scaled, k=min(len(array), 32))
    squared = ((array[candidates] - array[:, None]) ** 2 * np.array([3, 1])).sum(axis=2)
    order = np.lexsort((candidates, squared), axis=1)[:, 1:N_SPOTS]  # the first is the spot itself
    return np.take_along_axis(candidates, order, axis=1)


def grow_domains(coordinates: NDArray[np.float64], n_domains: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return contiguous domains, 0 to n_domains - 1 (n_spots,).

    Seeds are drawn and spread by a few steps of k-means. Each spot takes the domain of the seed with the shortest path
    along the lattice, where every step has a random length. All spots on that path have the same seed, so no domain
    falls apart.
    """
    n_spots = len(coordinates)
    drawn = coordinates[rng.choice(n_spots, n_domains, replace=False)]
    centers, cell = kmeans2(coordinates, drawn, iter=5, minit="matrix", missing="raise")
    off_center = np.linalg.norm(coordinates - centers[cell], axis=1)
    order = np.lexsort((off_center, cell))
    # Of each cell, in order, the spot nearest its center; a domain has the number of its seed's cell.
    seeds = order[np.searchsorted(cell[order], np.arange(n_domains))]
    steps = cKDTree(coordinates).query_pairs(1.01 * PITCH, output_type="ndarray")
    lengths = rng.uniform(0.5, 1.5, len(steps))
    graph = sparse.csr_matrix((lengths, (steps[:, 0], steps[:, 1])), shape=(n_spots, n_spots))
    _, _, nearest = dijkstra(graph, directed=False, indices=seeds, return_predecessors=True, min_only=True)
    return cell[nearest]


def smooth_fields(
    coordinates: NDArray[np.float64], n_fields: int, length: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    r"""Return independent Gaussian fields with correlation :math:`\exp(-(\text{distance}/\text{length})^2)`.

    Each is a sum of waves of random direction, frequency and phase, and has mean 0 and variance 1 over the spots
    (n_spots, n_fields).
    """
    fields = np.empty((len(coordinates), n_fields))
    for field in fields.T:
        waves = rng.normal(0.0, math.sqrt(2.0) / length, (2, _N_WAVES))
        field[:] = np.cos(coordinates @ waves + rng.uniform(0.0, 2 * math.pi, _N_WAVES)).sum(axis=1)
    return (fields - fields.mean(axis=0)) / fields.std(axis=0)


def neighbor_mixing(array: NDArray[np.int64], share: float) -> sparse.csr_matrix:
    """Return the operator that takes `share` of a spot from the 6 nearest ones, CSR (n_spots, n_spots)."""
    near = nearest(array)[:, :6]
    rows = np.repeat(np.arange(len(array)), near.shape[1])
    others = sparse.csr_matrix(
        (np.full(near.size, share / near.shape[1]), (rows, near.ravel())), shape=(len(array),) * 2
    )
    return sparse.csr_matrix(others + (1 - share) * sparse.eye_array(len(array)))
