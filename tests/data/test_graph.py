"""The neighborhood: nearest spots with a rule for ties, and the averaging operator."""

from __future__ import annotations

import tracemalloc
import warnings

import anndata as ad
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from squidpy.gr.neighbors import KNNBuilder
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from sagefm.data import _graph
from sagefm.data._graph import averaging, nearest_neighbors
from sagefm.data._table import TableKeys
from sagefm.datasets import dlpfc, synovium
from sagefm.errors import ArgumentError, CoordinatesError, NeighborsError
from sagefm.pp import spatial_neighbors


def by_hand(coordinates: np.ndarray, k: int) -> np.ndarray:
    """Nearest spots by distance, second coordinate, first coordinate, index; whole-number coordinates are exact."""
    squared = ((coordinates[:, None] - coordinates) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    n = len(coordinates)
    keys = [np.broadcast_to(key, (n, n)) for key in (np.arange(n), coordinates[:, 0], coordinates[:, 1])]
    return np.lexsort((*keys, squared), axis=1)[:, :k]


def square(n: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)


def hexagonal(n: int) -> np.ndarray:
    xy = square(n)
    xy[:, 0] = 2 * xy[:, 0] + xy[:, 1] % 2
    return xy * [137, 239]  # pixels: whole numbers


LAYOUTS = {
    "square": square(12) * 100,
    "hexagonal": hexagonal(12),
    "random": np.random.default_rng(0).integers(0, 10_000, (200, 2)).astype(float),
    "line": np.stack([np.arange(40.0), np.zeros(40)], axis=1),
    "two clumps": np.concatenate([square(5), square(5) + 1e6]),
    "15 spots": np.random.default_rng(1).integers(0, 100, (15, 2)).astype(float),
    "pairs at one place": np.repeat(square(8), 2, axis=0),
    "14 sections in one": np.tile(square(6), (14, 1)),
    "40 sections in one": np.tile(square(4), (40, 1)),
    "most at one place": np.concatenate([np.zeros((30, 2)), square(4) + 1]),
    "all at one place": np.zeros((40, 2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nearest_neighbors(layout):
    coordinates = LAYOUTS[layout]
    neighbors, distances = nearest_neighbors(coordinates, 14)
    np.testing.assert_array_equal(neighbors, by_hand(coordinates, 14))
    np.testing.assert_allclose(distances, np.linalg.norm(coordinates[neighbors] - coordinates[:, None], axis=2))


@settings(max_examples=40)
@given(
    arrays(np.int64, st.tuples(st.integers(5, 50), st.just(2)), elements=st.integers(0, 12)),
    st.integers(1, 4),
    st.sampled_from([1.0, 0.25, 4096.0]),
)
def test_nearest_neighbors_of_any_layout(coordinates, k, unit):
    found, _ = nearest_neighbors(coordinates * unit, k)
    np.testing.assert_array_equal(found, by_hand(coordinates.astype(float), k))


@pytest.mark.parametrize("unit", [1e-6, 0.1, 0.3524, 1 / 3, 1e4])
@pytest.mark.parametrize("shift", [0.0, 1e4 / 7])
def test_ties_are_ties_in_any_unit(unit, shift):
    """Rounding of coordinates does not decide: the choice is that of whole numbers."""
    coordinates = hexagonal(15)
    found, _ = nearest_neighbors(coordinates * unit + shift * unit, 14)
    np.testing.assert_array_equal(found, by_hand(coordinates, 14))


def test_many_spots_at_one_place_take_bounded_memory():
    """3,000 spots at a placeholder: candidate lists as long as their number took 800 MB."""
    coordinates = np.concatenate([square(20) + 5, np.zeros((3000, 2))])
    coordinates = coordinates[np.random.default_rng(0).permutation(len(coordinates))]
    tracemalloc.start()
    neighbors, distances = nearest_neighbors(coordinates, 14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    np.testing.assert_array_equal(neighbors, by_hand(coordinates, 14))
    np.testing.assert_allclose(distances, np.linalg.norm(coordinates[neighbors] - coordinates[:, None], axis=2))


@pytest.mark.parametrize("layout", ["dlpfc", "synovium", *LAYOUTS])
def test_neighbors_are_those_of_squidpy(layout):
    """At the same distances; the same spots, where no other is as far away as the last of them."""
    bundled = {"dlpfc": dlpfc, "synovium": synovium}
    coordinates = bundled[layout]().obsm["spatial"].astype(float) if layout in bundled else LAYOUTS[layout]
    n_neighbors = min(15, len(coordinates) - 1)
    neighbors, distances = nearest_neighbors(coordinates, 14)
    graph, _ = KNNBuilder(n_neighs=n_neighbors).build(coordinates)
    rows = np.repeat(np.arange(len(coordinates)), np.diff(graph.indptr))
    candidates = graph.indices[graph.indices != rows].reshape(-1, n_neighbors)
    expected = np.linalg.norm(coordinates[candidates] - coordinates[:, None], axis=2)
    order = np.argsort(expected, axis=1, kind="stable")
    candidates, expected = (np.take_along_axis(values, order, axis=1) for values in (candidates, expected))
    np.testing.assert_allclose(np.sort(distances, axis=1), expected[:, :14], rtol=1e-12)
    apart = expected[:, -1] > expected[:, 13] * (1 + 1e-9) if n_neighbors > 14 else np.ones(len(coordinates), bool)
    np.testing.assert_array_equal(np.sort(neighbors, axis=1)[apart], np.sort(candidates[:, :14], axis=1)[apart])


@pytest.mark.parametrize("layout", ["square", "hexagonal", "random", "two clumps"])
def test_order_does_not_matter(layout):
    coordinates = LAYOUTS[layout]
    order = np.random.default_rng(2).permutation(len(coordinates))
    shuffled, _ = nearest_neighbors(coordinates[order], 14)
    expected, _ = nearest_neighbors(coordinates, 14)
    np.testing.assert_array_equal(order[shuffled], expected[order])


def get_neighbors(adata, **keys) -> sparse.csr_matrix:
    return _graph.get_neighbors(adata, TableKeys(**keys))


def table(coordinates, **obs) -> ad.AnnData:
    adata = ad.AnnData(np.zeros((len(coordinates), 1)), obsm={"spatial": coordinates})
    for key, values in obs.items():
        adata.obs[key] = values
    return adata


def test_stored_neighbors():
    adata = table(LAYOUTS["hexagonal"])
    spatial_neighbors(adata)
    connectivities, distances = adata.obsp["sagefm_connectivities"], adata.obsp["sagefm_distances"]
    expected = by_hand(LAYOUTS["hexagonal"], 14)
    for graph in (connectivities, distances):
        assert graph.format == "csr"
        assert graph.has_sorted_indices
        np.testing.assert_array_equal(graph.indices.reshape(-1, 14), np.sort(expected, axis=1))
    assert (connectivities.data == 1).all()
    rows = np.repeat(np.arange(len(expected)), 14)
    offsets = LAYOUTS["hexagonal"][rows] - LAYOUTS["hexagonal"][distances.indices]
    np.testing.assert_allclose(distances.data, np.linalg.norm(offsets, axis=1))
    stored = adata.uns["sagefm_neighbors"]
    assert adata.obsp[stored["connectivities_key"]] is connectivities
    assert adata.obsp[stored["distances_key"]] is distances
    assert stored["params"]["n_neighbors"] == 14


def test_stored_neighbors_of_libraries():
    libraries = np.random.default_rng(3).permutation(np.repeat(["a", "b"], [100, 44]))
    adata = table(LAYOUTS["hexagonal"], slide=libraries)
    spatial_neighbors(adata, n_spots=7, library_key="slide", key_added="mine")
    graph = adata.obsp["mine_connectivities"]
    assert set(adata.uns) == {"mine_neighbors"}
    for name in ("a", "b"):
        rows = np.flatnonzero(libraries == name)
        expected = rows[by_hand(LAYOUTS["hexagonal"][rows], 6)]
        np.testing.assert_array_equal(graph[rows].indices.reshape(-1, 6), np.sort(expected, axis=1))


def test_too_few_spots_name_the_libraries():
    adata = table(square(6), slide=np.repeat(["a", "b", "c"], [20, 9, 7]))
    with pytest.raises(CoordinatesError, match=r"15 spots.* b \(9\), c \(7\).*n_spots=7"):
        spatial_neighbors(adata, library_key="slide")
    with pytest.raises(ArgumentError, match="n_spots=1"):
        spatial_neighbors(adata, n_spots=1)
    assert not adata.obsp
    assert not adata.uns


def test_get_neighbors_builds_and_keeps():
    adata = table(LAYOUTS["random"], side=np.repeat(["a", "b"], 100))
    graph = get_neighbors(adata)
    assert graph.dtype == np.float32
    assert (np.diff(graph.indptr) == 14).all()
    stored = adata.obsp["sagefm_connectivities"]
    get_neighbors(adata)
    assert adata.obsp["sagefm_connectivities"] is stored
    with pytest.warns(UserWarning, match=r"built with spatial_key='spatial', library_key=None; .*library_key='side'"):
        by_side = get_neighbors(adata, library_key="side")
    assert adata.obsp["sagefm_connectivities"] is not stored
    assert not by_side[:100, 100:].nnz
    assert not by_side[100:, :100].nnz


def test_get_neighbors_of_a_graph_of_the_users():
    adata = table(square(5))
    weights = sparse.random_array((25, 25), density=0.2, rng=np.random.default_rng(4), format="csr")
    # squidpy stores zeros on the diagonal.
    stored = sparse.csr_matrix(weights + sparse.eye_array(25))
    stored.setdiag(0)
    adata.obsp["any_connectivities"] = adata.obsp["graph"] = stored
    adata.uns["one_neighbors"] = {"connectivities_key": "graph"}
    adata.uns["two"] = {"connectivities_key": "graph"}
    adata.uns["any"] = {"some": "images"}
    before = stored.copy()
    expected = weights.toarray() > 0
    np.fill_diagonal(expected, False)
    for key in ("any", "one", "two"):
        np.testing.assert_array_equal(get_neighbors(adata, neighbors_key=key).toarray(), expected)
    assert stored.nnz == before.nnz
    np.testing.assert_array_equal(stored.data, before.data)
    with pytest.raises(NeighborsError, match=r"three_connectivities.*any_connectivities.*spatial_neighbors"):
        get_neighbors(adata, neighbors_key="three")
    adata.uns["broken_neighbors"] = {"connectivities_key": "gone"}
    with pytest.raises(NeighborsError, match="gone"):
        get_neighbors(adata, neighbors_key="broken")


def test_averaging():
    graph = sparse.csr_matrix(np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=np.float32))
    np.testing.assert_allclose(
        averaging(graph, with_center=False).toarray(),
        [[0, 1 / 2, 1 / 2, 0], [1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [0, 0, 0, 0]],
    )
    np.testing.assert_allclose(
        averaging(graph, with_center=True).toarray(),
        [[1 / 3, 1 / 3, 1 / 3, 0], [1 / 2, 1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 1]],
    )


def test_averaging_is_gcn_normalisation_of_a_complete_graph():
    graph = sparse.csr_matrix(np.ones((15, 15), dtype=np.float32) - np.eye(15, dtype=np.float32))
    edges = torch.from_numpy(np.stack(graph.nonzero())).long()
    edges, weights = gcn_norm(edges, num_nodes=15)
    expected = torch.zeros(15, 15).index_put((edges[1], edges[0]), weights)
    np.testing.assert_allclose(averaging(graph, with_center=True).toarray(), expected, rtol=1e-6)


def test_duplicates_warn_once_a_library():
    adata = table(np.tile(square(6), (2, 1)))
    with pytest.warns(UserWarning, match="36 spots have the coordinates"):
        spatial_neighbors(adata)
    adata.obs["slide"] = np.repeat(["a", "b"], 36)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spatial_neighbors(adata, library_key="slide")
    adata.obsm["spatial"][1] = adata.obsm["spatial"][0]
    with pytest.warns(UserWarning, match="1 spots of a have the coordinates"):
        spatial_neighbors(adata, library_key="slide")
