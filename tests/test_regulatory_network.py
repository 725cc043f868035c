"""`tl.regulatory_network`: what is found, what is written, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

import sagefm
from sagefm.data._reader import read_table
from sagefm.errors import ArgumentError, GenesError, MissingKeyError, SagefmError
from sagefm.inference import _couplings_table
from sagefm.inference._network import couple_pairs, own_vocabulary

DECOYS = ("domain", "cell_type", "factor", "white_factor", "field", "absent")
KEY = "sagefm_network"


@pytest.fixture(scope="module")
def _simulated() -> AnnData:
    return sagefm.datasets.simulate(
        900, n_genes=900, n_effects=16, n_decoys=8, decoys=DECOYS, strength=0.6, domain_sd=0.3, rng=5
    )


@pytest.fixture
def simulated(_simulated: AnnData) -> AnnData:
    """A section with planted pairs and pairs of all kinds of decoys."""
    return _simulated.copy()


def edges_of(adata: AnnData, *arguments: Any, **keywords: Any) -> pd.DataFrame:
    sagefm.tl.regulatory_network(adata, *arguments, **keywords)
    return adata.uns[KEY]["edges"]


def as_matrix(edges: pd.DataFrame, value: str = "z") -> pd.DataFrame:
    return edges.pivot(index="source", columns="target", values=value)


def without_counts(adata: AnnData, gene: int) -> sparse.csr_matrix:
    kept = np.ones(adata.n_vars)
    kept[gene] = 0
    return sparse.csr_matrix(adata.X @ sparse.diags_array(kept), dtype=np.float32)


# What is found


def test_planted_pairs_are_told_from_decoys(simulated: AnnData):
    """Of decoys, pairs that share a smooth or a white factor included; correlation passes nearly all of these."""
    truth = simulated.uns["truth"]
    edges = edges_of(simulated, list(truth["source"]), list(truth["target"]))
    table = sagefm.metrics.couplings(edges, truth)
    assert table.loc["all", "auroc"] > 0.95
    assert table.loc["all", "fdr"] < 0.25
    assert table.loc["all", "power"] > 0.6
    assert table.loc["all", "right_signs_called"] == 1
    by_r = sagefm.metrics.couplings(edges, truth, score="r")
    assert by_r.loc["factor", "auroc"] < 0.9 < table.loc["factor", "auroc"]


def test_effects_have_the_planted_sign_and_order(simulated: AnnData):
    truth = simulated.uns["truth"].query("kind == 'planted'")
    edges = edges_of(simulated, list(truth["source"]), list(truth["target"])).set_index(["source", "target"])
    effect = edges.loc[list(zip(truth["source"], truth["target"], strict=True)), "effect"].to_numpy()
    assert (np.sign(effect) == np.sign(truth["strength"])).mean() > 0.9
    assert stats.spearmanr(effect, truth["strength"]).statistic > 0.8
    # Counts tell the level around with noise: effects are smaller than planted, not larger.
    assert 0.1 < np.median(effect / truth["strength"]) < 1


@pytest.mark.parametrize("section", ["synovium", "dlpfc"])
def test_turned_tissue_gives_uniform_p_values(section: str):
    adata = getattr(sagefm.datasets, section)()
    genes = adata.var_names[np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:300]]
    sagefm.tl.regulatory_network(adata, list(genes[::2]), list(genes[1::2]), null="rotation")
    null = adata.uns[KEY]["null"].set_index("level")["turned"]
    assert 0.02 < null[0.05] < 0.08
    assert null[0.001] < 0.004


def test_results_do_not_depend_on_order_or_unit(simulated: AnnData):
    names = list(simulated.uns["truth"]["source"][:10]), list(simulated.uns["truth"]["target"][:10])
    expected = as_matrix(edges_of(simulated, *names))
    rng = np.random.default_rng(0)
    shuffled = simulated[rng.permutation(simulated.n_obs), rng.permutation(simulated.n_vars)].copy()
    shuffled.obsm["spatial"] *= 4
    found = as_matrix(edges_of(shuffled, *names)).loc[expected.index, expected.columns]
    # Components come from an iteration that ends near them.
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("share", [0.2, 0.001])
def test_of_many_pairs_the_significant_ones_are_kept(simulated: AnnData, monkeypatch: pytest.MonkeyPatch, share: float):
    """Also where more p-values are small than was thought likely."""
    names = list(simulated.uns["truth"]["source"]), list(simulated.uns["truth"]["target"])
    every = edges_of(simulated, *names)
    np.testing.assert_allclose(every["qval"], stats.false_discovery_control(every["pval"]), rtol=1e-9)
    monkeypatch.setattr(_couplings_table, "KEEP_ALL", 10)
    monkeypatch.setattr(_couplings_table._select, "__defaults__", (share,))
    monkeypatch.setattr(_couplings_table, "_BLOCK_SOURCES", 7)
    monkeypatch.setattr(_couplings_table, "_BLOCK_TARGETS", 11)
    kept = edges_of(simulated, *names)
    expected = every[every["qval"] < 0.05]
    assert 0 < len(kept) == len(expected) < len(every)
    assert kept[["source", "target"]].equals(expected[["source", "target"]])
    np.testing.assert_allclose(kept[["z", "qval"]], expected[["z", "qval"]], rtol=1e-3)
    assert simulated.uns[KEY]["params"]["n_pairs"] == len(every)


def test_without_names_all_genes_that_are_seen_are_tested(simulated: AnnData):
    simulated.X = without_counts(simulated, 0)
    sagefm.tl.regulatory_network(simulated)
    n_seen = int((np.asarray((simulated.X > 0).mean(axis=0)).ravel() >= 0.05).sum())
    assert simulated.uns[KEY]["params"]["n_pairs"] == n_seen * (n_seen - 1)
    assert (simulated.uns[KEY]["edges"]["qval"] < 0.05).all()


def test_pairs_that_share_a_gene_are_left_out(simulated: AnnData):
    a, b, c = simulated.var_names[np.argsort(-np.asarray(simulated.X.sum(axis=0)).ravel())[:3]]
    edges = edges_of(simulated, [a, f"{a}_{b}"], [a, b, c])
    pairs = set(zip(edges["source"], edges["target"], strict=True))
    assert pairs == {(a, b), (a, c), (f"{a}_{b}", c)}


def test_features_that_are_no_genes_are_not_tested(simulated: AnnData):
    simulated.var["feature_types"] = "Gene Expression"
    simulated.var.iloc[0, 0] = "Antibody Capture"
    with pytest.raises(GenesError, match="not measured"):
        edges_of(simulated, [simulated.var_names[0]], [simulated.var_names[1]])


def test_genes_without_counts_are_left_out(simulated: AnnData):
    simulated.X = without_counts(simulated, 5)
    names = list(simulated.var_names[[5, 6]])
    edges = edges_of(simulated, names, list(simulated.var_names[7:9]))
    assert set(edges["source"]) == {names[1]}


# Several sections


def test_sections_are_combined_by_donor():
    adata = sagefm.datasets.simulate(200, n_genes=200, n_sections=3, rng=6)
    adata.obs["donor"] = adata.obs["library"].map({"section1": "b", "section2": "a", "section3": "b"}).astype(str)
    truth = adata.uns["truth"]
    edges = edges_of(
        adata, list(truth["source"]), list(truth["target"]), library_key="library", donor_key="donor"
    ).set_index(["source", "target"])
    assert edges["library"].iloc[0] == "combined"
    combined, one, two, three = (
        edges[edges["library"] == name].sort_index() for name in ("combined", "section1", "section2", "section3")
    )
    z = ((one["z"] + three["z"]) / np.sqrt(2) + two["z"]) / np.sqrt(2)
    np.testing.assert_allclose(combined["z"], z, rtol=1e-4, atol=1e-5)
    weights = np.stack([1 / part["se"] ** 2 for part in (one, two, three)])
    effects = np.stack([part["effect"] for part in (one, two, three)])
    np.testing.assert_allclose(
        combined["effect"], (weights * effects).sum(axis=0) / weights.sum(axis=0), rtol=1e-4, atol=1e-6
    )
    assert set(combined["n_spots"]) == {600}
    # A section alone gives the same as in the table.
    alone = edges_of(adata[adata.obs["library"] == "section2"].copy(), list(truth["source"]), list(truth["target"]))
    np.testing.assert_allclose(alone.set_index(["source", "target"]).sort_index()["z"], two["z"], rtol=1e-3, atol=1e-3)


def test_a_library_has_one_donor(sections: AnnData):
    sections.obs["donor"] = np.where(np.arange(sections.n_obs) % 2, "a", "b")
    with pytest.raises(ArgumentError, match="names several donors"):
        edges_of(sections, [sections.var_names[0]], [sections.var_names[1]], library_key="library", donor_key="donor")
    with pytest.raises(MissingKeyError, match="donor_key='donors'"):
        edges_of(sections, [sections.var_names[0]], [sections.var_names[1]], donor_key="donors")


def test_a_corpus_is_read_section_by_section(tmp_path: Any):
    whole = sagefm.datasets.simulate(150, n_genes=200, n_sections=3, rng=7)
    for name in ("section1", "section2", "section3"):
        part = whole[whole.obs["library"] == name].copy()
        if name == "section3":
            part = part[:, :-1].copy()  # a gene that was not measured here
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    sources, targets = list(whole.var_names[:5]), [*whole.var_names[5:9], whole.var_names[-1]]
    network = sagefm.tl.regulatory_network(sagefm.datasets.Corpus.from_folder(tmp_path), sources, targets)
    expected = edges_of(whole, sources, targets, library_key="library")
    keys = ["library", "source", "target"]
    found = network["edges"].set_index(keys).sort_index()
    known = expected[expected["target"] != targets[-1]].set_index(keys).sort_index()
    # Without its last gene, section 3 has other depths.
    same = known.index.get_level_values("library").isin(["section1", "section2"])
    np.testing.assert_allclose(found.loc[known.index[same], "z"], known["z"][same], rtol=1e-2, atol=1e-2)
    last = found.xs(targets[-1], level="target")
    assert set(last.index.get_level_values("library")) == {"combined", "section1", "section2"}
    with pytest.raises(ArgumentError, match="sources="):
        sagefm.tl.regulatory_network(sagefm.datasets.Corpus.from_folder(tmp_path))


# With a model, and for perturbations


def test_expected_counts_of_a_model(section: AnnData, trained: dict[str, Any]):
    truth = section.uns["truth"]
    alone = as_matrix(edges_of(section, list(truth["source"]), list(truth["target"])))
    found = as_matrix(edges_of(section, list(truth["source"]), list(truth["target"]), model=trained["default"]))
    assert section.uns[KEY]["params"]["architecture"] == "center_neighborhood"
    assert not np.allclose(found.fillna(0), alone.fillna(0), atol=0.1)
    # They agree on what is strong.
    assert stats.spearmanr(found.to_numpy().ravel(), alone.to_numpy().ravel(), nan_policy="omit").statistic > 0.5


def test_pairs_in_their_order(section: AnnData):
    truth = section.uns["truth"]
    pairs = truth[["source", "target"]].sample(frac=1, random_state=0).reset_index(drop=True)
    pairs.loc[len(pairs)] = ["GAPDH_NOT_HERE", truth["target"].iloc[0]]
    reader = read_table(section, own_vocabulary(section))
    found = couple_pairs(reader, pairs, device="cpu")
    assert found[["source", "target"]].equals(pairs)
    assert found.iloc[-1][["effect", "pval"]].isna().all()
    edges = edges_of(section, list(truth["source"]), list(truth["target"]))
    expected = pairs.merge(edges, on=["source", "target"], how="left")
    np.testing.assert_allclose(found["z"], expected["z"], rtol=1e-4, atol=1e-5)
    # Adjusted over these pairs alone.
    np.testing.assert_allclose(found["qval"][:-1], stats.false_discovery_control(found["pval"][:-1]), rtol=1e-6)


def test_ligands_and_receptors_of_a_resource(synovium: AnnData):
    pytest.importorskip("liana")
    edges = edges_of(synovium, "ligands", "receptors")
    assert {"CXCL12", "CCL19"} <= set(edges["source"])
    assert "CXCR4" in set(edges["target"])
    assert any("_" in name for name in edges["target"])


# What is written, what is read, what is refused


def test_the_result_is_stored_in_files(simulated: AnnData, tmp_path: Any):
    names = list(simulated.var_names[:3]), list(simulated.var_names[3:6])
    before = simulated.X.copy()
    edges_of(simulated, *names, null="rotation")
    simulated.write_h5ad(tmp_path / "a.h5ad")
    stored = sagefm.datasets.Corpus([tmp_path / "a.h5ad"]).read(0).uns[KEY]
    pd.testing.assert_frame_equal(
        stored["edges"], simulated.uns[KEY]["edges"], check_dtype=False, check_index_type=False
    )
    assert stored["params"]["n_components"] == 20
    assert (before != simulated.X).nnz == 0
    result = sagefm.tl.regulatory_network(simulated, *names, key_added="other", copy=True)
    assert "other" in result.uns
    assert "other" not in simulated.uns


@pytest.mark.parametrize("form", ["dense", "csc", "int64", "backed", "dask"])
def test_counts_of_any_form_give_the_same(simulated: AnnData, form: str, tmp_path: Any):
    names = list(simulated.uns["truth"]["source"][:4]), list(simulated.uns["truth"]["target"][:4])
    expected = edges_of(simulated, *names)
    other = simulated.copy()
    if form == "dense":
        other.X = other.X.toarray()
    elif form == "csc":
        other.X = sparse.csc_matrix(other.X)
    elif form == "int64":
        other.X = other.X.astype(np.int64)
    elif form == "dask":
        other.X = pytest.importorskip("dask.array").from_array(other.X.toarray(), chunks=(200, -1))
    else:
        import anndata

        other.write_h5ad(tmp_path / "a.h5ad")
        other = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r+")
    pd.testing.assert_frame_equal(edges_of(other, *names), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sources": ["NOT_A_GENE"]}, GenesError, "sources: not measured in this table: .*NOT_A_GENE"),
        ({"sources": "CXCL12"}, GenesError, "CXCL12"),
        ({"null": "shuffle"}, ArgumentError, "null='shuffle'; expected 'rotation'"),
        ({"n_components": -1}, ArgumentError, "n_components"),
        ({"fields": True, "targets": None}, ArgumentError, "found 1 sources and all targets, expected at most 200"),
        ({"key_added": "sagefm"}, ArgumentError, "key_added='sagefm'"),
        ({"layer": "nothing"}, MissingKeyError, "layer='nothing'"),
        ({"library_key": "nothing"}, MissingKeyError, "library_key='nothing'"),
    ],
)
def test_wrong_arguments(section: AnnData, arguments: dict[str, Any], error: type[SagefmError], message: str):
    names = {"sources": [section.var_names[0]], "targets": [section.var_names[1]]}
    with pytest.raises(error, match=message):
        sagefm.tl.regulatory_network(section, **(names | arguments))
    assert KEY not in section.uns
    assert not section.obsp


def test_without_components(section: AnnData):
    truth = section.uns["truth"]
    names = list(truth["source"]), list(truth["target"])
    none, some = (as_matrix(edges_of(section, *names, n_components=n)) for n in (0, 20))
    assert not np.allclose(none.fillna(0), some.fillna(0), atol=0.1)


def test_fields_are_those_that_are_compared(sections: AnnData):
    """In each library, the correlation of the residuals is that of the pair; genes without counts have none."""
    sections.X = without_counts(sections, 0)
    names = list(sections.var_names[[0, 1, 2]]), list(sections.var_names[[3, 4]])
    edges = edges_of(sections, *names, library_key="library", fields=True)
    around, center = (sections.obsm[f"{KEY}_{side}"] for side in ("around", "center"))
    assert [list(frame.columns) for frame in (around, center)] == list(names)
    assert {*around.dtypes, *center.dtypes} == {np.dtype("float32")}
    assert around.iloc[:, 0].isna().all()
    assert not around.iloc[:, 1:].isna().any(axis=None)
    for library, rows in sections.obs.groupby("library", observed=True).groups.items():
        values = pd.concat([around.loc[rows].iloc[:, 1:], center.loc[rows]], axis=1)
        np.testing.assert_allclose(values.mean(), 0, atol=1e-5)
        np.testing.assert_allclose(values.std(ddof=0), 1, rtol=1e-4)
        own = edges[edges["library"] == library]
        assert len(own) == 4
        r = [values[source].corr(values[target]) for source, target in own[["source", "target"]].to_numpy()]
        np.testing.assert_allclose(r, own["r"], atol=1e-5)

    itself = edges_of(sections, *names, library_key="library", fields=True, neighborhood=False)
    assert not np.allclose(sections.obsm[f"{KEY}_around"].iloc[:, 1], around.iloc[:, 1])
    rows = (sections.obs["library"] == "section1").to_numpy()
    pair = itself[itself["library"] == "section1"].iloc[0]
    fields = sections.obsm[f"{KEY}_around"][pair["source"]], sections.obsm[f"{KEY}_center"][pair["target"]]
    np.testing.assert_allclose(fields[0][rows].corr(fields[1][rows]), pair["r"], atol=1e-5)


def test_fields_of_too_many_genes_are_refused(synovium: AnnData):
    genes = list(synovium.var_names[:201])
    with pytest.raises(ArgumentError, match="found 201 sources and 1 targets, expected at most 200"):
        sagefm.tl.regulatory_network(synovium, genes, [synovium.var_names[300]], fields=True)
    assert not synovium.obsp
