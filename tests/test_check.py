"""``sagefm.pp.check``: what is read, what is odd, and nothing that stops it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData

import sagefm
from sagefm.errors import ArgumentError
from tests.repairs import repaired

TOPICS = ["table", "counts", "sections", "coordinates", "technology", "genes"]


@pytest.mark.parametrize("name", ["dlpfc", "synovium"])
def test_bundled_sections_have_nothing_that_is_told(name, state):
    adata = getattr(sagefm.datasets, name)()
    before = state(adata)
    report = sagefm.pp.check(adata, verbose=False)
    assert state(adata) == before
    assert sorted(report.read) == sorted(TOPICS)
    assert report.ok
    assert {finding.severity for finding in report.findings} <= {"note"}


@pytest.mark.parametrize("n_spots", [100, 1000])
def test_simulated_sections_have_nothing_that_is_told(n_spots):
    adata = sagefm.datasets.simulate(n_spots, n_genes=4000)
    assert not sagefm.pp.check(adata, verbose=False).findings


def test_what_is_read(section, sections, default, capsys):
    report = sagefm.pp.check(section, default)
    assert capsys.readouterr().out == f"{report}\n"
    assert str(report).endswith("nothing odd")
    assert report.read["table"] == "400 spots x 300 genes"
    median = np.median(np.asarray(section.X.sum(axis=1)))
    assert report.read["counts"].startswith(f"adata.X, raw counts: median {median:,.0f} a spot")
    assert "nearest spot at 100 (median), hexagonal array" in report.read["coordinates"]
    assert report.read["technology"].startswith("Visium")
    assert report.read["genes"] == "300 of the 300 of the model's vocabulary (100%): 300 by symbol"
    read = sagefm.pp.check(sections, default, library_key="library", verbose=False).read
    assert read["sections"] == "2 of adata.obs['library']: section1 (150 spots), section2 (150 spots)"
    assert capsys.readouterr().out == ""


def test_technologies(section, synovium, default):
    technology = lambda adata: sagefm.pp.check(adata, default, verbose=False).read["technology"]
    assert "square array" in sagefm.pp.check(synovium, verbose=False).read["technology"]
    section.obs = section.obs[[]]
    section.obsm["spatial"] = np.random.default_rng(0).uniform(0, 1000, (400, 2))
    assert "cells or beads" in technology(section)
    section.obs_names = [f"s_016um_{i:05d}_{i:05d}-1" for i in range(400)]
    assert "bins of 16 um" in technology(section)


def test_everything_that_is_wrong_is_in_one_report(section, default, capsys):
    section.X = section.X.astype(np.float32) / 3
    section.obs["in_tissue"] = (np.arange(400) > 20).astype(int)
    section.obsm["spatial"][[3, 4]] = 1e7
    section.var["feature_types"] = ["Antibody Capture"] + ["Gene Expression"] * 299
    report = sagefm.pp.check(section, default)
    assert not report.ok
    frame = report.to_frame()
    assert frame.columns.tolist() == ["severity", "what", "message", "repair"]
    assert set(frame["what"]) == {"counts", "background", "shared places", "far spots", "features"}
    order = ["error", "warning", "note"]
    assert frame["severity"].map(order.index).is_monotonic_increasing
    text = capsys.readouterr().out
    assert all(repair in text for repair in frame["repair"])
    for what in ("background", "far spots", "counts"):
        (finding,) = [finding for finding in report.findings if finding.what == what]
        section = repaired(section, f"{finding.message}: {finding.repair}")
    assert sagefm.pp.check(section, default, verbose=False).ok


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda adata: adata.obsm.pop("spatial"), "coordinates"),
        (lambda adata: adata.obsm["spatial"].__setitem__((3, 1), np.nan), "coordinates"),
        (lambda adata: setattr(adata, "X", None), "counts"),
        (lambda adata: setattr(adata, "var_names", ["gene"] * 300), "genes"),
        (lambda adata: setattr(adata, "var_names", [f"gene{i}" for i in range(300)]), "genes"),
    ],
    ids=["no coordinates", "NaN", "no counts", "names twice", "other genes"],
)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_errors_of_other_functions_are_findings(damage, what, section, default):
    damage(section)
    with pytest.raises(sagefm.errors.SagefmError) as raised:
        sagefm.tl.embed(section, default)
    report = sagefm.pp.check(section, default, verbose=False)
    (error,) = [finding for finding in report.findings if finding.severity == "error"]
    assert error.what == what
    assert str(error) == str(raised.value)
    assert error.error is type(raised.value)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_the_calls_in_errors_of_other_functions(section, default):
    section.obsm["spatial"][5] = np.nan
    section.var_names = [*section.var_names[1:], section.var_names[1]]
    report = sagefm.pp.check(section, default, verbose=False)
    for finding in report.findings:
        section = repaired(section, f"{finding.message}: {finding.repair}")
    assert section.n_obs == 399
    assert sagefm.pp.check(section, default, verbose=False).ok


def test_containers_and_stored_counts(section, default, tmp_path):
    sdata = SpatialData(tables={"table": section})
    assert sagefm.pp.check(sdata, default, table_key="table", verbose=False).ok
    section.write_h5ad(tmp_path / "section.h5ad")
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    report = sagefm.pp.check(backed, default, verbose=False)
    assert report.read == sagefm.pp.check(section, default, verbose=False).read
    with pytest.raises(ArgumentError, match="DataFrame"):
        sagefm.pp.check(pd.DataFrame(), default)


def test_few_spots_of_any_number(section, default):
    for n_spots in (1, 2, 5, 14, 15):
        report = sagefm.pp.check(section[:n_spots].copy(), default, verbose=False)
        assert report.read["table"].startswith(f"{n_spots} spots")
        assert report.ok == (n_spots >= 15)
