from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
from scipy import sparse

from sagefm import datasets

FOLDER = files("sagefm.datasets") / "files"


def digest(matrix: sparse.csr_matrix) -> str:
    """SHA-256 of values, column indices and row pointers, as little-endian float32 and int32."""
    parts = (matrix.data.astype("<f4"), matrix.indices.astype("<i4"), matrix.indptr.astype("<i4"))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize(
    ("name", "shape", "total", "median", "sha256"),
    [
        ("dlpfc", (3529, 5000), 3_696_397, 948, "4cb50e512dc6639ac1181721ca30e210b0b02a3a46ab0bde2b8c99a1132e877a"),
        ("synovium", (302, 15005), 707_070, 2130, "3f5774ebe7bf885aaae2a2686736c34881ef8549d1905f9aca2c9f7a5e7da76e"),
    ],
)
def test_counts_are_those_of_the_source(name, shape, total, median, sha256):
    adata = getattr(datasets, name)()
    assert adata.shape == shape
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert digest(adata.X) == sha256
    assert (adata.X.data >= 1).all()
    assert (adata.X.data == np.rint(adata.X.data)).all()
    library_size = np.asarray(adata.X.sum(axis=1, dtype=np.float64)).ravel()
    assert library_size.sum() == total
    assert np.median(library_size) == median
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert adata.obsm["spatial"].shape == (shape[0], 2)
    assert adata.obsm["spatial"].dtype == np.float64
    assert np.isfinite(adata.obsm["spatial"]).all()


def test_dlpfc_annotation():
    adata = datasets.dlpfc()
    assert list(adata.obs.columns) == ["array_row", "array_col", "sample"]
    assert set(adata.obs["sample"]) == {"Br8325_ant"}
    assert adata.var["gene_ids"].str.fullmatch(r"ENSG\d{11}").all()
    assert adata.var.loc["GFAP", "gene_ids"] == "ENSG00000131095"
    assert adata.uns["source"]["repo"] == "MicTott/SpotSweeper"
    assert adata.uns["source"]["commit"] == "c0f7e9a31f54bf2d2d326c7eaa9d13e0405cf409"
    assert "Huuki-Myers" in adata.uns["source"]["citation"]
    assert "MIT" in adata.uns["source"]["licence"]


def test_dlpfc_coordinates_follow_the_array():
    adata = datasets.dlpfc()
    row, col = adata.obs["array_row"], adata.obs["array_col"]
    assert ((row + col) % 2 == 0).all()
    assert np.corrcoef(adata.obsm["spatial"][:, 0], row)[0, 1] > 0.9999
    assert np.corrcoef(adata.obsm["spatial"][:, 1], col)[0, 1] < -0.9999


def test_synovium_annotation():
    adata = datasets.synovium()
    assert list(adata.obs.columns) == ["array_row", "array_col", "label", "infiltrate"]
    assert adata.obs["label"].value_counts().to_dict() == {
        "Synovial stroma": 174,
        "Collagenous/Adipose tissue;Synovial stroma": 63,
        "Infiltrate;Synovial stroma": 29,
        "Infiltrate": 27,
        "Collagenous/Adipose tissue": 9,
    }
    assert (adata.obs["infiltrate"] != "none").sum() == 19
    np.testing.assert_array_equal(adata.obsm["spatial"], 200.0 * adata.obs[["array_col", "array_row"]].to_numpy())
    assert adata.uns["source"]["repo"] == "klarman-cell-observatory/3dst"
    assert "Vickovic" in adata.uns["source"]["citation"]


@pytest.mark.parametrize("name", ["dlpfc", "synovium"])
def test_each_call_returns_a_new_object(name):
    first = getattr(datasets, name)()
    before = digest(first.X)
    first.X.data[:] = 7
    first.obsm["spatial"][:] = 0
    first.uns["source"]["repo"] = ""
    second = getattr(datasets, name)()
    assert digest(second.X) == before
    assert second.obsm["spatial"].any()
    assert second.uns["source"]["repo"]


@pytest.mark.parametrize(
    ("licence", "notice", "clause"),
    [
        ("SpotSweeper-MIT.txt", "Copyright (c) 2024 SpotSweeper authors", "Permission is hereby granted"),
        ("3dst-BSD-3-Clause.txt", "Copyright (c) 2019, 3dst All", "Neither the name of the copyright holder"),
    ],
)
def test_licences_ship(licence, notice, clause):
    text = " ".join((FOLDER / "LICENSES" / licence).read_text().split())
    assert notice in text
    assert clause in text
    assert text.endswith(("SOFTWARE.", "POSSIBILITY OF SUCH DAMAGE."))
    assert f"LICENSES/{licence}" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", ["dlpfc", "synovium"])
def test_provenance_stands_beside_the_files(name):
    readme = (FOLDER / "README.md").read_text()
    source = getattr(datasets, name)().uns["source"]
    assert source["repo"] in readme
    assert source["commit"] in readme
    doi = re.search(r"doi:(10\.\S+?)[.;]?\s", getattr(datasets, name).__doc__).group(1)
    assert doi in readme


def test_import_is_light():
    code = (
        "import sys, sagefm.datasets as d; dir(d); "
        "print([m for m in ('anndata', 'scanpy', 'squidpy', 'torch', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names():
    assert dir(datasets) == ["Corpus", "dlpfc", "hest", "plant", "simulate", "synovium"]
    with pytest.raises(AttributeError, match="no attribute 'dlpcf'"):
        _ = datasets.dlpcf
