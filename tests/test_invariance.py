"""What must not change a result does not: order, blocks, other sections, coordinates' unit, copies, files, seeds."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from scipy import sparse
from scipy.spatial.distance import cdist

import sagefm
from sagefm.model import SAGEFM, load_checkpoint
from tests import OTHER_KERNELS

each_mask = pytest.mark.parametrize("mask", ["center", "neighborhood"])


def jittered(section, seed=0):
    """The section with its spots moved a little at random: no two distances are equal."""
    section.obsm["spatial"] = section.obsm["spatial"] + np.random.default_rng(seed).normal(
        scale=8, size=(len(section), 2)
    )
    return section


# Order


def test_order_of_spots(section, checkpoint, run_verbs, assert_same):
    """Ties included: on a hexagonal array nearly every spot has several candidates for the last place."""
    order = np.random.default_rng(0).permutation(section.n_obs)
    shuffled = section[order].copy()
    expected, found = run_verbs(section, checkpoint), run_verbs(shuffled, checkpoint)
    graph = section.obsp["sagefm_connectivities"][order][:, order]
    assert (graph != shuffled.obsp["sagefm_connectivities"]).nnz == 0
    for name in ("embedding", "imputed"):
        setattr(expected, name, getattr(expected, name)[order])
    expected.per_spot = expected.per_spot.iloc[order]
    # Ranks of nearly equal numbers: the mean over 400 spots moves by less than one rank of one spot.
    rho, expected_rho = found.scores.pop("rho"), expected.scores.pop("rho")
    np.testing.assert_allclose(rho, expected_rho, atol=1 / 400)
    assert_same(found, expected, **OTHER_KERNELS)


def test_order_of_spots_on_a_real_square_array(synovium, synovium_model):
    order = np.random.default_rng(1).permutation(synovium.n_obs)
    shuffled = synovium[order].copy()
    for adata in (synovium, shuffled):
        sagefm.tl.embed(adata, synovium_model)
        sagefm.tl.impute(adata, synovium_model, genes=["CD74", "COL1A1", "FN1"], progress=False)
    nearest = np.sort(cdist(*[synovium.obsm["spatial"]] * 2), axis=1)
    assert (nearest[:, 14] == nearest[:, 15]).mean() > 0.8, "this array has ties"
    np.testing.assert_allclose(shuffled.obsm["X_sagefm"], synovium.obsm["X_sagefm"][order], **OTHER_KERNELS)
    imputed = (adata.layers["sagefm_imputed"].toarray() for adata in (shuffled, synovium[order]))
    np.testing.assert_allclose(*imputed, **OTHER_KERNELS)


def test_order_of_genes(section, checkpoint, run_verbs, assert_same):
    order = np.random.default_rng(2).permutation(section.n_vars)
    shuffled = section[:, order].copy()
    expected, found = run_verbs(section, checkpoint), run_verbs(shuffled, checkpoint)
    expected.imputed, expected.r = expected.imputed[:, order], expected.r[order]
    # An embedding adds up in the order of the table.
    np.testing.assert_allclose(found.embedding, expected.embedding, **OTHER_KERNELS)
    expected.embedding = found.embedding
    # To the bit: the other verbs put columns in the order of the vocabulary.
    assert_same(found, expected)


def test_order_of_pairs(section, checkpoint, pairs):
    tables = []
    for given in (pairs, pairs.iloc[::-1]):
        sagefm.tl.perturb(section, checkpoint, pairs=given, progress=False)
        scores = section.uns["sagefm_perturb"]["scores"]
        pd.testing.assert_frame_equal(scores[["source", "target"]], given.reset_index(drop=True))
        tables.append(scores.sort_values(["source", "target"], ignore_index=True))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


# Blocks


@pytest.mark.parametrize("batch_size", [1, 7, 399, 100_000])
def test_batch_size(batch_size, section, checkpoint, run_verbs, assert_same):
    expected = run_verbs(section.copy(), checkpoint)
    assert_same(run_verbs(section, checkpoint, batch_size=batch_size), expected, **OTHER_KERNELS)


@each_mask
def test_requested_genes_are_the_columns_of_all(mask, section, checkpoint):
    sagefm.tl.impute(section, checkpoint, mask=mask, progress=False)
    some = section.var_names[[250, 3, 77]].to_list()
    part = sagefm.tl.impute(section, checkpoint, genes=some, mask=mask, progress=False, copy=True)
    assert sparse.issparse(part.layers["sagefm_imputed"])
    assert part.var["sagefm_imputed"].sum() == 3
    for gene in some:
        found = part[:, gene].layers["sagefm_imputed"].toarray()
        np.testing.assert_allclose(found, section[:, gene].layers["sagefm_imputed"], **OTHER_KERNELS)
        assert part.var.loc[gene, "sagefm_imputed_r"] == pytest.approx(
            section.var.loc[gene, "sagefm_imputed_r"], abs=1e-5
        )


@pytest.mark.parametrize("interleaved", [False, True])
@each_mask
def test_sections_of_a_table_are_alone(mask, interleaved, sections, checkpoint):
    if interleaved:
        sections = sections[np.random.default_rng(3).permutation(sections.n_obs)].copy()
    sagefm.tl.embed(sections, checkpoint, library_key="library")
    sagefm.tl.impute(sections, checkpoint, mask=mask, library_key="library", progress=False)
    for name in sections.obs["library"].unique():
        rows = (sections.obs["library"] == name).to_numpy()
        # The same names: imputation draws from them which spots the read-out is fitted on.
        obs, obsm = sections.obs[[]][rows], {"spatial": sections.obsm["spatial"][rows]}
        alone = ad.AnnData(sections.X[rows], obs=obs, var=sections.var[[]], obsm=obsm)
        sagefm.tl.embed(alone, checkpoint)
        sagefm.tl.impute(alone, checkpoint, mask=mask, progress=False)
        np.testing.assert_allclose(sections.obsm["X_sagefm"][rows], alone.obsm["X_sagefm"], **OTHER_KERNELS)
        np.testing.assert_allclose(
            sections.layers["sagefm_imputed"][rows], alone.layers["sagefm_imputed"], **OTHER_KERNELS
        )
        graph = sections.obsp["sagefm_connectivities"][rows][:, rows]
        assert (graph != alone.obsp["sagefm_connectivities"]).nnz == 0


def test_own_graph_is_the_stored_graph(section, checkpoint, run_verbs, assert_same):
    expected = run_verbs(section, checkpoint)
    section.obsp["mine"] = section.obsp["sagefm_connectivities"] * 0.3
    section.uns["lattice_neighbors"] = {"connectivities_key": "mine"}
    assert_same(run_verbs(section, checkpoint, neighbors_key="lattice"), expected)


# Coordinates


MOVES = {
    "translation": lambda xy: xy + np.array([1e5, -3e4]),
    "rotation": lambda xy: xy @ np.array([[0, 1], [-1, 0]]),
    "reflection": lambda xy: xy * np.array([-1, 1]),
    "micrometres": lambda xy: xy * 0.36,
    "metres": lambda xy: xy * 1e-6,
}


@pytest.mark.parametrize("move", MOVES)
def test_moved_coordinates(move, section, checkpoint, run_verbs, assert_same):
    jittered(section)
    moved = section.copy()
    moved.obsm["spatial"] = MOVES[move](section.obsm["spatial"])
    assert_same(run_verbs(moved, checkpoint), run_verbs(section, checkpoint))


@pytest.mark.parametrize("move", ["translation", "micrometres", "metres"])
def test_moved_coordinates_with_ties(move, section, synovium, default, synovium_model):
    """Moves that keep the order of rows and columns keep the choice among spots at the same distance."""
    for adata, model in ((section, default), (synovium, synovium_model)):
        moved = adata.copy()
        moved.obsm["spatial"] = MOVES[move](adata.obsm["spatial"])
        sagefm.tl.embed(adata, model)
        sagefm.tl.embed(moved, model)
        np.testing.assert_array_equal(moved.obsm["X_sagefm"], adata.obsm["X_sagefm"])


def test_graph_follows_the_coordinates(section, default):
    """A stored graph is not used for other coordinates, nor for a part of the spots or other libraries."""
    sagefm.tl.embed(section, default)
    moved = jittered(section.copy())
    half = section[::2].copy()
    split = section.copy()
    split.obs["half"] = np.where(np.arange(400) < 200, "a", "b")
    for adata, arguments in ((moved, {}), (half, {}), (split, {"library_key": "half"})):
        fresh = ad.AnnData(adata.X, obs=adata.obs, var=adata.var[[]], obsm={"spatial": adata.obsm["spatial"]})
        with pytest.warns(match="it is replaced") if arguments else nullcontext():
            sagefm.tl.embed(adata, default, **arguments)
        sagefm.tl.embed(fresh, default, **arguments)
        np.testing.assert_array_equal(adata.obsm["X_sagefm"], fresh.obsm["X_sagefm"])


# In place or not


def verbs(model, pairs):
    return {
        "spatial_neighbors": lambda a, **kw: sagefm.pp.spatial_neighbors(a, **kw),
        "embed": lambda a, **kw: sagefm.tl.embed(a, model, **kw),
        "impute": lambda a, **kw: sagefm.tl.impute(a, model, progress=False, **kw),
        "impute one": lambda a, **kw: sagefm.tl.impute(a, model, genes=["DBI"], progress=False, **kw),
        "perturb": lambda a, **kw: sagefm.tl.perturb(a, model, pairs=pairs, per_spot=True, progress=False, **kw),
    }


def test_copy_is_in_place_elsewhere(section, checkpoint, pairs, state):
    for name, verb in verbs(checkpoint, pairs).items():
        before = state(section)
        copy = verb(section, copy=True)
        assert state(section) == before, name
        in_place = section.copy()
        assert verb(in_place) is None
        assert state(copy) == state(in_place), name
        assert state(copy) != before, name


def test_uns_of_a_shallow_copy_is_not_shared(section, default):
    sagefm.tl.embed(section, default)
    before = section.uns["sagefm"]
    shallow = ad.AnnData(section.X, obs=section.obs, var=section.var, obsm=dict(section.obsm), uns=dict(section.uns))
    sagefm.tl.embed(shallow, default, key_added="again")
    assert section.uns["sagefm"] is before
    assert set(before) == {"X_sagefm"}


def test_verbs_add_and_change_nothing_else(section, checkpoint, pairs, state):
    section.uns["sagefm"] = {"mine": 1}
    sagefm.pp.spatial_neighbors(section)
    for name, verb in {
        **verbs(checkpoint, pairs),
        "match_genes": lambda a: sagefm.pp.match_genes(a, model=checkpoint),
    }.items():
        before = state(section)
        verb(section)
        after = state(section)
        assert after["X"] == before["X"], name
        assert after["uns"]["sagefm"]["mine"] == before["uns"]["sagefm"]["mine"], name
        for part in ("layers", "obsm", "obsp", "uns"):
            kept = {key: value for key, value in after[part].items() if key in before[part] and "sagefm" not in key}
            assert kept == {key: value for key, value in before[part].items() if "sagefm" not in key}, name
        assert after["obs"] == before["obs"], name


def test_a_second_call_leaves_nothing_of_the_first(section, default, pairs):
    sagefm.tl.perturb(section, default, pairs=pairs, per_spot=True, progress=False)
    sagefm.tl.perturb(section, default, pairs=pairs.iloc[:1], progress=False)
    assert "sagefm_perturb" not in section.obsm
    rest = section[:, section.var_names != "MVP"].copy()
    sagefm.tl.impute(rest, default, genes=["MVP"], progress=False)
    sagefm.tl.impute(rest, default, genes=["DBI"], progress=False)
    assert "sagefm_imputed" not in rest.obsm


def test_counts_stay_through_setup_training_and_use(section, state):
    before = state(section)
    SAGEFM.setup_anndata(section)
    model = SAGEFM(section, hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu")
    model.get_latent_representation()
    model.impute(genes=["DBI"])
    model.perturb(sources=["DBI"], targets=["MVP"])
    after = state(section)
    assert after["X"] == before["X"]
    assert after["obsm"] == before["obsm"]
    assert after["layers"] == before["layers"]


# Seeds


def trained_parameters(section, architecture, *, seed=0, train_seed=0, dropout=0.1):
    SAGEFM.setup_anndata(section)
    hidden = (16, 8) if architecture == "default" else (16, 8, 8, 8, 8)
    model = SAGEFM(section, architecture=architecture, hidden=hidden, rng=seed, dropout=dropout)
    model.train(max_epochs=2, accelerator="cpu", batch_size=64, rng=train_seed)
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


@pytest.mark.parametrize("architecture", ["default", "published"])
def test_training_is_its_seeds(architecture, section):
    first = trained_parameters(section.copy(), architecture)
    np.random.seed(5)  # noqa: NPY002  whatever the global generators are at
    torch.manual_seed(5)
    random.seed(5)
    second = trained_parameters(section.copy(), architecture)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    for other in ({"seed": 1}, {"train_seed": 1}):
        third = trained_parameters(section.copy(), architecture, **other)
        assert not torch.equal(first["fc_gene.weight"], third["fc_gene.weight"]), other


def test_dropout_is_used_in_training(section):
    without, with_dropout = (trained_parameters(section.copy(), "default", dropout=share) for share in (0.0, 0.5))
    assert not torch.equal(without["fc_gene.weight"], with_dropout["fc_gene.weight"])


def test_training_without_validation(section):
    SAGEFM.setup_anndata(section)
    model = SAGEFM(section, hidden=(8, 4))
    model.train(max_epochs=2, accelerator="cpu", validation_size=0)
    assert "validation_loss" not in model.history
    assert sorted(model.train_indices_) == list(range(400))


def test_training_again_is_training(section):
    """A second call goes on from the first's parameters, in training mode."""
    SAGEFM.setup_anndata(section)
    model = SAGEFM(section, hidden=(16, 8))
    model.train(max_epochs=1, accelerator="cpu", batch_size=64)
    first = model.module.fc_gene.weight.detach().clone()
    model.train(max_epochs=1, accelerator="cpu", batch_size=64)
    assert not torch.equal(first, model.module.fc_gene.weight)
    assert not model.module.training


