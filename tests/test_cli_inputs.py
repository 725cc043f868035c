"""Files that people have, on the command line: what ``sagefm info`` says of them, and that a batch goes on."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from shapely import Point
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import sagefm
from tests.test_cli import fails, run, succeeds


@pytest.fixture
def model(folders: dict[str, Path]) -> Path:
    return folders["default"]


def test_info_shows_what_check_returns(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    section.obs["in_tissue"] = (np.arange(400) > 3).astype(int)
    section.obsm["spatial"][9] = 1e8
    path = tmp_path / "section.h5ad"
    section.write_h5ad(path)
    report = sagefm.pp.check(section, model, verbose=False)
    text = succeeds("info", path, "-m", model)
    for line in report.read.values():
        assert line in text
    for finding in report.findings:
        assert str(finding) in text
    assert "  error                    ! 4 of 400 rows are no tissue" in text
    facts = json.loads(succeeds("info", "--json", path, "-m", model))
    assert facts["findings"] == report.to_frame().to_dict(orient="records")
    assert {"background", "far spots"} <= {finding["what"] for finding in facts["findings"]}
    assert (facts["n_spots"], facts["n_genes"]) == (400, 300)


def test_info_looks_for_the_genes_of_the_bundled_model(section: ad.AnnData, tmp_path: Path) -> None:
    section.write_h5ad(tmp_path / "section.h5ad")
    assert "of the 12,121 of the model's vocabulary" in succeeds("info", tmp_path / "section.h5ad")


def test_warnings_of_odd_input_are_lines(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    section.obsm["spatial"][9] = 1e8
    section.write_h5ad(tmp_path / "section.h5ad")
    result = run("embed", tmp_path / "section.h5ad", "-m", model, "-o", tmp_path / "out.h5ad")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: 1 spots are ")


def test_counts_in_raw(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "section.h5ad", tmp_path / "out.h5ad"
    expected = sagefm.tl.embed(section, str(model), copy=True).obsm["X_sagefm"]
    section.write_h5ad(path)
    assert "no adata.raw" in fails(1, "embed", path, "-m", model, "-o", out, "--use-raw")
    section.raw = section.copy()
    sc.pp.normalize_total(section)
    sc.pp.log1p(section)
    section[:, :100].write_h5ad(path)
    assert "found in adata.raw" in fails(1, "embed", path, "-m", model, "-o", out)
    succeeds("embed", path, "-m", model, "-o", out, "--use-raw")
    written = ad.read_h5ad(out)
    assert written.shape == (400, 300)
    np.testing.assert_array_equal(written.obsm["X_sagefm"], expected)


def test_a_file_that_is_read_but_cannot_be_written_does_not_stop_the_others(
    section: ad.AnnData, model: Path, tmp_path: Path
) -> None:
    """SeuratDisk writes a column ``_index`` into ``raw.var``."""
    section.write_h5ad(tmp_path / "b.h5ad")
    section.raw = section.copy()
    section.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        var = file["raw/var"]
        var.move(var.attrs["_index"], "features")
        var.copy("features", "_index")
        var.attrs["_index"], var.attrs["column-order"] = "features", np.array(["_index"], dtype=object)
    message = fails(1, "embed", tmp_path / "a.h5ad", tmp_path / "b.h5ad", "-m", model, "-o", tmp_path / "out")
    assert "a.h5ad cannot be written" in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.h5ad"]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_names_as_pandas_3_has_them(suffix: str, section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    section.obs_names, section.var_names = (names.astype("string") for names in (section.obs_names, section.var_names))
    section.obs["text"] = pd.array(["a"] * 400, dtype="string")
    with ad.settings.override(allow_write_nullable_strings=True):
        section.write_h5ad(tmp_path / "section.h5ad")
    succeeds("embed", tmp_path / "section.h5ad", "-m", model, "-o", tmp_path / f"out{suffix}")
    read = ad.read_zarr if suffix == ".zarr" else ad.read_h5ad
    assert list(read(tmp_path / f"out{suffix}").obs_names) == list(section.obs_names)


@pytest.mark.filterwarnings("ignore:SpatialData is not stored in the most current format")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_store_of_an_early_spatialdata(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    """It has no mark of its own at its root."""
    coordinates = section.obsm.pop("spatial")
    section.uns.clear()
    section.obs["region"], section.obs["spot"] = pd.Categorical(["spots"] * 400), np.arange(400)
    circles = geopandas.GeoDataFrame({"geometry": [Point(*place) for place in coordinates], "radius": 50.0})
    table = TableModel.parse(section, region="spots", region_key="region", instance_key="spot")
    path = tmp_path / "early.zarr"
    SpatialData(shapes={"spots": ShapesModel.parse(circles)}, tables={"table": table}).write(path)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"] = {}
    root.pop("consolidated_metadata", None)
    (path / "zarr.json").write_text(json.dumps(root))
    succeeds("embed", path, "-m", model, "-o", tmp_path / "out.h5ad")
    assert ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_sagefm"].shape == (400, 16)
