"""Levels of a source, groups of spots, and what stands beside an effect."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sagefm
from sagefm.inference._intervention import Intervention
from tests import OTHER_KERNELS

VALUES = np.array([[0, 1], [2, 1], [4, 3], [1, 9], [0, 0]], dtype=np.float32)


@pytest.fixture
def scores(section, checkpoint, pairs):
    """Return a function that perturbs `section` and returns the scores."""

    def run(**kwargs):
        sagefm.tl.perturb(section, checkpoint, **{"pairs": pairs, "progress": False, **kwargs})
        return section.uns["sagefm_perturb"]["scores"]

    return run


def test_range_is_that_of_each_subunit():
    levels, changed = Intervention.of(levels=3).apply(VALUES)
    np.testing.assert_allclose(levels, [0, 2, 4])
    assert changed.shape == (5, 3, 2)
    np.testing.assert_allclose(changed[3], [[0, 0], [2, 4.5], [4, 9]])


def test_quantiles():
    levels, changed = Intervention.of(levels=3, scale="quantile").apply(VALUES)
    expected = np.quantile(VALUES, [0.05, 0.5, 0.95], axis=0)
    np.testing.assert_allclose(changed[0], expected, rtol=1e-6)
    np.testing.assert_allclose(levels, expected.min(axis=1), rtol=1e-6)
    _, changed = Intervention.of(levels=[1, 0.5], scale="quantile").apply(VALUES)
    np.testing.assert_allclose(changed[0], [[4, 9], [1, 1]])


def test_fold_multiplies_the_counts_of_each_spot():
    levels, changed = Intervention.of(levels=(1, 2), scale="fold").apply(np.log1p(VALUES))
    np.testing.assert_allclose(levels, [1, 2])
    np.testing.assert_allclose(np.expm1(changed[:, 0]), VALUES, rtol=1e-5)
    np.testing.assert_allclose(np.expm1(changed[:, 1]), 2 * VALUES, rtol=1e-5)


@pytest.mark.parametrize("scale", ["range", "fold"])
def test_knockout_is_no_counts_at_all(scale, section, checkpoint, pairs):
    """What the network predicts without the gene, less what it predicts as it is."""
    # A gene of one side of the section.
    counts, x = section.X.toarray(), section.obsm["spatial"][:, 0]
    counts[x > np.median(x), section.var_names.get_loc(pairs["source"][0])] = 0
    section.X = sparse.csr_matrix(counts)
    arguments = {"pairs": pairs.iloc[:1], "levels": "knockout", "scale": scale, "per_spot": True, "progress": False}
    sagefm.tl.perturb(section, checkpoint, **arguments)
    result = section.uns["sagefm_perturb"]
    assert result["params"]["levels"] == "knockout"
    assert result["params"]["scale"] == "fold"
    assert result["params"]["level_unit"] == "times its counts"
    np.testing.assert_array_equal(result["curves"]["level"], [1, 0])
    assert result["curves"]["mean"][0] == 0
    # Spots that do not see the gene do not respond; the slope is that from no counts to those measured.
    source = section.obs_vector(pairs["source"][0])
    sees = (section.obsp["sagefm_connectivities"] > 0) @ (source > 0)
    assert 0 < (~sees).sum() < section.n_obs
    np.testing.assert_array_equal(section.obsm["sagefm_perturb"].to_numpy()[~sees], 0)
    assert (section.obsm["sagefm_perturb"].to_numpy()[sees] != 0).any()
    np.testing.assert_allclose(result["scores"]["slope"], -result["scores"]["effect"], rtol=1e-4)


def test_falling_levels_turn_the_effect_and_neither_slope_nor_rank(scores):
    up, down = (scores(levels=levels, scale="quantile") for levels in ([0.1, 0.5, 1], [1, 0.5, 0.1]))
    np.testing.assert_allclose(up["effect"], -down["effect"], **OTHER_KERNELS)
    np.testing.assert_allclose(up["slope"], down["slope"], **OTHER_KERNELS)
    np.testing.assert_allclose(up["rho"], down["rho"], atol=0.02)
    assert (np.sign(up["rho"]) == np.sign(up["effect"])).all()


def test_range_is_the_quantiles_at_its_ends(scores):
    pd.testing.assert_frame_equal(scores(levels=2), scores(levels=(0, 1), scale="quantile"), rtol=1e-4, atol=1e-5)


def test_rows_come_in_the_order_of_the_pairs(section, checkpoint, pairs):
    sources, targets = pairs["source"][:2], pairs["target"][2:]
    given = pd.DataFrame({"source": [*sources, *sources], "target": targets.repeat(2).to_list()})
    sagefm.tl.perturb(section, checkpoint, pairs=given, levels=3, groupby="domain", progress=False)
    for name in ("scores", "curves", "groups"):
        found = section.uns["sagefm_perturb"][name][["source", "target"]].drop_duplicates(ignore_index=True)
        pd.testing.assert_frame_equal(found, given)
    curves = section.uns["sagefm_perturb"]["curves"]
    assert (curves.groupby(["source", "target"])["level"].diff().dropna() > 0).all()


def test_groups_are_means_over_their_spots(section, checkpoint, pairs):
    labels = section.obs["domain"].astype(object)
    labels.iloc[:7] = None
    section.obs["group"] = labels
    arguments = {"pairs": pairs, "per_spot": True, "progress": False}
    sagefm.tl.perturb(section, checkpoint, groupby="group", **arguments)
    result = section.uns["sagefm_perturb"]
    groups = result["groups"]
    assert list(groups.columns) == ["source", "target", "group", "effect", "n_spots"]
    assert groups[["source", "target"]].drop_duplicates().to_numpy().tolist() == pairs.to_numpy().tolist()
    expected = section.obsm["sagefm_perturb"].groupby(labels.astype(str).where(labels.notna())).mean()
    for (source, target), rows in groups.groupby(["source", "target"]):
        of_pair = rows.set_index("group")
        np.testing.assert_allclose(
            of_pair["effect"], expected[f"{source}^{target}"][of_pair.index], rtol=1e-4, atol=1e-7
        )
        assert of_pair["n_spots"].sum() == section.n_obs - 7
    # Without it, the groups of an earlier call are gone.
    sagefm.tl.perturb(section, checkpoint, **arguments)
    assert "groups" not in section.uns["sagefm_perturb"]
    assert "groupby" not in section.uns["sagefm_perturb"]["params"]


def test_groups_of_libraries_need_no_effects_by_spot(sections, default, pairs):
    sagefm.tl.perturb(sections, default, pairs=pairs, library_key="library", groupby="library", progress=False)
    assert "sagefm_perturb" not in sections.obsm
    result = sections.uns["sagefm_perturb"]
    assert set(result["groups"]["group"]) == {"section1", "section2"}
    by_pair = result["groups"].groupby(["source", "target"], sort=False)["effect"].mean()
    np.testing.assert_allclose(by_pair, result["scores"]["effect"], rtol=1e-4, atol=1e-6)


def test_everything_is_stored_and_read(section, checkpoint, pairs, tmp_path):
    for levels in ("knockout", (1, 2), 3):
        scale = "range" if levels == 3 else "fold"
        sagefm.tl.perturb(
            section, checkpoint, pairs=pairs, levels=levels, scale=scale, groupby="domain", progress=False
        )
        section.write_h5ad(tmp_path / "section.h5ad")
        stored = ad.read_h5ad(tmp_path / "section.h5ad").uns["sagefm_perturb"]
        written = section.uns["sagefm_perturb"]
        np.testing.assert_array_equal(stored["params"]["levels"], written["params"]["levels"])
        pd.testing.assert_frame_equal(stored["groups"], written["groups"], check_names=False)


def test_couplings_are_those_of_the_network_of_genes(section, checkpoint, pairs):
    """Whatever is done to the source, for genes and complexes; NaN where a gene was not measured."""
    source, target = pairs.iloc[0]
    source, target = f"{source}_{pairs['source'][1]}", f"{target}_{pairs['target'][1]}"
    rest = section[:, section.var_names != pairs["target"][3]].copy()
    given = pd.concat([pairs, pd.DataFrame({"source": [source], "target": [target]})], ignore_index=True)
    sagefm.tl.perturb(rest, checkpoint, pairs=given, levels="knockout", where="both", progress=False)
    scores = rest.uns["sagefm_perturb"]["scores"].rename(columns={"effect": "response"})
    assert scores["qval"].isna().to_list() == [False, False, False, True, False]
    known = given.drop(index=3)
    sagefm.tl.regulatory_network(rest, sources=known["source"].to_list(), targets=known["target"].to_list())
    edges = known.merge(rest.uns["sagefm_network"]["edges"], on=["source", "target"])
    assert len(edges) == 4
    found = scores.drop(index=3)
    for column, expected in (("coupling", "effect"), ("coupling_se", "se"), ("pval", "pval")):
        np.testing.assert_allclose(found[column], edges[expected], rtol=1e-4, atol=1e-6)
    assert (found["qval"] >= found["pval"]).all()


def test_the_model_takes_the_same_arguments(section, checkpoint, pairs):
    arguments = {"pairs": pairs, "where": "both", "levels": (0.2, 0.8), "scale": "quantile"}
    sagefm.tl.perturb(section, checkpoint, progress=False, **arguments)
    sagefm.model.SAGEFM.setup_anndata(section)
    model = sagefm.model.SAGEFM.from_pretrained(checkpoint, section)
    pd.testing.assert_frame_equal(model.perturb(**arguments), section.uns["sagefm_perturb"]["scores"], check_exact=True)


def test_arguments_of_before_do_nothing(section, checkpoint, pairs):
    expected = sagefm.tl.perturb(section, checkpoint, pairs=pairs, progress=False, copy=True)
    for arguments in ({"n_null": 5}, {"rng": 0}):
        with pytest.warns(FutureWarning, match="leave them out.*coupling, pval and qval"):
            sagefm.tl.perturb(section, checkpoint, pairs=pairs, progress=False, **arguments)
        scores = section.uns["sagefm_perturb"]["scores"]
        pd.testing.assert_frame_equal(scores, expected.uns["sagefm_perturb"]["scores"], check_exact=True)