def test_global_generators_are_left_alone(section, pairs, run_verbs):
    states = [random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()]  # noqa: NPY002
    SAGEFM.setup_anndata(section)
    model = SAGEFM(section, hidden=(16, 8))
    model.train(max_epochs=1, accelerator="cpu")
    run_verbs(section, model)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tobytes() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_another_rng_differs(section, default):
    results = []
    for rng in (0, 0, 1):
        sagefm.tl.impute(section, default, rng=rng, progress=False)
        results.append(section.layers["sagefm_imputed"])
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


# Checkpoints


@pytest.mark.parametrize("architecture", ["default", "published"])
def test_saved_is_loaded(architecture, trained, folders, section, run_verbs, assert_same):
    model, folder = trained[architecture], folders[architecture]
    expected = run_verbs(section.copy(), model)
    without, with_adata = SAGEFM.load(folder), SAGEFM.load(folder, section.copy())
    for other in (folder, str(folder), load_checkpoint(folder), without, with_adata, SAGEFM.from_pretrained(folder)):
        assert_same(run_verbs(section.copy(), other), expected)
    np.testing.assert_array_equal(without.get_latent_representation(section.copy()), expected.embedding)
    np.testing.assert_array_equal(with_adata.get_latent_representation(), expected.embedding)
    for metric, losses in model.history.items():
        pd.testing.assert_frame_equal(without.history[metric], losses)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, with_adata.module.state_dict()[name]), name


def test_folder_holds_no_pickle(folders, trained):
    for architecture, folder in folders.items():
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
            assert set(tensors.keys()) == set(trained[architecture].module.state_dict())
        config = json.loads((folder / "config.json").read_text())
        assert config["network"]["architecture"] == trained[architecture].module.config.architecture
        assert len(config["genes"]) == config["network"]["n_genes"] == 300
        for path in folder.iterdir():
            # Pickle, and the zip file that torch.save makes of it.
            assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")


def test_saved_twice_is_the_same_file(folders, section, tmp_path):
    model = SAGEFM.load(folders["default"], section)
    model.save(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folders["default"] / name).read_bytes()
