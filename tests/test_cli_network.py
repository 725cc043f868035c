"""``sagefm network``: what it writes, prints and refuses."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import pytest

import sagefm
from tests import test_cli

KEY = "sagefm_network"


succeeds = partial(test_cli.succeeds, "network")


def fails(code: int, *arguments: Any) -> str:
    return test_cli.fails(code, "network", *arguments)


@pytest.fixture
def file(section: ad.AnnData, tmp_path: Path) -> Path:
    section.write_h5ad(tmp_path / "section.h5ad")
    return tmp_path / "section.h5ad"


@pytest.fixture
def genes(pairs: pd.DataFrame) -> list[str]:
    return ["--sources", ",".join(pairs["source"]), "--targets", ",".join(pairs["target"])]


def test_writes_what_the_function_does(
    section: ad.AnnData, file: Path, genes: list[str], pairs: pd.DataFrame, tmp_path: Path
) -> None:
    text = succeeds(
        file, "-o", tmp_path / "out.h5ad", *genes, "--table", tmp_path / "edges.tsv", "--null", "rotation", "--fields"
    )
    named = {"sources": list(pairs["source"]), "targets": list(pairs["target"])}
    sagefm.tl.regulatory_network(section, **named, null="rotation", fields=True)
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    for part in ("edges", "null"):
        pd.testing.assert_frame_equal(written.uns[KEY][part], section.uns[KEY][part], check_index_type=False, rtol=1e-5)
    for side in ("around", "center"):
        pd.testing.assert_frame_equal(written.obsm[f"{KEY}_{side}"], section.obsm[f"{KEY}_{side}"], rtol=1e-5)
    table = pd.read_csv(tmp_path / "edges.tsv", sep="\t")
    assert list(table.columns) == list(section.uns[KEY]["edges"].columns)
    assert len(table) == 16
    assert "16, of which " in text
    assert " as observed" in text
    best = section.uns[KEY]["edges"].iloc[0]
    assert best["source"] in text
    assert best["target"] in text
    result = test_cli.run("info", tmp_path / "out.h5ad")
    assert f'uns["{KEY}"], 16 couplings' in result.stdout


def test_several_files_and_libraries(sections: ad.AnnData, genes: list[str], tmp_path: Path) -> None:
    sections.write_h5ad(tmp_path / "both.h5ad")
    sections[sections.obs["library"] == "section1"].write_h5ad(tmp_path / "one.h5ad")
    inputs = [tmp_path / "both.h5ad", tmp_path / "one.h5ad"]
    text = succeeds(
        *inputs, "-o", tmp_path / "out", *genes, "--library-key", "library", "--table", tmp_path / "edges", "--json",
    )  # fmt: skip
    facts = [json.loads(line) for line in text.splitlines()]
    assert [fact["n_pairs"] for fact in facts] == [16, 16]
    both, one = (pd.read_csv(tmp_path / "edges" / f"{path.stem}.csv") for path in inputs)
    assert set(both["library"]) == {"combined", "section1", "section2"}
    own = both[both["library"] == "section1"].drop(columns="library").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, one, rtol=1e-4)


def test_lazy_and_a_model(file: Path, folders: dict[str, Path], genes: list[str], tmp_path: Path) -> None:
    succeeds(file, "-o", tmp_path / "whole.h5ad", *genes)
    succeeds(file, "-o", tmp_path / "lazy.h5ad", *genes, "--lazy")
    succeeds(file, "-o", tmp_path / "model.h5ad", *genes, "-m", folders["default"])
    whole, lazy, model = (ad.read_h5ad(tmp_path / f"{name}.h5ad").uns[KEY] for name in ("whole", "lazy", "model"))
    pd.testing.assert_frame_equal(whole["edges"], lazy["edges"], rtol=1e-4)
    assert "model" not in whole["params"]
    assert model["params"]["checkpoint_sha256"]
    assert list(whole["edges"]["z"]) != list(model["edges"]["z"])


def test_wrong_usage(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    assert "not measured in this table: ['NOGENE']" in fails(1, file, "-o", out, "--sources", "NOGENE")
    assert "at most 200 named ones" in fails(1, file, "-o", out, "--fields")
    assert "no gene" in fails(2, file, "-o", out, "--sources", ",")
    fails(2, file, "-o", out, "--null", "shuffle")
    assert not out.exists()


def test_the_first_example_of_the_help_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    adata = sagefm.datasets.dlpfc()
    adata[adata.obsm["spatial"].sum(axis=1).argsort()[:200]].write_h5ad("section.h5ad")
    example = next(line for line in succeeds("--help").splitlines() if line.startswith("    sagefm network"))
    succeeds(*shlex.split(example)[2:])
    assert len(pd.read_csv("edges.csv")) == 4
