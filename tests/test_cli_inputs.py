"""Files that people have, on the command line: what ``sagefm info`` says of them, and that a batch goes on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import anndata as ad
import geopandas
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from shapely import Point
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import sagefm
from sagefm.model import load_checkpoint
from tests import OTHER_KERNELS
from tests.space_ranger import write_folder
from tests.test_cli import SMALL, fails, run, succeeds


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


# Other kinds of sections


@pytest.fixture
def space_ranger(tmp_path: Path) -> list[Path]:
    """Folders of two samples, each a part of the bundled section."""
    whole = sagefm.datasets.dlpfc()
    samples = []
    for name, first in {"left": 30, "right": 60}.items():
        near = whole.obs["array_row"].between(20, 40) & whole.obs["array_col"].between(first, first + 30)
        write_folder(tmp_path / "runs" / name / "outs", whole[near].copy(), whole[~near].copy())
        samples.append(tmp_path / "runs" / name)
    return samples


def test_folders_of_space_ranger(space_ranger: list[Path], tmp_path: Path) -> None:
    """Outputs are named after the samples, and keep their images."""
    assert "Visium, by the hexagonal array" in succeeds("info", space_ranger[0])
    succeeds("embed", *space_ranger, "-o", tmp_path / "out")
    for path in space_ranger:
        written = ad.read_h5ad(tmp_path / "out" / f"{path.name}.h5ad")
        expected = sagefm.tl.embed(sagefm.io.read(path), copy=True)
        np.testing.assert_array_equal(written.obsm["X_sagefm"], expected.obsm["X_sagefm"])
        assert set(written.uns["spatial"][path.name]["images"]) == {"hires", "lowres"}
    succeeds("domains", tmp_path / "runs" / "*", "-o", tmp_path / "domains", "-n", 2)
    assert sorted(path.name for path in (tmp_path / "domains").iterdir()) == ["left.h5ad", "right.h5ad"]
    assert "holds no section" not in fails(2, "embed", tmp_path / "runs", "-o", tmp_path / "other")


def test_training_on_folders(space_ranger: list[Path], tmp_path: Path) -> None:
    succeeds("train", *space_ranger, "-o", tmp_path / "model", *SMALL)
    checkpoint = load_checkpoint(tmp_path / "model")
    assert set(checkpoint.training["sections"]) == {"left", "right"}


def test_mudata(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "section.h5mu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        protein = section[:, :5].copy()
        protein.var_names = [f"protein{i}" for i in range(5)]
        mudata.MuData({"rna": section, "protein": protein}).write(path)
    assert "pass --mod" in succeeds("info", path)
    assert "Visium" in succeeds("info", path, "--mod", "rna", "-m", model)
    assert "Pass mod=" in fails(1, "embed", path, "-m", model, "-o", tmp_path / "out.h5ad")
    assert ".h5mu, or .h5ad" in fails(1, "embed", path, "-m", model, "--mod", "rna", "-o", tmp_path / "out.zarr")
    succeeds("embed", path, "-m", model, "--mod", "rna", "-o", tmp_path / "out.h5ad")
    succeeds("embed", path, "-m", model, "--mod", "rna", "-o", tmp_path / "out.h5mu")
    expected = ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_sagefm"]
    np.testing.assert_array_equal(mudata.read_h5mu(tmp_path / "out.h5mu")["rna"].obsm["X_sagefm"], expected)
    assert ".h5ad or .zarr" in fails(1, "embed", tmp_path / "out.h5ad", "-m", model, "-o", tmp_path / "again.h5mu")


def test_a_folder_of_hest_stands_for_its_sections(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    (tmp_path / "hest" / "st").mkdir(parents=True)
    for name in ("TENX1", "TENX2"):
        section.write_h5ad(tmp_path / "hest" / "st" / f"{name}.h5ad")
    assert succeeds("info", tmp_path / "hest", "-m", model).count("400 spots x 300 genes") == 2
    succeeds("embed", tmp_path / "hest", "-m", model, "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["TENX1.h5ad", "TENX2.h5ad"]


def test_a_table_of_spatial_transcriptomics(synovium: ad.AnnData, tmp_path: Path) -> None:
    synovium.obs_names = [f"{x}x{y}" for x, y in synovium.obs[["array_col", "array_row"]].to_numpy()]
    synovium.to_df().to_csv(tmp_path / "RA1.tsv.gz", sep="\t")
    succeeds("embed", tmp_path / "RA1.tsv.gz", "-o", tmp_path / "out")
    written = ad.read_h5ad(tmp_path / "out" / "RA1.h5ad")
    expected = sagefm.tl.embed(synovium, copy=True)[written.obs_names].obsm["X_sagefm"]
    np.testing.assert_allclose(written.obsm["X_sagefm"], expected, **OTHER_KERNELS)
