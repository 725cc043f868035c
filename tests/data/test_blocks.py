"""Counts in files and Dask arrays: the same results as in memory, read in blocks, nothing written if they are bad."""

from __future__ import annotations

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from scipy import sparse
from tests import OTHER_KERNELS

import sagefm
from sagefm.data._blocks import (
    StoredMatrix,
    as_csr,
    column_sums,
    is_stored,
    iter_blocks,
    prefetch,
    take_columns,
    to_memory,
)
from sagefm.data._counts import get_counts
from sagefm.errors import ArgumentError, CountsError, OutputExistsError
from sagefm.inference._output import dense_layer
from sagefm.model import SAGEFM


def dask_of(matrix, rows, columns=None):
    """A Dask array of CSR chunks."""
    chunks = (rows, matrix.shape[1] if columns is None else columns)
    return da.from_array(matrix.toarray(), chunks=chunks).map_blocks(sparse.csr_matrix)


def stored(section, form, folder):
    """The section with its counts elsewhere."""
    if form in ("h5ad", "h5ad dense"):
        section.X = section.X.toarray() if form == "h5ad dense" else section.X
        section.write_h5ad(folder / "s.h5ad")
        return ad.read_h5ad(folder / "s.h5ad", backed="r")
    if form == "dask":
        section.X = dask_of(section.X, 130)
        return section
    if form == "dask, columns in chunks":
        section.X = dask_of(section.X, 150, 100)
        return section
    section.write_zarr(folder / "s.zarr")
    if form == "zarr":
        section.X = ad.io.sparse_dataset(zarr.open(folder / "s.zarr", mode="r")["X"])
        return section
    return ad.experimental.read_lazy(folder / "s.zarr")


FORMS = ["h5ad", "h5ad dense", "zarr", "lazy", "dask", "dask, columns in chunks"]


@pytest.mark.parametrize("form", FORMS)
def test_embed(form, section, checkpoint, tmp_path):
    expected = sagefm.tl.embed(section, checkpoint, copy=True)
    table = stored(section.copy(), form, tmp_path)
    assert is_stored(table.X)
    sagefm.tl.embed(table, checkpoint, batch_size=64)
    np.testing.assert_allclose(table.obsm["X_sagefm"], expected.obsm["X_sagefm"], **OTHER_KERNELS)
    assert is_stored(table.X)


@pytest.mark.parametrize("form", ["h5ad", "zarr", "lazy", "dask"])
def test_libraries_in_any_order(form, sections, checkpoint, tmp_path):
    """Spots of two sections alternate, so that neither is a range of rows."""
    order = np.random.default_rng(0).permutation(sections.n_obs)
    sections = sections[order].copy()
    expected = sagefm.tl.embed(sections, checkpoint, library_key="library", copy=True).obsm["X_sagefm"]
    table = stored(sections.copy(), form, tmp_path)
    sagefm.tl.embed(table, checkpoint, library_key="library")
    np.testing.assert_allclose(table.obsm["X_sagefm"], expected, **OTHER_KERNELS)


@pytest.mark.parametrize("verb", ["embed", "impute", "perturb"])
def test_bad_counts_leave_the_table(verb, section, checkpoint):
    counts = section.X.toarray()
    counts[-1, 5] = 0.5
    section.X = dask_of(sparse.csr_matrix(counts), 100)
    before = {name: set(getattr(section, name)) for name in ("obsm", "obsp", "uns", "layers")}
    names = list(checkpoint.vocabulary.symbols)
    arguments = {"sources": names[:1], "targets": names[1:3]} if verb == "perturb" else {}
    with pytest.raises(CountsError, match="fractional"):
        getattr(sagefm.tl, verb)(section, checkpoint, **arguments)
    assert {name: set(getattr(section, name)) for name in before} == before


def test_chunks_are_computed_once_a_pass(section):
    computed = []

    def load(block, block_info=None):
        computed.append(block_info[0]["array-location"])
        return sparse.csr_matrix(block)

    section.X = da.from_array(section.X.toarray(), chunks=(100, 300)).map_blocks(
        load, dtype=np.float32, meta=sparse.csr_matrix((0, 0), dtype=np.float32)
    )
    found = [block for _, block in iter_blocks(get_counts(section), 32)]
    assert len(computed) == 4
    assert [block.shape[0] for block in found] == [32] * 12 + [16]


def test_pipeline():
    matrix = sparse.random(50, 8, 0.4, format="csr", rng=0, dtype=np.float32)
    whole = StoredMatrix(matrix, lambda block: block)
    rows = np.array([1, 4, 5, 40, 41])
    found = take_columns(
        whole.map(lambda block: 2 * block).with_rows(rows).with_rows(np.array([1, 2, 4])), np.array([7, 0])
    )
    np.testing.assert_array_equal(found[:].toarray(), 2 * matrix.toarray()[[4, 5, 41]][:, [7, 0]])
    assert found.shape == (3, 2)
    assert found[2:9].shape == (1, 2)
    assert found[3:].shape == (0, 2)
    np.testing.assert_allclose(column_sums(whole), matrix.toarray().sum(axis=0), rtol=1e-6)
    assert as_csr(matrix) is not None


