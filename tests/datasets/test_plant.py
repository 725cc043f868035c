"""Effects planted into real sections."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sagefm
from sagefm.datasets import plant
from sagefm.errors import ArgumentError, CoordinatesError, CountsError, GenesError


@pytest.fixture(scope="module")
def deep():
    """A section of 30 genes with some thousand counts each, and no domains."""
    return sagefm.datasets.simulate(
        1000, n_genes=30, n_effects=0, n_decoys=0, domain_sd=0, median_counts=1e5, inverse_dispersion=1e4
    )


def fields(adata, genes, library_key=None):
    """Return the standardized neighborhood means of genes, clipped, from the definition (n_spots, n_genes)."""
    table = adata.copy()
    sagefm.pp.spatial_neighbors(table, library_key=library_key)
    counts = adata.X.toarray().astype(float)
    logged = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    around = (table.obsp["sagefm_connectivities"] @ logged)[:, adata.var_names.get_indexer(genes)] / 14
    libraries = np.zeros(adata.n_obs) if library_key is None else adata.obs[library_key]
    frame = pd.DataFrame(around).groupby(np.asarray(libraries))
    return ((around - frame.transform("mean")) / frame.transform("std", ddof=0)).to_numpy().clip(-2, 2)


def columns(adata, genes):
    return adata.X[:, adata.var_names.get_indexer(genes)].toarray()


def test_layout(synovium):
    planted = plant(synovium, n_effects=6, n_decoys=4)
    truth = planted.uns["truth"]
    assert truth["kind"].tolist() == ["planted"] * 6 + ["rotated"] * 4 + ["absent"] * 4
    assert truth["strength"].tolist() == [0.5, -0.5] * 3 + [0.0] * 8
    genes = truth[["source", "target"]].to_numpy().ravel()
    assert len(set(genes)) == len(genes)
    assert ((columns(synovium, genes) > 0).mean(axis=0) >= 0.1).all()
    assert planted.X.format == "csr"
    assert planted.X.dtype == np.float32
    assert planted.X.has_canonical_format
    assert (planted.X.data >= 1).all()
    pd.testing.assert_frame_equal(planted.obs, synovium.obs)
    assert planted.var_names.equals(synovium.var_names)
    np.testing.assert_array_equal(planted.obsm["spatial"], synovium.obsm["spatial"])


def test_only_targets_lose_counts(synovium):
    planted = plant(synovium, n_effects=6, n_decoys=4)
    truth = planted.uns["truth"]
    assert (synovium.X - planted.X).min() == 0
    lost = np.asarray((synovium.X - planted.X).sum(axis=0)).ravel() > 0
    assert set(synovium.var_names[lost]) == set(truth.loc[truth["kind"] != "absent", "target"])


def test_input_is_left_alone(synovium):
    """Its graph included, and what it shares with the result."""
    before = synovium.copy()
    plant(synovium, n_effects=3, n_decoys=2).obs["new"] = 1
    assert (synovium.X != before.X).nnz == 0
    for slot in ("obs", "obsm", "obsp", "uns"):
        assert set(getattr(synovium, slot)) == set(getattr(before, slot))


def test_same_seed_same_counts(synovium):
    arguments = {"n_effects": 3, "n_decoys": 2}
    first = plant(synovium, **arguments, rng=4)
    for rng in (4, np.random.default_rng(4)):
        again = plant(synovium, **arguments, rng=rng)
        assert again.X.data.tobytes() == first.X.data.tobytes()
        assert again.uns["truth"].equals(first.uns["truth"])
    other = plant(synovium, **arguments, rng=5)
    assert not other.uns["truth"].equals(first.uns["truth"])


@pytest.mark.parametrize("strength", [0.5, -1.0])
def test_thinning_is_binomial(deep, strength):
    """Mean and variance of what is kept are those of the equation, spot by spot."""
    source, target = deep.var_names[:2]
    pairs = pd.DataFrame({"source": [source], "target": [target]})
    planted = plant(deep, pairs, strength, rng=1)
    assert planted.uns["truth"].loc["0"].tolist() == [source, target, strength, "planted"]
    change = strength * fields(deep, [source])[:, 0]
    share = np.exp(change - change.max())
    before, after = columns(deep, [target])[:, 0], columns(planted, [target])[:, 0]
    deviation = (after - before * share) / np.sqrt(before * share * (1 - share) + 1e-9)
    deviation = deviation[(share < 0.999) & (before * share > 5)]
    assert len(deviation) > 900
    assert abs(deviation.mean()) < 5 / np.sqrt(len(deviation))
    assert deviation.std() == pytest.approx(1, abs=0.12)


def test_effects_are_of_the_planted_size(deep):
    """The log ratio of counts after and before has the slope that the truth names."""
    names = deep.var_names
    strengths = np.array([0.25, -0.5, 1.0])
    pairs = pd.DataFrame({"source": names[:3], "target": names[3:6], "strength": strengths}, index=[7, 7, 9])
    planted = plant(deep, pairs)
    ratio = np.log(columns(planted, pairs["target"]).clip(1) / columns(deep, pairs["target"]).clip(1))
    m = fields(deep, pairs["source"])
    slopes = [np.polyfit(m[:, i], ratio[:, i], 1)[0] for i in range(3)]
    np.testing.assert_allclose(slopes, strengths, atol=0.05)
    assert planted.uns["truth"]["strength"].tolist() == strengths.tolist()
    assert planted.uns["truth"].index.tolist() == ["0", "1", "2"]


def test_effects_on_one_target_are_multiplied(deep):
    names = deep.var_names
    pairs = pd.DataFrame({"source": names[:2], "target": names[2], "strength": [0.5, -0.4]})
    ratio = np.log(columns(plant(deep, pairs), names[2:3]) / columns(deep, names[2:3]))
    design = np.column_stack([fields(deep, names[:2]), np.ones(deep.n_obs)])
    np.testing.assert_allclose(np.linalg.lstsq(design, ratio, rcond=None)[0][:2, 0], [0.5, -0.4], atol=0.05)


def test_strength_zero_is_absent(deep):
    pairs = pd.DataFrame({"source": deep.var_names[:2], "target": deep.var_names[2:4], "strength": [0.5, 0]})
    planted = plant(deep, pairs)
    assert planted.uns["truth"]["kind"].tolist() == ["planted", "absent"]
    np.testing.assert_array_equal(columns(planted, pairs["target"][1:]), columns(deep, pairs["target"][1:]))
    assert (plant(deep, pairs[1:]).X != deep.X).nnz == 0


def test_rotated_decoys_lose_counts_and_have_no_relation():
    """They lose what planted targets lose, at other places."""
    adata = sagefm.datasets.simulate(
        1500, n_genes=200, n_effects=0, n_decoys=0, median_counts=2e5, domain_sd=0.5, inverse_dispersion=1e4, rng=3
    )
    planted = plant(adata, n_effects=25, n_decoys=25, strength=0.8, rng=2)
    truth = planted.uns["truth"]
    before, after = columns(adata, truth["target"]), columns(planted, truth["target"])
    kept = pd.Series(after.sum(axis=0) / before.sum(axis=0), index=truth["kind"]).groupby("kind").mean()
    assert kept["absent"] == 1
    assert 0.1 < kept["planted"] < 0.6
    assert kept["rotated"] == pytest.approx(kept["planted"], abs=0.05)
    m, ratio = fields(adata, truth["source"]), np.log(after.clip(0.5) / before.clip(0.5))
    r = np.array(
        [np.corrcoef(m[:, i], ratio[:, i])[0, 1] if truth["kind"].iloc[i] != "absent" else 0 for i in range(75)]
    )
    signs = np.sign(truth["strength"].to_numpy()[:25])
    assert (r[:25] * signs).min() > 0.8
    # Four domains leave some correlation between a field and its turns.
    assert np.abs(r[25:50]).max() < 0.45
    assert np.abs(r[25:50]).mean() < 0.25
    # The change itself is as strong.
    spread = ratio.std(axis=0)
    assert spread[25:50].mean() == pytest.approx(spread[:25].mean(), rel=0.1)


def test_a_turn_brings_every_spot_of_a_square_array_to_another():
    """On an array that is symmetric, a turn is a permutation; of seven, no two are the same."""
    from sagefm.data._table import Spots
    from sagefm.datasets._plant import _turned_spots

    grid = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2) * 100.0
    coordinates = np.concatenate([grid, grid + 30])
    turned = _turned_spots(Spots(coordinates, np.repeat([0, 1], 25), ["a", "b"]))
    assert len({row.tobytes() for row in turned}) == 7
    for row in turned:
        np.testing.assert_array_equal(np.sort(row), np.arange(50))
        assert row[:25].max() < 25
    # 180 degrees: the first spot and the last.
    assert turned[1][0] == 24


def test_libraries_are_apart(sections):
    """Effects of one section do not depend on the other, up to the draw."""
    pairs = pd.DataFrame({"source": sections.var_names[:1], "target": sections.var_names[1:2]})
    sections.X = sections.X * 1000
    planted = plant(sections, pairs, library_key="library")
    change = 0.5 * fields(sections, pairs["source"], "library")[:, 0]
    before, after = columns(sections, pairs["target"])[:, 0], columns(planted, pairs["target"])[:, 0]
    some = before > 0
    np.testing.assert_allclose(after[some] / before[some], np.exp(change - change.max())[some], atol=0.1)
    # The graph of the result has the libraries apart too, for the functions that are called with it.
    graph = planted.obsp["sagefm_connectivities"].tocoo()
    assert (planted.obs["library"].to_numpy()[graph.row] == planted.obs["library"].to_numpy()[graph.col]).all()


def test_a_stored_graph_is_used(section):
    pairs = pd.DataFrame({"source": section.var_names[:1], "target": section.var_names[1:2]})
    expected = plant(section, pairs)
    sagefm.pp.spatial_neighbors(section)
    assert (plant(section, pairs).X != expected.X).nnz == 0
    sagefm.pp.spatial_neighbors(section, n_spots=7, key_added="near")
    assert (plant(section, pairs, neighbors_key="near").X != expected.X).nnz > 0


@pytest.mark.parametrize("form", ["csc", "dense", "int", "view", "layer", "backed", "dask", "mudata", "spatialdata"])
def test_forms_of_a_table(section, form, tmp_path):
    arguments = {"n_effects": 4, "n_decoys": 3, "rng": 3}
    expected = plant(section, **arguments)
    if form == "csc":
        section.X = sparse.csc_matrix(section.X)
    elif form == "dense":
        section.X = section.X.toarray()
    elif form == "int":
        section.X = section.X.astype(np.int32)
    elif form == "view":
        section = section[:, :]
    elif form == "layer":
        section.layers["counts"] = section.X.copy()
        section.X = section.X * 0.5
        arguments["layer"] = "counts"
    elif form == "backed":
        section.write_h5ad(tmp_path / "section.h5ad")
        section = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    elif form == "dask":
        import dask.array

        section.X = dask.array.from_array(section.X, chunks=(150, section.n_vars))
    elif form == "spatialdata":
        from spatialdata import SpatialData

        section = SpatialData(tables={"table": section})
    else:
        import mudata

        with mudata.set_options(pull_on_update=False):
            section = mudata.MuData({"rna": section})
        arguments["mod"] = "rna"
    planted = plant(section, **arguments)
    assert planted.X.dtype == np.float32
    assert (planted.X != expected.X).nnz == 0
    assert planted.uns["truth"].equals(expected.uns["truth"])
    if form == "backed":
        section.file.close()


def test_gene_key(section):
    section.var["symbol"] = section.var_names
    section.var_names = [f"gene{i}" for i in range(section.n_vars)]
    planted = plant(section, n_effects=2, n_decoys=1, gene_key="symbol")
    assert set(planted.uns["truth"]["source"]) <= set(section.var["symbol"])
    assert planted.var_names.equals(section.var_names)


def test_round_trip(section, tmp_path):
    planted = plant(section, n_effects=2, n_decoys=1)
    planted.write_h5ad(tmp_path / "planted.h5ad")
    back = ad.read_h5ad(tmp_path / "planted.h5ad")
    assert (back.X != planted.X).nnz == 0
    assert back.uns["truth"].astype(str).equals(planted.uns["truth"].astype(str))


def test_nothing_to_plant(section):
    assert (plant(section, n_effects=0, n_decoys=0).X != section.X).nnz == 0


def test_bad_pairs(section):
    a, b, c = section.var_names[:3]

    def check(error, message, *rows, columns=("source", "target", "strength")):
        with pytest.raises(error, match=message):
            plant(section, pd.DataFrame(list(rows), columns=list(columns)))

    check(GenesError, r"not among the genes of the table: \['NOPE'\] \(1 in all\)", (a, "NOPE", 1))
    check(ArgumentError, r"a pair twice", (a, b, 1), (a, b, 0.5))
    check(ArgumentError, r"paired with itself", (a, a, 1))
    check(ArgumentError, rf"\['{b}'\] are sources of effects and targets of others", (a, b, 1), (b, c, 1))
    check(ArgumentError, r"strength=3\.0; expected -2 to 2", (a, b, 3.0))
    check(ArgumentError, r"strength=nan", (a, b, np.nan))
    check(
        ArgumentError,
        r"found \['ligand', 'target', 'strength'\]; expected",
        (a, b, 1),
        columns=("ligand", "target", "strength"),
    )
    check(ArgumentError, r"expected a DataFrame of pairs")
    with pytest.raises(ArgumentError, match="found list; expected a DataFrame"):
        plant(section, [(a, b)])
    # A pair that is left as it is may be of any genes.
    plant(section, pd.DataFrame({"source": [a, b], "target": [b, c], "strength": [1, 0]}))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"strength": 0}, ArgumentError, r"strength=0; expected another"),
        ({"strength": "strong"}, ArgumentError, r"strength='strong'"),
        ({"n_effects": -1}, ArgumentError, r"n_effects=-1"),
        ({"n_decoys": 1.5}, ArgumentError, r"n_decoys=1\.5"),
        (
            {"n_effects": 140},
            ArgumentError,
            r"n_effects=140 and n_decoys=20 take 360 genes.*found \d+ seen in at least 10%",
        ),
        ({"rng": "seed"}, ArgumentError, r"rng='seed'"),
        ({"spatial_key": "where"}, KeyError, r"spatial_key='where'"),
        ({"layer": "counts"}, KeyError, r"layer='counts'"),
        ({"gene_key": "symbol"}, KeyError, r"gene_key='symbol'"),
    ],
)
def test_bad_arguments(section, arguments, error, message):
    with pytest.raises(error, match=message):
        plant(section, **arguments)


def test_bad_tables(section):
    with pytest.raises(CoordinatesError, match="15 spots"):
        plant(section[:10].copy(), n_effects=1, n_decoys=1)
    section.X = section.X * 0.5
    with pytest.raises(CountsError, match="fractional"):
        plant(section)
