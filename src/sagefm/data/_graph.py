"""The neighborhood of a spot: its nearest neighbors, stored as squidpy stores them, and the averaging operator."""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from sagefm._arguments import whole_number
from sagefm._constants import N_SPOTS, NEIGHBORS_KEY
from sagefm.data._check_places import find_odd_places
from sagefm.data._check_sections import find_background, find_joined
from sagefm.data._findings import Finding, tell
from sagefm.data._table import entry, find_spots, library_column
from sagefm.errors import CoordinatesError, NeighborsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from sagefm.data._table import Spots, TableKeys

logger = logging.getLogger(__name__)


def nearest_neighbors(coordinates: NDArray[np.float64], n_neighbors: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the nearest other spots of each spot of one library, and their distances, both (n_spots, n_neighbors).

    The 15 spots of a neighborhood cut the third ring of a hexagonal array: several spots are often at the same distance
    for the last places, and a search tree's choice among them depends on the order of its input. Here spots at the same
    distance are taken by their second coordinate, then the first, then their position in the table (which only matters
    for duplicate coordinates), so that the neighborhood does not depend on the order of the spots.
    """
    # Of many spots at one place (a placeholder, say) only the first can be anybody's neighbors. Without the others,
    # few spots share a distance, and a search among them stays small.
    place = np.unique(coordinates, axis=0, return_inverse=True)[1].ravel()
    by_place = np.argsort(place, kind="stable")
    first = np.searchsorted(place[by_place], place)
    order_at_place = np.empty(len(place), dtype=np.int64)
    order_at_place[by_place] = np.arange(len(place)) - first[by_place]
    is_near = order_at_place <= n_neighbors
    near, crowded = np.flatnonzero(is_near), np.flatnonzero(~is_near)

    neighbors = np.empty((len(place), n_neighbors), dtype=np.int64)
    neighbors[near] = near[_nearest(coordinates[near], n_neighbors)]
    neighbors[crowded] = by_place[first[crowded, None] + np.arange(n_neighbors)]
    distances = np.linalg.norm(coordinates[neighbors] - coordinates[:, None], axis=2)
    return neighbors, distances


def _nearest(coordinates: NDArray[np.float64], n_neighbors: int) -> NDArray[np.int64]:
    """Return the nearest spots of each spot (n_spots, n_neighbors), of which few are at one place."""
    n_spots = len(coordinates)
    # More candidates than neighbors: all that share the last neighbor's distance must be among them.
    n_candidates = min(n_neighbors + 10, n_spots - 1)
    rank = np.empty(n_spots, dtype=np.int64)
    rank[np.lexsort((np.arange(n_spots), coordinates[:, 0], coordinates[:, 1]))] = np.arange(n_spots)
    while True:
        candidates = _candidates(coordinates, n_candidates)
        offsets = coordinates[candidates] - coordinates[:, None]
        # Squares of whole pixels are exact, so that ties are ties; those of other units are rounded.
        squared = (offsets**2).sum(axis=2)
        farthest = squared.max(axis=1, keepdims=True)
        squared = np.round(squared / np.where(farthest > 0, farthest, 1), 9)
        order = np.lexsort((rank[candidates], squared), axis=1)
        ordered = np.take_along_axis(squared, order, axis=1)
        if n_candidates == n_spots - 1 or (ordered[:, n_neighbors - 1] < ordered[:, -1]).all():
            return np.take_along_axis(candidates, order[:, :n_neighbors], axis=1)
        n_candidates = min(2 * n_candidates, n_spots - 1)


def _candidates(coordinates: NDArray[np.float64], n_candidates: int) -> NDArray[np.int64]:
    """Return nearest other spots of each spot, in any order among ties (n_spots, n_candidates)."""
    # Importing squidpy, which searches a tree as well, would take longer than a first embedding without it.
    _, nearest = cKDTree(coordinates).query(coordinates, k=n_candidates + 1)
    is_other = nearest != np.arange(len(coordinates))[:, None]
    # Of more spots at one place, the spot itself may not be among them.
    is_other[is_other.all(axis=1), -1] = False
    return np.asarray(nearest[is_other].reshape(len(coordinates), n_candidates), dtype=np.int64)


def build_neighbors(
    table: AnnData, keys: TableKeys, spots: Spots, *, n_spots: int = N_SPOTS, key_added: str = NEIGHBORS_KEY
) -> None:
    """Store the neighborhoods of `n_spots` spots in ``obsp`` and ``uns``, in squidpy's shape.

    Coordinates that the table did not have are stored with them. On an error, nothing is written.
    """
    n_spots = whole_number(n_spots, name="n_spots", minimum=2)
    tell(check_places(table, keys, spots, n_spots=n_spots), stacklevel=3)
    n_neighbors = n_spots - 1
    neighbors = np.empty((table.n_obs, n_neighbors), dtype=np.int64)
    distances = np.empty((table.n_obs, n_neighbors))
    for code in range(len(spots.names)):
        rows = np.flatnonzero(spots.libraries == code)
        nearest, distances[rows] = nearest_neighbors(spots.coordinates[rows], n_neighbors)
        neighbors[rows] = rows[nearest]
    table.obsm.setdefault(keys.spatial_key, spots.coordinates)
    table.obsp[f"{key_added}_connectivities"] = _as_graph(np.ones(neighbors.size), neighbors)
    table.obsp[f"{key_added}_distances"] = _as_graph(distances.ravel(), neighbors)
    table.uns[f"{key_added}_neighbors"] = {
        "connectivities_key": f"{key_added}_connectivities",
        "distances_key": f"{key_added}_distances",
        "params": {
            "n_neighbors": n_neighbors,
            "spatial_key": keys.spatial_key,
            "library_key": keys.library_key or "",
            "ties": "distance, second coordinate, first coordinate, index",
            "fingerprint": _fingerprint(spots),
        },
    }


def _small_libraries(keys: TableKeys, spots: Spots, n_spots: int) -> Iterator[Finding]:
    """Yield a finding where libraries have fewer spots than a neighborhood."""
    sizes = np.bincount(spots.libraries, minlength=len(spots.names))
    small = [f"{spots.names[i] or 'the section'} ({sizes[i]})" for i in np.flatnonzero(sizes < n_spots)]
    if not small:
        return
    library = "" if keys.library_key is None else f", library_key={keys.library_key!r}"
    smaller = f"sagefm.pp.spatial_neighbors(adata, n_spots={int(sizes.min())}{library})"
    message = f"A neighborhood has {n_spots} spots; fewer were found in {', '.join(small[:5])}. "
    repair = ""
    if sizes.max() >= n_spots:
        column = f"adata.obs[{keys.library_key!r}]"
        message += f"Take a smaller neighborhood, {smaller}, or leave out" if sizes.min() > 1 else "Leave out"
        message += " these libraries"
        repair = f"adata = adata[{column}.groupby({column}, observed=True).transform('size') >= {n_spots}].copy()"
    elif sizes.min() > 1:
        message += "Take a smaller neighborhood"
        repair = smaller
    yield Finding("few spots", "error", message, repair, CoordinatesError)


def check_places(table: AnnData, keys: TableKeys, spots: Spots, *, n_spots: int = N_SPOTS) -> list[Finding]:
    """Return what is odd about the places of spots, before a graph of them is built."""
    findings = [
        *_small_libraries(keys, spots, n_spots),
        *find_background(table),
        *find_joined(table, keys, spots),
    ]
    is_joined = any(finding.what == "joined sections" for finding in findings)
    for code, name in enumerate(spots.names):
        rows = np.flatnonzero(spots.libraries == code)
        odd = find_odd_places(table, keys, spots.coordinates[rows], rows, name, n_spots)
        findings += [finding for finding in odd if not (is_joined and finding.what == "shared places")]
    return findings


def with_library_key(table: AnnData, keys: TableKeys) -> TableKeys:
    """Return keys with the column of libraries. Default: that of the stored graph, or else of the regions."""
    if keys.library_key is not None:
        return keys
    stored = _stored_params(table, keys.neighbors_key or NEIGHBORS_KEY).get("library_key")
    return replace(
        keys, library_key=stored if isinstance(stored, str) and stored in table.obs else library_column(table, None)
    )


def get_neighbors(table: AnnData, keys: TableKeys, spots: Spots | None = None) -> sparse.csr_matrix:
    """Return the neighbors of each spot as a CSR pattern of ones (n_spots, n_spots), without the diagonal.

    With a `neighbors_key`, they are the edges of the user's graph (``uns[f"{neighbors_key}_neighbors"]``,
    ``uns[neighbors_key]`` or ``obsp[f"{neighbors_key}_connectivities"]``); its weights are not used. Otherwise they are
    those of the graph that is stored under ``sagefm``. That is built if there is none, and built again with its own
    number of neighbors if coordinates or libraries have changed. `spots` are by default those of the table.
    """
    if spots is None:
        keys = with_library_key(table, keys)
        spots = find_spots(table, table, keys)
    if keys.neighbors_key is not None:
        tell(find_joined(table, keys, spots), stacklevel=3)
        graph = _edges(table.obsp[_connectivities_key(table, keys.neighbors_key)])
        _check_libraries(graph, keys, spots)
        table.obsm.setdefault(keys.spatial_key, spots.coordinates)
        return graph
    params = _stored_params(table, NEIGHBORS_KEY)
    if params.get("fingerprint") != _fingerprint(spots):
        n_spots = int(params.get("n_neighbors", N_SPOTS - 1)) + 1
        if f"{NEIGHBORS_KEY}_connectivities" in table.obsp:
            _warn_other_keys(params, keys)
        logger.info("Building the graph of %d-spot neighborhoods.", n_spots)
        build_neighbors(table, keys, spots, n_spots=n_spots)
    return _edges(table.obsp[f"{NEIGHBORS_KEY}_connectivities"])


def averaging(neighbors: sparse.csr_matrix, *, with_center: bool) -> sparse.csr_matrix:
    """Return the operator that averages over the k_i neighbors of each spot, CSR float32 (n_spots, n_spots).

    With the center, weights are 1/(k_i + 1) on neighbors *and* diagonal (GCN normalization of a complete graph with
    self-loops); otherwise 1/k_i on the neighbors alone. A spot without neighbors gives zeros.
    """
    k = np.diff(neighbors.indptr)
    weights = 1.0 / (k + 1) if with_center else 1.0 / np.maximum(k, 1)
    operator = sparse.diags_array(weights) @ neighbors
    if with_center:
        operator = operator + sparse.diags_array(weights)
    return sparse.csr_matrix(operator, dtype=np.float32)


def _stored_params(table: AnnData, key: str) -> dict[str, Any]:
    """Return the parameters of a stored graph that was built here; nothing, if it was not."""
    params = entry(table, f"{key}_neighbors", "params")
    return dict(params) if "fingerprint" in params and f"{key}_connectivities" in table.obsp else {}


def _connectivities_key(table: AnnData, key: str) -> str:
    entries = [entry(table, name) for name in (f"{key}_neighbors", key)]
    keys = (str(stored["connectivities_key"]) for stored in entries if "connectivities_key" in stored)
    key = next(keys, f"{key}_connectivities")
    if key not in table.obsp:
        raise NeighborsError(
            f"Found no graph adata.obsp[{key!r}], only {sorted(table.obsp.keys())}. "
            f"Build one: sagefm.pp.spatial_neighbors(adata), or squidpy.gr.spatial_neighbors_knn(adata, n_neighs=14)"
        )
    return key


def _edges(graph: Any) -> sparse.csr_matrix:
    """Return the edges of a graph as ones, without the diagonal, on which squidpy stores explicit zeros."""
    try:
        edges = sparse.coo_matrix(graph)
    except (TypeError, ValueError) as error:
        raise NeighborsError(f"The graph cannot be read: {error} Expected a sparse matrix of numbers.") from error
    keep = (edges.row != edges.col) & (edges.data != 0)
    ones = np.ones(int(keep.sum()), dtype=np.float32)
    return sparse.csr_matrix((ones, (edges.row[keep], edges.col[keep])), shape=edges.shape)


def _check_libraries(graph: sparse.csr_matrix, keys: TableKeys, spots: Spots) -> None:
    libraries = spots.libraries
    crossing = libraries[graph.indices] != np.repeat(libraries, np.diff(graph.indptr))
    if crossing.any():
        raise NeighborsError(
            f"The graph neighbors_key={keys.neighbors_key!r} joins spots of different libraries "
            f"({int(crossing.sum())} edges). Build it by library: squidpy.gr.spatial_neighbors_knn(adata, n_neighs=14, "
            f"library_key={keys.library_key!r}, spatial_key={keys.spatial_key!r}, key_added={keys.neighbors_key!r})"
        )


def _warn_other_keys(params: dict[str, Any], keys: TableKeys) -> None:
    """Warn where a stored graph is replaced because the caller names other keys, or because another tool built it."""
    stored = {name: params.get(name) or None for name in ("spatial_key", "library_key")}
    wanted = {"spatial_key": keys.spatial_key, "library_key": keys.library_key}
    if stored != wanted:
        texts = [", ".join(f"{name}={value!r}" for name, value in names.items()) for names in (stored, wanted)]
        origin = f"built with {texts[0]}" if params else "not built by sagefm.pp.spatial_neighbors"
        warnings.warn(
            f"The stored graph adata.obsp['{NEIGHBORS_KEY}_connectivities'] was {origin}; it is replaced by "
            f"one with {texts[1]}. To keep it, pass its keys; to have both, store one under another name: "
            f"sagefm.pp.spatial_neighbors(adata, key_added='other'), then neighbors_key='other'.",
            UserWarning,
            stacklevel=3,
        )


def _as_graph(values: NDArray[np.float64], neighbors: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return values of the neighbors as CSR (n_spots, n_spots), columns in order."""
    n_spots, n_neighbors = neighbors.shape
    indptr = np.arange(0, neighbors.size + 1, n_neighbors)
    graph = sparse.csr_matrix((values, neighbors.ravel(), indptr), shape=(n_spots, n_spots))
    graph.sort_indices()
    return graph


def _fingerprint(spots: Spots) -> str:
    """Tell whether a stored graph is of these coordinates and libraries, in this order."""
    digest = hashlib.sha256(np.ascontiguousarray(spots.coordinates).tobytes())
    digest.update(spots.libraries.tobytes())
    return digest.hexdigest()[:16]