def test_prefetch():
    assert list(prefetch(range(5), 2)) == list(range(5))
    assert list(prefetch([])) == []

    def failing():
        yield 1
        raise ValueError("no second")

    items = prefetch(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no second"):
        next(items)


@pytest.mark.parametrize("alternating", [False, True])
def test_impute_to_zarr(alternating, sections, checkpoint, tmp_path):
    if alternating:
        sections = sections[np.random.default_rng(0).permutation(sections.n_obs)].copy()
    expected = sagefm.tl.impute(sections, checkpoint, library_key="library", copy=True).layers["sagefm_imputed"]
    sagefm.tl.impute(sections, checkpoint, library_key="library", out=tmp_path / "imputed.zarr")
    layer = sections.layers["sagefm_imputed"]
    assert dask.is_dask_collection(layer)
    np.testing.assert_array_equal(layer.compute(), expected)
    with pytest.raises(OutputExistsError, match=r"imputed\.zarr exists"):
        sagefm.tl.impute(sections, checkpoint, library_key="library", out=tmp_path / "imputed.zarr")
    sections.write_zarr(tmp_path / "all.zarr")
    np.testing.assert_array_equal(ad.read_zarr(tmp_path / "all.zarr").layers["sagefm_imputed"], expected)


def test_sparse_blocks(section, checkpoint, monkeypatch):
    """A block is multiplied sparse or dense by how much of it is stored: to the same embedding."""
    found = []
    for below in (0.0, 1.1):
        monkeypatch.setattr("sagefm.inference._products.SPARSE_BELOW", below)
        found.append(sagefm.tl.embed(section, checkpoint, copy=True).obsm["X_sagefm"])
    np.testing.assert_allclose(*found, **OTHER_KERNELS)
    assert not np.array_equal(*found)


@pytest.mark.parametrize("form", ["h5ad", "zarr", "lazy", "dask"])
def test_training(form, sections, tmp_path):
    """Sections are read when they are trained on: to the same parameters."""

    def train(table):
        SAGEFM.setup_anndata(table, library_key="library")
        model = SAGEFM(table, hidden=(16, 8))
        model.train(max_epochs=2, batch_size=64, accelerator="cpu", progress=False)
        return model.get_latent_representation()

    expected = train(sections.copy())
    table = stored(sections, form, tmp_path)
    if form == "lazy":
        with pytest.raises(ArgumentError, match=r"adata\.obs = adata\.obs\.to_memory\(\)"):
            train(table)
        table.obs = table.obs.to_memory()
    np.testing.assert_allclose(train(table), expected, **OTHER_KERNELS)


def test_view_of_a_file(section, default, tmp_path):
    table = stored(section, "h5ad", tmp_path)[:200]
    with pytest.raises(ArgumentError, match=r"to_memory\(\)"):
        sagefm.tl.embed(table, default)
    sagefm.tl.embed(table.to_memory(), default)


def test_another_process_has_the_array(tmp_path):
    """There from the start, or made meanwhile: an error, and the other's array stays; what was computed is kept."""
    path = tmp_path / "imputed.zarr"

    def others():
        zarr.open(str(path), mode="w", shape=(2, 2), chunks=(2, 2), dtype="float32")

    with pytest.raises(OutputExistsError, match="exists by now") as raised, dense_layer((5, 3), path):
        others()
    with pytest.raises(OutputExistsError, match="exists"), dense_layer((5, 3), path):
        pass
    assert zarr.open(str(path), mode="r").shape == (2, 2)
    (kept,) = (item for item in tmp_path.iterdir() if item != path)
    assert str(kept / path.name) in str(raised.value)
    assert zarr.open(str(kept / path.name), mode="r").shape == (5, 3)


def test_an_old_graph_comes_back(section, default):
    sagefm.pp.spatial_neighbors(section, n_spots=7)
    before = section.obsp["sagefm_connectivities"].copy()
    section.obsm["spatial"] = section.obsm["spatial"] + 1.0 * np.arange(section.n_obs)[:, None] ** 2
    section.X = dask_of(section.X * 0.5, 100)
    with pytest.raises(CountsError):
        sagefm.tl.embed(section, default)
    assert (section.obsp["sagefm_connectivities"] != before).nnz == 0
    assert section.uns["sagefm_neighbors"]["params"]["n_neighbors"] == 6


def test_memory_is_bounded(section):
    """Rows that are far apart are read in pieces, and no chunk is kept when a section is taken to memory."""
    reads = []

    class Matrix:
        shape = (100_000, 3)

        def __getitem__(self, rows):
            reads.append(rows.stop - rows.start)
            return sparse.csr_matrix((rows.stop - rows.start, 3), dtype=np.float32)

    rows = np.arange(0, 100_000, 60)
    block = StoredMatrix(Matrix(), lambda block: block, rows=rows)[:512]
    assert block.shape == (512, 3)
    assert max(reads) <= 2048
    section.X = dask_of(section.X, 100)
    counts = get_counts(section)
    assert to_memory(counts).nnz == section.X.compute().nnz
    assert not counts._chunks
