"""Scores of pairs against planted truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.errors import ArgumentError


@pytest.fixture
def truth():
    """Four planted pairs and two decoys of each of two kinds."""
    return pd.DataFrame(
        {
            "source": list("abcdefgh"),
            "target": list("ABCDEFGH"),
            "strength": [0.5, -0.5, 0.4, -0.4, 0, 0, 0, 0],
            "kind": ["planted"] * 4 + ["field"] * 2 + ["absent"] * 2,
        }
    )


@pytest.fixture
def edges(truth):
    """Scores of these pairs, in another order, and of others."""
    scores = truth[["source", "target"]].assign(
        effect=[0.3, -0.3, -0.1, -0.2, 0.2, 0.1, 0.0, 0.1],
        z=[6.0, -5.0, -1.0, -4.0, 4.5, 2.0, 0.1, 0.5],
        pval=[1e-9, 1e-6, 0.3, 1e-4, 1e-5, 0.04, 0.9, 0.6],
    )
    other = pd.DataFrame({"source": ["A", "x"], "target": ["a", "y"], "effect": 9.0, "z": 99.0, "pval": 0.0})
    return pd.concat([scores[::-1], other])


def test_by_hand(edges, truth):
    table = sagefm.metrics.couplings(edges, truth)
    assert table.index.tolist() == ["field", "absent", "all"]
    assert table.index.name == "decoys"
    assert table["n_planted"].tolist() == [4, 4, 4]
    assert table["n_decoys"].tolist() == [2, 2, 4]
    # |z| of planted: 6, 5, 1, 4; of decoys: 4.5, 2 | .1, .5. Pairs in the right order: 2 + 2 + 0 + 1 | all.
    np.testing.assert_allclose(table["auroc"], [5 / 8, 1, 13 / 16])
    # Precision at each planted pair, down the list: 1, 1, then behind one and two decoys.
    np.testing.assert_allclose(
        table["average_precision"], [np.mean([1, 1, 3 / 4, 4 / 6]), 1, np.mean([1, 1, 3 / 4, 4 / 6])]
    )
    # Benjamini-Hochberg of 8: called are the p-values up to 1e-4; .04 is above .05 * 5 / 8.
    np.testing.assert_allclose(table["called"], [1 / 2, 0, 1 / 4])
    row = table.loc["all"]
    assert row["fdr"] == pytest.approx(1 / 4)
    assert row["power"] == pytest.approx(3 / 4)
    assert row["right_signs"] == pytest.approx(3 / 4)
    assert row["right_signs_called"] == 1
    assert table.loc[["field", "absent"], ["fdr", "power", "right_signs", "right_signs_called"]].isna().all(axis=None)


def test_alpha(edges, truth):
    assert sagefm.metrics.couplings(edges, truth, alpha=0.07).loc["field", "called"] == 1
    strict = sagefm.metrics.couplings(edges, truth, alpha=1e-12).loc["all"]
    assert strict["fdr"] == strict["power"] == strict["called"] == 0
    assert np.isnan(strict["right_signs_called"])


def test_another_score_without_p_values(edges, truth):
    """Ranks alone: of a score that has none, nothing is called."""
    peer = edges.assign(correlation=edges["z"] * 2).drop(columns=["z", "pval"])
    table = sagefm.metrics.couplings(peer, truth, score="correlation")
    expected = sagefm.metrics.couplings(edges, truth)
    columns = ["n_planted", "n_decoys", "auroc", "average_precision", "right_signs"]
    pd.testing.assert_frame_equal(table[columns], expected[columns])
    assert table[["called", "fdr", "power", "right_signs_called"]].isna().all(axis=None)


def test_the_effect_may_be_the_score(edges, truth):
    table = sagefm.metrics.couplings(edges, truth, score="effect")
    assert table.loc["absent", "auroc"] == pytest.approx(7.5 / 8)


def test_missing_values_rank_last_and_are_not_called(edges, truth):
    edges.loc[edges["source"] == "a", ["z", "pval"]] = np.nan
    table = sagefm.metrics.couplings(edges, truth)
    assert table.loc["absent", "auroc"] == pytest.approx(6 / 8)
    assert table.loc["all", "power"] == pytest.approx(2 / 4)


def test_chance():
    """Scores that know nothing."""
    rng = np.random.default_rng(0)
    truth = pd.DataFrame({"source": range(4000), "target": -1, "kind": np.repeat(["planted", "absent"], 2000)})
    truth["strength"] = np.where(truth["kind"] == "planted", rng.choice([-1, 1], 4000), 0)
    edges = truth[["source", "target"]].assign(
        effect=rng.normal(size=4000), z=rng.normal(size=4000), pval=rng.random(4000)
    )
    row = sagefm.metrics.couplings(edges, truth).loc["all"]
    assert row["auroc"] == pytest.approx(0.5, abs=0.04)
    assert row["average_precision"] == pytest.approx(0.5, abs=0.04)
    assert row["right_signs"] == pytest.approx(0.5, abs=0.05)
    assert row["power"] < 0.01


def test_a_simulation_by_plain_correlation():
    """Planted pairs stand out from pairs with nothing in common; what decoys share misleads a correlation."""
    adata = sagefm.datasets.simulate(
        1000, n_genes=400, n_effects=20, n_decoys=20, decoys=["field", "absent"], strength=1.0, domain_sd=0
    )
    truth = adata.uns["truth"]
    sagefm.pp.spatial_neighbors(adata)
    counts = adata.X.toarray()
    logged = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    around = adata.obsp["sagefm_connectivities"] @ logged
    columns = [adata.var_names.get_indexer(truth[role]) for role in ("source", "target")]
    r = [np.corrcoef(around[:, s], logged[:, t])[0, 1] for s, t in zip(*columns, strict=True)]
    table = sagefm.metrics.couplings(truth[["source", "target"]].assign(effect=r), truth, score="effect")
    assert table.loc["absent", "auroc"] > 0.95
    assert table.loc["field", "auroc"] < 0.8
    assert table.loc["all", "right_signs"] == 1


def test_inputs_are_left_as_they_were(edges, truth):
    before = edges.copy(), truth.copy()
    sagefm.metrics.couplings(edges, truth)
    pd.testing.assert_frame_equal(edges, before[0])
    pd.testing.assert_frame_equal(truth, before[1])


def test_bad_input(edges, truth):
    def check(message, edges=edges, truth=truth, **kwargs):
        with pytest.raises(ArgumentError, match=message):
            sagefm.metrics.couplings(edges, truth, **kwargs)

    check(r"1 of 8 pairs of truth are not in edges, e\.g\. \['a\^A'\]", edges=edges[edges["source"] != "a"])
    check(
        r"1 pairs are there more than once, e\.g\. \['a\^A'\].*several sections",
        edges=pd.concat([edges, edges.query("source == 'a'")]),
    )
    check(r"1 pairs are there more than once", truth=pd.concat([truth, truth.head(1)]))
    check(r"\['absent', 'field'\]; expected 'planted'", truth=truth[truth["kind"] != "planted"])
    check(r"\['planted'\]; expected 'planted' ones and decoys", truth=truth[truth["kind"] == "planted"])
    check(r"edges has no column effect, z; found", edges=edges.drop(columns=["effect", "z"]))
    check(r"edges has no column lee", score="lee")
    check(r"truth has no column kind", truth=truth.drop(columns="kind"))
    check(r"alpha=5; expected more than 0 and less than 1", alpha=5)
