"""``sagefm domains``: what it writes and says, on files of each kind."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sagefm
from tests import test_cli
from tests.test_cli import run

succeeds = partial(test_cli.succeeds, "domains")


@pytest.fixture
def file(section: ad.AnnData, tmp_path: Path) -> Path:
    path = tmp_path / "section.h5ad"
    section.write_h5ad(path)
    return path


def test_as_the_function(file, section, tmp_path):
    out = tmp_path / "out.h5ad"
    text = succeeds(file, "-o", out, "-n", 4, "--seed", 3)
    assert '4, as asked, in obs["sagefm_domain"]' in text
    assert 'obsm["X_sagefm_domains"]' in text
    expected = sagefm.tl.domains(section, 4, rng=3, copy=True)
    stored = ad.read_h5ad(out)
    pd.testing.assert_series_equal(stored.obs["sagefm_domain"], expected.obs["sagefm_domain"])
    np.testing.assert_array_equal(stored.obsm["X_sagefm_domains"], expected.obsm["X_sagefm_domains"])
    assert (stored.X != section.X).nnz == 0


def test_number_is_chosen(file, tmp_path):
    (line,) = succeeds(file, "-o", tmp_path / "out.h5ad", "--json").splitlines()
    facts = json.loads(line)
    assert facts["n_domains"] == len(facts["sizes"])
    assert sum(facts["sizes"]) == 400


def test_lazily(file, tmp_path):
    """Counts stay in the file; the output has none."""
    succeeds(file, "-o", tmp_path / "whole.h5ad", "-n", 4)
    succeeds(file, "-o", tmp_path / "lazy.h5ad", "-n", 4, "--lazy")
    whole, lazy = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("whole", "lazy"))
    assert lazy.X is None
    np.testing.assert_allclose(lazy.obsm["X_sagefm_domains"], whole.obsm["X_sagefm_domains"], atol=1e-3)


def test_several_sections_of_a_file_and_other_options(sections, tmp_path):
    sections.layers["counts"] = sections.X
    sections.X = sections.X.log1p()
    sections.write_zarr(tmp_path / "sections.zarr")
    options = ["--layer", "counts", "--library-key", "library", "--key-added", "region", "-n", 3]
    succeeds(tmp_path / "sections.zarr", "-o", tmp_path / "out.zarr", *options)
    stored = ad.read_zarr(tmp_path / "out.zarr")
    assert stored.obs["region"].nunique() == 3
    assert stored.uns["region"]["components"]["section"].nunique() == 2
    assert stored.obsm["X_region"].shape == (300, 12)


def test_several_files(file, tmp_path):
    (tmp_path / "other.h5ad").write_bytes(file.read_bytes())
    succeeds(file, tmp_path / "other.h5ad", "-o", tmp_path / "out", "-n", 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other.h5ad", "section.h5ad"]


def test_an_embedding(section, tmp_path):
    section.obsm["X_own"] = np.log1p(section.X.toarray())[:, :20]
    section.write_h5ad(tmp_path / "section.h5ad")
    succeeds(tmp_path / "section.h5ad", "-o", tmp_path / "out.h5ad", "-n", 2, "--use-rep", "X_own")
    assert ad.read_h5ad(tmp_path / "out.h5ad").uns["sagefm_domain"]["params"]["use_rep"] == "X_own"


def test_what_fails(file, tmp_path):
    result = run("domains", file, "-o", tmp_path / "out.h5ad", "--layer", "nolayer")
    assert result.exit_code == 1
    assert "'nolayer'" in result.stderr
    assert run("domains", file, "-o", tmp_path / "out.h5ad", "-n", 1).exit_code == 2
    assert run("domains", file, "-o", tmp_path / "out.h5ad", "-m", "default").exit_code == 2
    assert not (tmp_path / "out.h5ad").exists()
