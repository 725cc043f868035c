"""The neighborhood of a spot: squidpy's nearest neighbors, stored, and the averaging operator."""

from __future__ import annotations

import hashlib
import logging
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sagefm._arguments import whole_number
from sagefm._constants import N_SPOTS, NEIGHBORS_KEY, SPATIAL_KEY
from sagefm.data._table import get_coordinates, get_libraries, library_column
from sagefm.errors import CoordinatesError, NeighborsError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

#: Distance of neighboring spots of Visium, and what is taken for such an array (ST: 200), in um.
VISIUM_PITCH, MIN_PITCH, MAX_PITCH = 100.0, 50.0, 250.0
#: Spots of the largest Visium array (11 mm).
MAX_SPOTS = 14_336

logger = logging.getLogger(__name__)


def nearest_neighbors(coordinates: NDArray[np.float64], n_neighbors: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the nearest spots of each spot of one library, ties broken by a rule.

    The 15 spots of a neighborhood cut the third ring of a hexagonal array, so that several spots
    often stand at the same distance for the last places, and a search tree's choice among them
    depends on the order of its input. Here spots at the same distance are taken by their second
    coordinate, then the first, then their position in the table (which only matters for duplicate
    coordinates): the neighborhood does not depend on the order of the spots.

    Parameters
    ----------
    coordinates
        Coordinates of the spots of one library (n_spots, 2).
    n_neighbors
        Neighbors of each spot, the spot itself left out.

    Returns
    -------
    Neighbors and their distances, nearest first, both (n_spots, n_neighbors).
    """
    n_spots = len(coordinates)
    # More candidates than neighbors: all that share the last neighbor's distance must be among them.
    n_candidates = min(n_neighbors + 10, n_spots - 1)
    rank = np.empty(n_spots, dtype=np.int64)
    rank[np.lexsort((np.arange(n_spots), coordinates[:, 0], coordinates[:, 1]))] = np.arange(n_spots)
    while True:
        candidates = _squidpy_neighbors(coordinates, n_candidates)
        offsets = coordinates[candidates] - coordinates[:, None]
        # Squares of whole pixels are exact, so that ties are ties; those of other units are rounded.
        squared = (offsets**2).sum(axis=2)
        farthest = squared.max(axis=1, keepdims=True)
        squared = np.round(squared / np.where(farthest > 0, farthest, 1), 9)
        order = np.lexsort((rank[candidates], squared), axis=1)
        ordered = np.take_along_axis(squared, order, axis=1)
        complete = n_candidates == n_spots - 1 or (ordered[:, n_neighbors - 1] < ordered[:, -1]).all()
        if complete:
            break
        n_candidates = min(2 * n_candidates, n_spots - 1)
    neighbors = np.take_along_axis(candidates, order[:, :n_neighbors], axis=1)
    distances = np.linalg.norm(coordinates[neighbors] - coordinates[:, None], axis=2)
    return neighbors, distances


def build_neighbors(
    table: AnnData,
    *,
    n_spots: int = N_SPOTS,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    key_added: str = NEIGHBORS_KEY,
) -> None:
    """Store each spot's nearest neighbors in ``obsp`` and ``uns``, in squidpy's shape.

    Parameters
    ----------
    table
        Table with coordinates.
    n_spots
        Spots of a neighborhood, the center included.
    spatial_key
        Coordinates in ``obsm``.
    library_key
        Column of ``obs`` that names the section: neighbors are of the same section.
    key_added
        Prefix of the entries that are written.

    Raises
    ------
    CoordinatesError
        Coordinates are not finite, or a library has fewer than `n_spots` spots.
    """
    n_spots = whole_number(n_spots, name="n_spots", minimum=2)
    coordinates = get_coordinates(table, spatial_key)
    libraries, names = get_libraries(table, library_key)
    sizes = np.bincount(libraries, minlength=len(names))
    small = [f"{names[i] or 'the section'} ({sizes[i]})" for i in np.flatnonzero(sizes < n_spots)]
    if small:
        raise CoordinatesError(
            f"A neighborhood has {n_spots} spots; fewer were found in {', '.join(small[:5])}. "
            f"Leave these libraries out, or take a smaller neighborhood: "
            f"sagefm.pp.spatial_neighbors(adata, n_spots={max(int(sizes.min()), 2)})"
        )
    n_neighbors = n_spots - 1
    neighbors = np.empty((table.n_obs, n_neighbors), dtype=np.int64)
    distances = np.empty((table.n_obs, n_neighbors))
    for code in range(len(names)):
        rows = np.flatnonzero(libraries == code)
        _warn_duplicates(coordinates[rows], names[code])
        found, distances[rows] = nearest_neighbors(coordinates[rows], n_neighbors)
        neighbors[rows] = rows[found]
        _warn_bins(table, names[code], float(np.median(distances[rows, 0])), len(rows))
    indptr = np.arange(0, neighbors.size + 1, n_neighbors)
    shape = (table.n_obs, table.n_obs)
    ones = np.ones(neighbors.size)
    table.obsp[f"{key_added}_connectivities"] = _sorted(sparse.csr_matrix((ones, neighbors.ravel(), indptr), shape))
    table.obsp[f"{key_added}_distances"] = _sorted(
        sparse.csr_matrix((distances.ravel(), neighbors.ravel(), indptr), shape)
    )
    table.uns[f"{key_added}_neighbors"] = {
        "connectivities_key": f"{key_added}_connectivities",
        "distances_key": f"{key_added}_distances",
        "params": {
            "n_neighbors": n_neighbors,
            "spatial_key": spatial_key,
            "library_key": library_column(table, library_key) or "",
            "ties": "distance, second coordinate, first coordinate, index",
            "fingerprint": _fingerprint(coordinates, libraries),
        },
    }


def get_neighbors(
    table: AnnData,
    *,
    neighbors_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
) -> sparse.csr_matrix:
    """Return the neighbors of each spot as a CSR pattern of ones (n_spots, n_spots), without the diagonal.

    Parameters
    ----------
    table
        Table with coordinates or a stored graph.
    neighbors_key
        A graph of the user's (``uns[f"{neighbors_key}_neighbors"]``, ``uns[neighbors_key]`` or
        ``obsp[f"{neighbors_key}_connectivities"]``), of which the edges are used and the weights are not.
        Left out: the 14 nearest spots, stored under ``sagefm`` and built anew if the coordinates have changed.
    spatial_key, library_key
        See :func:`build_neighbors`.

    Raises
    ------
    NeighborsError
        The graph does not exist, or joins spots of different libraries.
    """
    libraries, _ = get_libraries(table, library_key)
    if neighbors_key is None:
        fingerprint = _fingerprint(get_coordinates(table, spatial_key), libraries)
        stored = table.uns.get(f"{NEIGHBORS_KEY}_neighbors", {})
        usable = f"{NEIGHBORS_KEY}_connectivities" in table.obsp
        if not usable or stored.get("params", {}).get("fingerprint") != fingerprint:
            logger.info("Building the graph of %d-spot neighborhoods.", N_SPOTS)
            build_neighbors(table, spatial_key=spatial_key, library_key=library_key)
        connectivities = table.obsp[f"{NEIGHBORS_KEY}_connectivities"]
    else:
        connectivities = table.obsp[_connectivities_key(table, neighbors_key)]
    graph = _edges(connectivities)
    crossing = libraries[graph.indices] != np.repeat(libraries, np.diff(graph.indptr))
    if crossing.any():
        raise NeighborsError(
            f"The graph neighbors_key={neighbors_key!r} joins spots of different libraries ({int(crossing.sum())} edges). "
            f"Build it by library: squidpy.gr.spatial_neighbors_knn(adata, n_neighs=14, "
            f"library_key={library_column(table, library_key)!r})"
        )
    return graph


def averaging(neighbors: sparse.csr_matrix, *, with_center: bool) -> sparse.csr_matrix:
    """Return the operator that averages over neighbors, CSR float32 (n_spots, n_spots).

    Parameters
    ----------
    neighbors
        Pattern of ones (n_spots, n_spots), without the diagonal; row i has k_i entries.
    with_center
        Weights 1/(k_i + 1) on neighbors *and* diagonal (GCN normalisation of a complete graph with
        self-loops); otherwise weights 1/k_i on the neighbors alone. A spot without neighbors gives zeros.
    """
    k = np.diff(neighbors.indptr)
    weights = 1.0 / (k + 1) if with_center else 1.0 / np.maximum(k, 1)
    operator = sparse.diags_array(weights) @ neighbors
    if with_center:
        operator = operator + sparse.diags_array(weights)
    return sparse.csr_matrix(operator, dtype=np.float32)


@cache
def _squidpy() -> Any:
    """Import squidpy, once: sections of a corpus are read in a thread, and filters of warnings are those of all threads."""
    with warnings.catch_warnings():
        # squidpy 1.8: its docstring templates name parameters that they lack.
        warnings.simplefilter("ignore", SyntaxWarning)
        import squidpy
    return squidpy


def _squidpy_neighbors(coordinates: NDArray[np.float64], n_neighbors: int) -> NDArray[np.int64]:
    """Return the nearest spots as squidpy finds them (n_spots, n_neighbors)."""
    from anndata import AnnData

    table = AnnData(obs={}, shape=(len(coordinates), 0), obsm={SPATIAL_KEY: coordinates})
    # squidpy prints a line a call: hundreds for a corpus.
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        found = _squidpy().gr.spatial_neighbors_knn(table, spatial_key=SPATIAL_KEY, n_neighs=n_neighbors, copy=True)
    finally:
        logging.disable(before)
    graph = _edges(found.connectivities)
    counts = np.diff(graph.indptr)
    if not (counts == n_neighbors).all():
        raise NeighborsError(
            f"squidpy found {counts.min()} to {counts.max()} neighbors a spot; expected {n_neighbors}."
        )
    return np.asarray(graph.indices.reshape(len(coordinates), n_neighbors), dtype=np.int64)


def _connectivities_key(table: AnnData, key: str) -> str:
    for entry in (f"{key}_neighbors", key):
        if entry in table.uns and "connectivities_key" in table.uns[entry]:
            key = str(table.uns[entry]["connectivities_key"])
            break
    else:
        key = f"{key}_connectivities"
    if key not in table.obsp:
        raise NeighborsError(
            f"Found no graph adata.obsp[{key!r}], only {sorted(table.obsp.keys())}. "
            f"Build one: sagefm.pp.spatial_neighbors(adata), or squidpy.gr.spatial_neighbors_knn(adata, n_neighs=14)"
        )
    return key


def _edges(graph: Any) -> sparse.csr_matrix:
    """Return the edges of a graph as ones, without the diagonal, on which squidpy stores explicit zeros."""
    edges = sparse.coo_matrix(graph)
    keep = (edges.row != edges.col) & (edges.data != 0)
    ones = np.ones(int(keep.sum()), dtype=np.float32)
    return sparse.csr_matrix((ones, (edges.row[keep], edges.col[keep])), shape=edges.shape)


def _warn_duplicates(coordinates: NDArray[np.float64], name: str) -> None:
    n_unique = len(np.unique(coordinates, axis=0))
    if n_unique < len(coordinates):
        warnings.warn(
            f"{len(coordinates) - n_unique} spots{f' of {name}' if name else ''} have the coordinates of another spot; "
            f"neighbors at the same distance are taken in the order of the table. "
            f"Several sections in one table? Pass library_key=...",
            UserWarning,
            stacklevel=3,
        )


def _warn_bins(table: AnnData, name: str, pitch: float, n_spots: int) -> None:
    """Warn where the spots of a library are far closer together, or farther apart, than those of Visium."""
    spatial = table.uns.get("spatial", {})
    library = spatial.get(name) or (next(iter(spatial.values())) if len(spatial) == 1 else {})
    scale = library.get("scalefactors", {})
    if "microns_per_pixel" in scale:
        micrometers = pitch * float(scale["microns_per_pixel"])
        is_far = not MIN_PITCH <= micrometers <= MAX_PITCH
        found, width = f"spots are {micrometers:.3g} um apart", f"{pitch * VISIUM_PITCH / micrometers:.4g}"
    elif "bin_size_um" in scale:
        micrometers = float(scale["bin_size_um"])
        is_far = not MIN_PITCH <= micrometers <= MAX_PITCH
        found, width = f"bins of {micrometers:.3g} um", f"{pitch * VISIUM_PITCH / micrometers:.4g}"
    else:
        is_far = n_spots > MAX_SPOTS
        found, width = f"{n_spots:,} spots, where a Visium section has at most {MAX_SPOTS:,}", "..."
    if is_far:
        warnings.warn(
            f"Found {found}{f' in {name}' if name else ''}; the neighborhood of {N_SPOTS} spots stands for spots 100 um "
            f"apart (Visium). Small bins can be added up: sagefm.pp.aggregate_bins(adata, width={width}), with the "
            f"width of 100 um in the unit of the coordinates.",
            UserWarning,
            stacklevel=3,
        )


def _sorted(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    matrix.sort_indices()
    return matrix


def _fingerprint(coordinates: NDArray[np.float64], libraries: NDArray[np.int64]) -> str:
    """Tell whether a stored graph is of these coordinates and libraries, in this order."""
    digest = hashlib.sha256(np.ascontiguousarray(coordinates).tobytes())
    digest.update(libraries.tobytes())
    return digest.hexdigest()[:16]
