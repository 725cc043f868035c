"""Sections as the networks read them, against the definitions written out; splits and batches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from sagefm.data._graph import nearest_neighbors
from sagefm.data._input import make_input
from sagefm.data._section import Section
from sagefm.errors import CoordinatesError
from sagefm.module._config import NetworkConfig
from sagefm.training._sections import TableSections, split_spots

CONFIG = NetworkConfig.of("published", n_genes=25)


def make_section(n_spots: int = 60, n_genes: int = 25, *, seed: int = 0, k: int = 14, name: str = "") -> Section:
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.8, (n_spots, n_genes)).astype(np.float32))
    side = int(np.ceil(np.sqrt(n_spots)))
    coordinates = np.stack(np.divmod(np.arange(n_spots), side), axis=1) * 100.0
    neighbors, _ = nearest_neighbors(coordinates, k)
    rows = np.repeat(np.arange(n_spots), k)
    graph = sparse.csr_matrix((np.ones(rows.size, np.float32), (rows, neighbors.ravel())), shape=(n_spots, n_spots))
    return Section(counts, np.arange(n_genes), graph, np.arange(n_spots), coordinates, name)


def without_edges(section: Section, spot: int) -> Section:
    graph = section.neighbors.tolil()
    graph[spot] = 0
    return Section(
        section.counts, section.genes, sparse.csr_matrix(graph), section.rows, section.coordinates, section.name
    )


@pytest.fixture
def section() -> Section:
    return make_section()


def test_totals(section):
    dense = section.counts.toarray()
    np.testing.assert_array_equal(section.gene_totals, dense.sum(axis=0))
    assert (section.n_spots, section.n_genes) == dense.shape


def test_published_input_is_the_average_of_the_15_spots(section):
    inputs = make_input(section, "log1p")
    u = np.log1p(section.counts.toarray())
    spots = np.arange(60)
    center = inputs.center_weight[:, None] * u[spots]
    for spot in spots:
        members = np.append(spot, section.neighbors[spot].indices)
        assert len(members) == 15
        found = (center + inputs.dense_neighborhood(spots))[spot]
        np.testing.assert_allclose(found, u[members].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_default_neighborhood_is_its_deviation_from_the_other_spots(section):
    inputs = make_input(section, "relative", scale=1e4)
    counts = section.counts.toarray()
    u = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    spots = np.arange(60)
    neighborhood = inputs.dense_neighborhood(spots)
    for spot in spots:
        others = np.delete(u, spot, axis=0).mean(axis=0)
        nearby = u[section.neighbors[spot].indices].mean(axis=0)
        np.testing.assert_allclose(neighborhood[spot], nearby - others, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["log1p", "relative"])
def test_a_spot_without_neighbors(kind, section):
    alone = without_edges(section, 7)
    inputs = make_input(alone, kind)
    assert not inputs.dense_neighborhood(np.array([7])).any()
    spots = np.delete(np.arange(60), 7)
    expected = make_input(section, kind)
    np.testing.assert_allclose(inputs.dense_neighborhood(spots), expected.dense_neighborhood(spots), atol=1e-5)


@pytest.mark.parametrize("kind", ["log1p", "relative"])
def test_dense_rows_are_the_operators(kind, section):
    inputs = make_input(section, kind)
    rows = np.array([3, 59, 0, 3])
    whole = (inputs.operator @ inputs.values).toarray() - inputs.shift[:, None] * inputs.mean
    np.testing.assert_allclose(inputs.dense_neighborhood(rows), whole[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(inputs.dense_counts(rows), section.counts.toarray()[rows])
    for array in (inputs.dense_neighborhood(rows), inputs.operator, inputs.values, inputs.center_weight, inputs.shift):
        assert array.dtype == np.float32


def test_a_hidden_count_comes_back_by_no_way(section):
    """The input of a spot, without its own value, does not change with that value: mean and graph leave it out."""
    counts = section.counts.toarray()
    counts[11, 4] += 1000
    changed = Section(
        sparse.csr_matrix(counts), section.genes, section.neighbors, section.rows, section.coordinates, section.name
    )
    for kind in ("log1p", "relative"):
        before, after = make_input(section, kind), make_input(changed, kind)
        rows = np.array([11])
        np.testing.assert_allclose(after.dense_neighborhood(rows), before.dense_neighborhood(rows), atol=2e-5)


def test_a_section_of_one_spot_has_no_other_spots(section):
    one = Section(
        section.counts[:1], section.genes, sparse.csr_matrix((1, 1), dtype=np.float32), np.arange(1),
        section.coordinates[:1], "tiny",
    )  # fmt: skip
    with pytest.raises(CoordinatesError, match="'tiny' has 1 spot"):
        make_input(one, "relative")


# Splits


def test_whole_sections_are_held_out():
    sections = [make_section(20 + i, seed=i) for i in range(10)]
    for seed in range(5):
        train, validation = split_spots(TableSections(sections, CONFIG), 0.2, np.random.default_rng(seed))
        held = [len(v) > 0 for v in validation]
        assert sum(held) == 2
        for section, t, v in zip(sections, train, validation, strict=True):
            assert {len(t), len(v)} == {0, section.n_spots}


@pytest.mark.parametrize("size", [0.001, 0.5, 0.999])
def test_a_section_is_left_on_both_sides(size):
    train, validation = split_spots(
        TableSections([make_section(20), make_section(20, seed=1)], CONFIG), size, np.random.default_rng(0)
    )
    assert sorted(map(len, train)) == sorted(map(len, validation)) == [0, 20]


@pytest.mark.parametrize("n_spots", [50, 100, 300, 1000, 4000])
def test_share_of_one_section(n_spots):
    """About the share that was asked for, whatever the size of the section."""
    section = make_section(n_spots, 2)
    shares = []
    for seed in range(30):
        (train,), (validation,) = split_spots(TableSections([section], CONFIG), 0.1, np.random.default_rng(seed))
        assert np.array_equal(np.sort(np.append(train, validation)), np.arange(n_spots))
        assert len(train)
        shares.append(len(validation) / n_spots)
    assert 0.05 <= np.median(shares) <= 0.2
    assert max(shares) <= 0.3


def test_held_out_tiles_are_compact():
    """Most neighbors of a held-out spot are held out with it: a random choice of spots would leave nine in ten."""
    section = make_section(2500, 2)
    (_,), (validation,) = split_spots(TableSections([section], CONFIG), 0.1, np.random.default_rng(0))
    inside = np.isin(section.neighbors[validation].indices, validation).mean()
    assert inside > 0.6


def test_split_is_its_seed():
    section = make_section(1000, 2)
    splits = [
        split_spots(TableSections([section], CONFIG), 0.1, np.random.default_rng(seed))[1][0] for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[0], splits[2])


@pytest.mark.parametrize("coordinates", [np.zeros((40, 2)), np.stack([np.arange(40.0), np.zeros(40)], axis=1)])
def test_spots_on_a_line_or_at_one_place(coordinates):
    section = make_section(40)
    section = Section(section.counts, section.genes, section.neighbors, section.rows, coordinates)
    (train,), (validation,) = split_spots(TableSections([section], CONFIG), 0.2, np.random.default_rng(0))
    assert len(train)
    assert np.array_equal(np.sort(np.append(train, validation)), np.arange(40))


def test_nothing_held_out():
    sections = [make_section(20), make_section(30)]
    train, validation = split_spots(TableSections(sections, CONFIG), 0, np.random.default_rng(0))
    assert [len(rows) for rows in train] == [20, 30]
    assert not any(len(rows) for rows in validation)
