"""What the benchmark of couplings is made of: its controls, its sets and what it compares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import sagefm
from tests.benchmarks._couplings.known import (
    MIN_TARGETS,
    N_OTHER_SETS,
    N_SIMILAR,
    ByDonor,
    Genes,
    agreement,
    auroc,
    common_genes,
    controls,
    read_pairs,
    set_test,
)
from tests.benchmarks._couplings.methods import (
    COUPLINGS,
    all_pairs,
    correlation,
    methods,
    naive_pval,
    turned_shares,
)


@pytest.fixture(scope="module")
def section():
    adata = sagefm.datasets.simulate(
        300, n_genes=300, n_effects=10, n_decoys=10, decoys=("factor", "absent"), strength=1.0, domain_sd=0.2, rng=1
    )
    sagefm.pp.spatial_neighbors(adata)
    return adata


def test_every_method_scores_every_pair_and_leaves_the_section_as_it_was(section):
    counts, truth = section.X.copy(), section.uns["truth"]
    tables = {}
    for name, score in methods(clusters=False).items():
        edges = score(section, truth)
        tables[name] = sagefm.metrics.couplings(edges, truth)
        assert np.isfinite(truth.merge(edges, on=["source", "target"])["z"]).all(), name
    assert (counts != section.X).nnz == 0
    assert "sagefm_network" not in section.uns
    # All tell planted effects from pairs that share nothing; not all tell them from a shared factor.
    assert min(table.at["absent", "auroc"] for table in tables.values()) > 0.8
    called = {name: table.at["factor", "called"] for name, table in tables.items()}
    assert called[COUPLINGS] < 0.2 < called["correlation with neighbors' mean"]


def test_correlation_is_that_of_neighbors_means(section):
    pair = section.uns["truth"].iloc[[0]]
    values = section.X.toarray()
    values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    graph = section.obsp["sagefm_connectivities"].toarray()
    source, target = section.var_names.get_indexer(pair.loc["0", ["source", "target"]])
    expected = np.corrcoef(graph @ values[:, source] / graph.sum(axis=1), values[:, target])[0, 1]
    assert correlation(section, pair)["effect"].item() == pytest.approx(expected, abs=1e-5)


def test_naive_p_values_are_uniform_for_independent_spots():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4000, 100))
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
    assert (naive_pval(r, 100) < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_all_pairs_are_those_of_the_public_function(section):
    genes = section.uns["truth"][["source", "target"]].to_numpy(dtype=str).T.ravel()[:20]
    scores = all_pairs(section, genes)
    sagefm.tl.regulatory_network(section, list(genes[:10]), list(genes[10:]))
    edges = section.uns.pop("sagefm_network")["edges"].pivot(index="source", columns="target", values="z")
    expected = edges.loc[genes[:10], genes[10:]].to_numpy()
    np.testing.assert_allclose(scores["coupling"][:10, 10:], expected, atol=1e-3)


def test_turned_tissue_gives_a_share_for_each_level(section):
    genes = section.var_names[:40]
    shares = turned_shares(section, genes[:20], genes[20:], (1.0, 0.05))
    assert shares[0] == 1.0
    assert 0 < shares[1] < 0.5


def test_controls_keep_sources_expression_and_are_not_known():
    rng = np.random.default_rng(0)
    genes = Genes(np.array([f"G{i}" for i in range(200)]))
    known = np.unique(rng.integers(0, 200, (300, 2)), axis=0)
    known = known[known[:, 0] != known[:, 1]]
    for kind in ("matched", "shuffled"):
        pairs = controls(known, genes, kind, rng)
        assert len(pairs) > 5 * len(known)
        assert not set(map(tuple, pairs)) & set(map(tuple, known))
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert set(pairs[:, 0]) <= set(known[:, 0])
    similar = genes.similar(known[:, 1], rng)
    distance = np.abs(similar - known[:, 1])
    assert distance.min() > 0
    assert distance.max() <= N_SIMILAR // 2


def test_common_genes_are_sorted_by_expression(section):
    genes = common_genes([section, section[:, :200].copy()])
    assert set(genes.names) <= set(section.var_names[:200])
    totals = np.asarray(section[:, list(genes.names)].X.sum(axis=0)).ravel()
    assert (np.diff(totals) >= 0).all()
    assert genes.positions(pd.DataFrame([[genes.names[3], genes.names[1]], ["no gene", genes.names[0]]])).tolist() == [
        [3, 1]
    ]


def test_pairs_are_read_with_sources_of_another_table(tmp_path):
    pd.DataFrame({"a": ["X", "Y", "Y"], "b": ["P", "Q", "Q"], "c": 1}).to_csv(
        tmp_path / "pairs.tsv", sep="\t", index=False
    )
    pd.DataFrame({"a": ["Y"], "b": ["Z"]}).to_csv(tmp_path / "others.tsv", sep="\t", index=False)
    assert read_pairs(tmp_path / "pairs.tsv").to_numpy().tolist() == [["X", "P"], ["Y", "Q"]]
    assert read_pairs(tmp_path / "pairs.tsv", tmp_path / "others.tsv").to_numpy().tolist() == [["Y", "Q"]]


def test_auroc_is_one_for_pairs_that_stand_out_and_a_half_for_others():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(100, 100))
    known, others = rng.integers(0, 50, (400, 2)), rng.integers(50, 100, (400, 2))
    value, error = auroc(scores, known, others, rng)
    assert abs(value - 0.5) < 4 * error
    scores[:50, :50] += 100
    assert auroc(scores, known, others, rng)[0] == 1.0


def test_sets_are_found_where_a_source_goes_with_its_targets_and_only_there():
    rng = np.random.default_rng(0)
    n_genes, n_targets = 600, 20
    # Genes of a set go with each other: z of a source with them has a common part.
    sets = [rng.choice(n_genes, n_targets, replace=False) for _ in range(60)]
    z = rng.normal(size=(n_genes, n_genes))
    for targets in sets:
        z[:, targets] += rng.normal(size=(n_genes, 1))
    known = np.concatenate([np.column_stack([np.full(n_targets, i), targets]) for i, targets in enumerate(sets)])
    known = known[known[:, 0] != known[:, 1]]
    assert (set_test(z, known, rng) < 0.05).mean() < 0.2
    z[0, sets[0]] += 10
    assert set_test(z, known, rng)[0] == pytest.approx(2 / 201)


def test_donors_count_once():
    combined = ByDonor()
    for donor in ("a", "a", "b"):
        combined.add(np.full((2, 2), 1.0), donor)
    np.testing.assert_allclose(combined.combined(), (2 / np.sqrt(2) + 1) / np.sqrt(2))


def test_a_section_agrees_with_itself_and_not_with_noise():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 300, 300))
    assert list(agreement(first, first).values())[:2] == [pytest.approx(1.0), 1000]
    of_noise = agreement(first, second)
    assert abs(of_noise["rank correlation"]) < 0.03
    assert of_noise["shared of the strongest 1,000"] < 3 * of_noise["by chance"]


def test_a_set_that_none_of_the_others_reaches_has_the_smallest_p_value_there_is():
    """The set itself is one of those that could have been drawn: no p-value is zero."""
    z = np.random.default_rng(0).normal(size=(80, 80))
    targets = np.arange(40, 40 + MIN_TARGETS)
    z[10, targets] += 100
    known = np.column_stack([np.full(MIN_TARGETS, 10), targets])
    n_others = min(N_OTHER_SETS, 80 - 1 - MIN_TARGETS)
    assert set_test(z, known, np.random.default_rng(0))[10] == pytest.approx(2 / (n_others + 1))
