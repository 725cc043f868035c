"""A stored graph is used as it was built, or replaced with a warning; a table is as it was after an error."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import squidpy
from scipy import sparse

import sagefm
from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys, untouched_on_error
from sagefm.errors import CoordinatesError, CountsError
from sagefm.model import SAGEFM


def test_a_graph_by_library_is_not_replaced_by_one_that_crosses_libraries(sections, default, run_verbs, assert_same):
    expected = run_verbs(sections.copy(), default, library_key="library")
    sagefm.pp.spatial_neighbors(sections, library_key="library")
    graph = sections.obsp["sagefm_connectivities"]
    assert_same(run_verbs(sections, default), expected)
    assert sections.obsp["sagefm_connectivities"] is graph
    assert sections.uns["sagefm"]["X_sagefm"]["library_key"] == "library"


def test_a_model_is_set_up_with_the_libraries_of_the_stored_graph(sections, folders):
    sagefm.pp.spatial_neighbors(sections, library_key="library")
    graph = sections.obsp["sagefm_connectivities"]
    SAGEFM.setup_anndata(sections)
    model = SAGEFM(sections, hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu", validation_size=0.5)
    assert model.to_checkpoint().training["n_sections"] == 2
    held = sections.obs["library"].iloc[model.validation_indices_]
    assert (held.nunique(), len(held)) == (1, 150)
    assert sections.obsp["sagefm_connectivities"] is graph


def test_a_graph_of_the_users_by_library_separates_sections(sections, default):
    expected = sections.copy()
    sagefm.tl.embed(expected, default, library_key="library")
    sagefm.pp.spatial_neighbors(sections, library_key="library", key_added="mine")
    sagefm.tl.embed(sections, default, neighbors_key="mine")
    np.testing.assert_array_equal(sections.obsm["X_sagefm"], expected.obsm["X_sagefm"])


def test_a_graph_of_7_spots_stays_one_after_subsetting(section, default):
    sagefm.pp.spatial_neighbors(section, n_spots=7)
    part = section[section.obs["domain"] != "domain1"].copy()
    for adata in (section, part):
        sagefm.tl.embed(adata, default)
        assert (np.diff(adata.obsp["sagefm_connectivities"].indptr) == 6).all()
    expected = part.copy()
    sagefm.pp.spatial_neighbors(expected, n_spots=7)
    assert (expected.obsp["sagefm_connectivities"] != part.obsp["sagefm_connectivities"]).nnz == 0


def test_other_keys_replace_a_graph_with_a_warning(sections, default):
    sections.obsm["pixels"] = sections.obsm["spatial"] * [1, 2]
    sagefm.pp.spatial_neighbors(sections, library_key="library", n_spots=7, spatial_key="pixels")
    with pytest.warns(UserWarning, match=r"spatial_key='pixels', library_key='library'; .* spatial_key='spatial'"):
        sagefm.tl.embed(sections, default)
    params = sections.uns["sagefm_neighbors"]["params"]
    assert (params["n_neighbors"], params["library_key"], params["spatial_key"]) == (6, "library", "spatial")


def test_a_library_column_that_is_gone_is_not_asked_for(sections, default):
    sagefm.pp.spatial_neighbors(sections, library_key="library")
    del sections.obs["library"], sections.obs["array_row"]
    sections.obs_names = [f"spot{i}" for i in range(300)]
    sections.obsm["spatial"][150:] += 1e5
    with pytest.warns(UserWarning, match="library_key='library'; it is replaced by one with .*library_key=None"):
        sagefm.tl.embed(sections, default)


def test_a_graph_of_another_tool_is_not_replaced_silently(section, default):
    squidpy.gr.spatial_neighbors_knn(section, n_neighs=6, key_added="sagefm")
    with pytest.warns(UserWarning, match=r"not built by sagefm\.pp\.spatial_neighbors; it is replaced .*neighbors_key"):
        sagefm.tl.embed(section, default)
    assert section.uns["sagefm_neighbors"]["params"]["n_neighbors"] == 14


def test_the_smaller_neighborhood_that_an_error_proposes_is_by_library(section, default):
    section.obs["slide"] = np.where(np.arange(400) < 9, "tiny", "large")
    with pytest.raises(CoordinatesError, match=r"spatial_neighbors\(adata, n_spots=9, library_key='slide'\)"):
        sagefm.tl.embed(section, default, library_key="slide")
    sagefm.pp.spatial_neighbors(section, n_spots=9, library_key="slide")
    sagefm.tl.embed(section, default)
    assert section.uns["sagefm"]["X_sagefm"]["library_key"] == "slide"


def test_a_view_stays_a_view_after_an_error(section, default, state):
    """Stored counts are checked as they are read, when the graph of the view has been found and nothing was written."""
    sagefm.pp.spatial_neighbors(section)
    counts = section.X.toarray()
    counts[-1, 5] = 0.5
    section.X = dask.array.from_array(counts, chunks=(100, 300)).map_blocks(sparse.csr_matrix)
    view = section[:]
    before = state(section)
    with pytest.raises(CountsError):
        sagefm.tl.embed(view, default)
    assert view.is_view
    assert state(section) == before


def test_libraries_are_read_once(sections, default, monkeypatch):
    from sagefm.data import _table

    calls, get_libraries = [], _table.get_libraries
    monkeypatch.setattr(
        _table, "get_libraries", lambda *args, **kwargs: calls.append(1) or get_libraries(*args, **kwargs)
    )
    sagefm.tl.embed(sections, default, library_key="library")
    assert len(calls) == 1


def test_inputs_are_made_one_at_a_time(sections, default):
    inputs = read_table(sections, default.vocabulary, TableKeys(library_key="library")).inputs(default.config)
    assert [next(inputs).section.name, next(inputs).section.name] == ["section1", "section2"]
    with pytest.raises(StopIteration):
        next(inputs)


def test_a_key_of_uns_that_is_no_string(section, default):
    section.uns[3] = "three"
    sagefm.tl.embed(section, default)

    def write_and_stop():
        with untouched_on_error(section):
            section.uns[4], section.obsm["new"] = "four", section.obsm["spatial"]
            section.uns["sagefm_neighbors"] = {}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert section.uns[3] == "three"
    assert 4 not in section.uns
    assert "new" not in section.obsm
    assert section.uns["sagefm_neighbors"]["params"]["n_neighbors"] == 14
