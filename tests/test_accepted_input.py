"""Every way to hold the same counts gives the same results, and the counts stay as they are."""

from __future__ import annotations

from itertools import pairwise

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sagefm
from sagefm.model import SAGEFM


def unsorted(matrix):
    """The same matrix, the stored values of each row in reverse order."""
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in pairwise(matrix.indptr)])
    return sparse.csr_matrix((matrix.data[order], matrix.indices[order], matrix.indptr), shape=matrix.shape)


def split(matrix):
    """The same matrix, every count x stored twice in its place: as x - 1 and as 1."""
    data = np.ones(2 * matrix.nnz, dtype=matrix.dtype)
    data[::2] = matrix.data - 1
    return sparse.csr_matrix((data, np.repeat(matrix.indices, 2), 2 * matrix.indptr), shape=matrix.shape)


def with_zeros(matrix):
    """The same matrix with zeros stored in the first column of some rows."""
    coo = matrix.tocoo()
    empty = np.flatnonzero(matrix[:, 0].toarray().ravel() == 0)
    row, col = np.append(coo.row, empty), np.append(coo.col, np.zeros(len(empty), dtype=int))
    return sparse.csr_matrix((np.append(coo.data, np.zeros(len(empty))), (row, col)), shape=matrix.shape)


FORMS = {
    "int32 csr": lambda x: x.astype(np.int32),
    "int64 csr": lambda x: x.astype(np.int64),
    "uint16 csr": lambda x: x.astype(np.uint16),
    "float64 csr": lambda x: x.astype(np.float64),
    "csr array": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "csc array, int64": lambda x: sparse.csc_array(x.astype(np.int64)),
    "csr, unsorted": unsorted,
    "csr, values in two parts": split,
    "csr, zeros stored": with_zeros,
    "csr, 64-bit indices": lambda x: sparse.csr_matrix(
        (x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), shape=x.shape
    ),
    "dense": lambda x: x.toarray(),
    "dense, float64": lambda x: x.toarray().astype(np.float64),
    "dense, int64": lambda x: x.toarray().astype(np.int64),
    "dense, uint16": lambda x: x.toarray().astype(np.uint16),
    "dense, columns first": lambda x: np.asfortranarray(x.toarray()),
    "dask": lambda x: da.from_array(x.toarray(), chunks=(100, 300)),
}


@pytest.fixture(scope="session")
def results(_section, folders, run_verbs):
    return {name: run_verbs(_section.copy(), folder) for name, folder in folders.items()}


@pytest.fixture
def expected(results, checkpoint):
    return results["published" if checkpoint.config.architecture == "published" else "default"]


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, section, checkpoint, expected, run_verbs, assert_same, state):
    section.X = FORMS[form](section.X)
    before = state(section)["X"]
    assert_same(run_verbs(section, checkpoint), expected)
    assert state(section)["X"] == before


@pytest.mark.parametrize("form", ["int64 csr", "csc", "dense", "dense, float64"])
def test_forms_of_a_layer(form, section, default, results, run_verbs, assert_same):
    section.layers["counts"] = FORMS[form](section.X)
    section.X = None
    assert_same(run_verbs(section, default, layer="counts"), results["default"])
    assert section.uns["sagefm"]["X_sagefm"]["layer"] == "counts"


def test_layer_beside_normalised_values(section, default, results, run_verbs, assert_same):
    section.layers["counts"] = section.X.copy()
    section.X = np.log1p(section.X.toarray() / 7)
    assert_same(run_verbs(section, default, layer="counts"), results["default"])


def freeze(adata):
    for matrix in (adata.X, adata.obsm["spatial"]):
        for part in (matrix.data, matrix.indices, matrix.indptr) if sparse.issparse(matrix) else (matrix,):
            part.setflags(write=False)


