"""A second modality joined to the embedding, by the recipe of docs/interoperability.md."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc

import sagefm
from tests.benchmarks.multi_omics import agreement, log_normalized, mofa, simulate, train
from tests.recipes import run_recipe
from tests.space_ranger import PROTEINS, write_folder

mu = pytest.importorskip("muon", reason="pip install 'sagefm[interop]'", exc_type=ImportError)


@pytest.fixture(scope="module")
def fused():
    """A simulated section, its modalities joined by the recipe."""
    mdata = simulate(0)
    return run_recipe(
        "interoperability.md", "A second modality", mdata=mdata, model=train(mdata), mu=mu, np=np, sc=sc, sagefm=sagefm
    )


def test_fusion_finds_what_no_modality_does_alone(fused):
    rna, protein = fused["rna"], fused["protein"]
    truth = rna.obs["truth"]
    assert agreement(truth, rna.obsm["X_joint"]) > 0.8
    assert agreement(truth, rna.obsm["X_sagefm"]) < 0.6
    assert agreement(truth, protein.obsm["X_pca"]) < 0.6


def test_each_modality_has_the_same_weight(fused):
    joint, width = fused["rna"].obsm["X_joint"], fused["rna"].obsm["X_sagefm"].shape[1]
    variance = joint.var(axis=0)
    np.testing.assert_allclose(variance[:width].sum(), variance[width:].sum(), rtol=1e-4)


def test_beside_mofa(fused):
    """The factors of MOFA, on the same modalities and by the same clustering."""
    pytest.importorskip("mofapy2", reason="pip install 'sagefm[interop]'")
    rna = fused["rna"]
    factors = mofa(log_normalized(rna), fused["protein"])
    assert agreement(rna.obs["truth"], factors) > 0.8
    assert agreement(rna.obs["truth"], rna.obsm["X_joint"]) > agreement(rna.obs["truth"], factors) - 0.1


def test_a_folder_with_proteins(tmp_path):
    """Space Ranger's file of both: muon makes the modalities, and the embedding reads the genes alone."""
    whole = sagefm.datasets.dlpfc()
    near = whole.obs["array_row"].between(20, 30) & whole.obs["array_col"].between(30, 70)
    inside = whole[near].copy()
    folder = write_folder(tmp_path / "outs", inside, whole[~near].copy())
    mdata = mu.read_10x_h5(folder / "filtered_feature_bc_matrix.h5")
    assert list(mdata["prot"].var_names) == list(PROTEINS)
    mdata["rna"].obsm["spatial"] = inside[mdata["rna"].obs_names].obsm["spatial"]
    sagefm.tl.embed(inside)
    sagefm.tl.embed(mdata, mod="rna")
    np.testing.assert_array_equal(mdata["rna"].obsm["X_sagefm"], inside.obsm["X_sagefm"])
    assert not mdata["prot"].obsm.keys()