@pytest.mark.parametrize("form", ["float64 csr", "csr", "csc", "csr, unsorted", "dense", "dense, int64"])
def test_read_only_arrays(form, section, checkpoint, expected, run_verbs, assert_same):
    section.X = FORMS.get(form, lambda x: x)(section.X)
    freeze(section)
    assert_same(run_verbs(section, checkpoint), expected)


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_views(form, section, checkpoint, expected, run_verbs, assert_same, state):
    # The same spots and genes as a view of a larger table.
    # A spot keeps its name: imputation draws from it.
    extra = section[:60].copy()
    extra.obs_names = [f"{name}-again" for name in extra.obs_names]
    larger = ad.concat([extra, section])
    more = larger[:, :40].copy()
    more.var_names = [f"other{i}" for i in range(40)]
    larger = ad.concat([more, larger], axis=1, merge="first")
    larger.obs["domain"] = section.obs["domain"].astype(str).iloc[[*range(60), *range(400)]].to_numpy()
    larger.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}[form](larger.X)
    before = state(larger)
    view = larger[60:, 40:]
    assert view.is_view
    with pytest.warns(ad.ImplicitModificationWarning):
        found = run_verbs(view, checkpoint)
    assert not view.is_view
    found.per_spot.index = expected.per_spot.index
    assert_same(found, expected)
    assert state(larger) == before


def test_copy_of_a_view(section, default, results, state):
    view = section[:, :]
    before = state(section)
    copy = sagefm.tl.embed(view, default, copy=True)
    np.testing.assert_array_equal(copy.obsm["X_sagefm"], results["default"].embedding)
    assert view.is_view
    assert state(section) == before


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "int64 csr", "float64 csr", "dense, int64"])
def test_backed(form, section, checkpoint, expected, run_verbs, assert_same, tmp_path):
    section.X = FORMS.get(form, lambda x: x)(section.X)
    section.write_h5ad(tmp_path / "section.h5ad")
    stored = (tmp_path / "section.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    assert backed.isbacked
    assert_same(run_verbs(backed, checkpoint), expected)
    backed.file.close()
    assert (tmp_path / "section.h5ad").read_bytes() == stored


def test_copy_of_backed(section, default, results, tmp_path):
    section.write_h5ad(tmp_path / "section.h5ad")
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    copy = sagefm.tl.embed(backed, default, copy=True)
    assert not copy.isbacked
    assert "X_sagefm" not in backed.obsm
    assert "sagefm_connectivities" not in backed.obsp
    np.testing.assert_array_equal(copy.obsm["X_sagefm"], results["default"].embedding)
    backed.file.close()


def test_backed_view(section, default, tmp_path):
    section.write_h5ad(tmp_path / "section.h5ad")
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    half = section[:200].copy()
    sagefm.tl.embed(half, default)
    copy = sagefm.tl.embed(backed[:200], default, copy=True)
    np.testing.assert_array_equal(copy.obsm["X_sagefm"], half.obsm["X_sagefm"])
    backed.file.close()


@pytest.mark.parametrize(
    "make", [lambda xy: pd.DataFrame(xy), lambda xy: np.round(xy).astype(np.int64), lambda xy: np.round(xy, 1)]
)
def test_forms_of_coordinates(make, section, default):
    section.obsm["spatial"] = np.round(section.obsm["spatial"])
    sagefm.tl.embed(section, default)
    expected = section.obsm["X_sagefm"]
    coordinates = make(section.obsm["spatial"])
    if isinstance(coordinates, pd.DataFrame):
        coordinates.index = section.obs_names
        coordinates.columns = ["x", "y"]
    section.obsm["pixels"] = coordinates
    sagefm.tl.embed(section, default, spatial_key="pixels")
    np.testing.assert_array_equal(section.obsm["X_sagefm"], expected)


@pytest.mark.parametrize("form", ["int64 csr", "csc", "dense", "dense, float64", "csr, unsorted"])
def test_training_on_every_form(form, section):
    parameters = []
    for adata in (section.copy(), section):
        if adata is section:
            adata.X = FORMS[form](adata.X)
        SAGEFM.setup_anndata(adata)
        model = SAGEFM(adata, hidden=(8, 4))
        model.train(max_epochs=1, accelerator="cpu", batch_size=64)
        parameters.append(model.module.state_dict())
    for name, tensor in parameters[0].items():
        assert tensor.equal(parameters[1][name]), name
