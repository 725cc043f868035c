"""Genes that are not there, not unique, of another species or of another naming."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.data._genes import Vocabulary, _ensembl_to_symbol
from sagefm.errors import ArgumentError, GenesError, MissingKeyError
from sagefm.inference._pairs import subunits
from sagefm.model import SAGEFM

NAMINGS = ["bare", "versioned"]


def ensembl_ids(symbols, naming: str) -> list[str]:
    """Ensembl ids of those symbols that have one; the others stay."""
    ids = {symbol: ensembl for ensembl, symbol in reversed(_ensembl_to_symbol().items())}
    suffixes = [f".{i % 17 + 1}" if naming == "versioned" else "" for i in range(len(symbols))]
    return [ids[s] + suffix if s in ids else s for s, suffix in zip(symbols, suffixes, strict=True)]


def test_duplicate_names(section, default, rejects):
    names = section.var_names.to_list()
    section.var_names = [*names[:-1], names[0]]
    words = (repr(names[0]), "var_names_make_unique()")
    rejects(GenesError, section, lambda: sagefm.tl.embed(section, default), *words)
    rejects(GenesError, section, lambda: sagefm.tl.impute(section, default), *words)
    rejects(GenesError, section, lambda: sagefm.pp.match_genes(section, model=default), *words)
    rejects(GenesError, section, lambda: SAGEFM.setup_anndata(section), *words)


def test_match_genes_takes_the_model_second(section, default):
    assert sagefm.pp.match_genes(section, default)["matched"].all()


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_duplicate_names_beside_a_column_of_symbols(section, default, run_verbs, assert_same):
    expected = run_verbs(section.copy(), default)
    section.var["symbol"] = section.var_names
    section.var_names = ["same"] * section.n_vars
    assert_same(run_verbs(section, default, gene_key="symbol"), expected)


@pytest.mark.parametrize("naming", NAMINGS)
def test_ensembl_ids(naming, section, checkpoint, run_verbs, assert_same):
    expected = run_verbs(section.copy(), checkpoint)
    symbols = section.var_names
    section.var_names = ensembl_ids(symbols, naming)
    by_id = section.var_names.str.startswith("ENSG")
    assert by_id.mean() > 0.9

    report = sagefm.pp.match_genes(section, model=checkpoint)
    assert report["gene"].to_list() == symbols.to_list()
    assert report["matched"].all()
    assert report["via"].to_list() == ["ensembl" if is_id else "symbol" for is_id in by_id]
    assert report.index.equals(section.var_names)
    assert section.var["sagefm_gene"].to_list() == symbols.to_list()
    coverage = {"n_vocabulary": 300, "n_matched": 300, "n_by_ensembl_id": by_id.sum(), "coverage": 1.0}
    assert section.uns["sagefm"]["coverage"] == coverage
    assert_same(run_verbs(section, checkpoint), expected)
    assert section.uns["sagefm"]["coverage"] == coverage


@pytest.mark.parametrize("naming", ["symbols", *NAMINGS])
@pytest.mark.parametrize("categorical", [True, False])
def test_gene_key(naming, categorical, section, default, run_verbs, assert_same):
    expected = run_verbs(section.copy(), default)
    symbols = section.var_names
    section.var["name"] = symbols if naming == "symbols" else ensembl_ids(symbols, naming)
    if categorical:
        section.var["name"] = section.var["name"].astype("category")
    section.var_names = [f"probe{i}" for i in range(section.n_vars)]
    assert_same(run_verbs(section, default, gene_key="name"), expected)
    params = section.uns["sagefm"]["X_sagefm"]
    assert (params["gene_key"], params["n_genes_matched"], params["coverage"]) == ("name", 300, 1.0)


def test_training_on_ensembl_ids_learns_symbols(section):
    symbols = section.var_names.to_list()
    section.var_names = ensembl_ids(symbols, "versioned")
    SAGEFM.setup_anndata(section)
    assert SAGEFM(section, hidden=(8, 4)).to_checkpoint().vocabulary.symbols == tuple(symbols)


def test_two_columns_of_one_gene_use_the_first(section, default, caplog):
    once = section[:, :-1].copy()
    sagefm.tl.embed(once, default)
    section.var["symbol"] = [*section.var_names[:-1], section.var_names[0]]
    with caplog.at_level("INFO", logger="sagefm"):
        report = sagefm.pp.match_genes(section, model=default, gene_key="symbol")
    assert "1 columns left out as duplicates" in caplog.text
    assert report["duplicate"].to_list() == [False] * 299 + [True]
    assert report["matched"].to_list() == [True] * 299 + [False]
    assert section.var["sagefm_gene"].iloc[-1] == ""
    sagefm.tl.embed(section, default, gene_key="symbol")
    np.testing.assert_array_equal(section.obsm["X_sagefm"], once.obsm["X_sagefm"])


def test_unknown_genes_are_left_out(section, checkpoint, run_verbs):
    section.var_names = [*section.var_names[:-2], "unknown1", "ENSG99999999999"]
    some = section[:, :-2].copy()
    sagefm.tl.embed(some, checkpoint)
    sagefm.tl.embed(section, checkpoint)
    sagefm.tl.impute(section, checkpoint, progress=False)
    if checkpoint.config.architecture == "published":
        np.testing.assert_array_equal(section.obsm["X_sagefm"], some.obsm["X_sagefm"])
    assert np.isnan(section.layers["sagefm_imputed"][:, -2:]).all()
    assert np.isfinite(section.layers["sagefm_imputed"][:, :-2]).all()
    assert section.var["sagefm_imputed"].to_list() == [True] * 298 + [False] * 2
    assert section.var["sagefm_imputed_r"].isna().to_numpy()[-2:].all()
    assert sagefm.pp.match_genes(section, model=checkpoint)["via"].to_list()[-3:] == ["symbol", "", ""]


@pytest.mark.parametrize(
    "rename",
    [str.title, str.lower, lambda name: f"ENSMUSG{abs(hash(name)) % 10**11:011d}.1"],
    ids=["title", "lower", "ensembl"],
)
def test_mouse_genes(rename, section, default, rejects):
    section.var_names = [rename(name) for name in section.var_names]
    section.var_names_make_unique()
    words = ("mouse", "ortholog", "of the 300 genes", "SAGEFM(adata)")
    rejects(GenesError, section, lambda: sagefm.tl.embed(section, default), *words)
    rejects(GenesError, section, lambda: sagefm.pp.match_genes(section, model=default), *words)


def test_a_model_of_mouse_genes(section):
    # The error proposes it.
    section.var_names = [name.title() for name in section.var_names]
    section.var_names_make_unique()
    SAGEFM.setup_anndata(section)
    model = SAGEFM(section, hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu")
    sagefm.tl.embed(section, model)
    assert np.isfinite(section.obsm["X_sagefm"]).all()


@pytest.mark.parametrize("n_known", [0, 1, 29])
def test_less_than_a_tenth_of_the_vocabulary(n_known, section, default, rejects):
    names = section.var_names.to_list()
    section.var_names = names[:n_known] + [f"probe{i}" for i in range(300 - n_known)]
    words = (f"{n_known} of the 300 genes", "10%", "gene_key=", "SAGEFM(adata)")
    rejects(GenesError, section, lambda: sagefm.tl.embed(section, default), *words)
    rejects(GenesError, section, lambda: sagefm.tl.impute(section, default), *words)
    rejects(GenesError, section, lambda: sagefm.tl.perturb(section, default, sources=names[:1], targets=names[1:2]))


def test_a_tenth_of_the_vocabulary_is_enough(section, checkpoint):
    panel = section[:, :30].copy()
    with pytest.warns(UserWarning, match=r"Found 30 of the 300 genes of the model's vocabulary \(10%\)"):
        sagefm.tl.embed(panel, checkpoint)
    with pytest.warns(UserWarning, match="Found 30 of the 300 genes"):
        sagefm.tl.impute(panel, checkpoint, progress=False)
    assert panel.uns["sagefm"]["X_sagefm"]["coverage"] == pytest.approx(0.1)
    assert np.isfinite(panel.layers["sagefm_imputed"]).all()


# Genes that are asked for


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        (["DBI", "nonsense"], ("genes: not in the model", "(1 in all)", "'nonsense'", "match_genes")),
        ("nonsense", ("genes: not in the model", "(1 in all)", "'nonsense'")),
        (["dbi"], ("genes: not in the model", "(1 in all)", "'dbi'", "Did you mean ['DBI']")),
        (["ENSG99999999999"], ("genes: not in the model", "(1 in all)", "ENSG99999999999")),
        ([3], ("genes: not in the model", "(1 in all)", "3")),
    ],
)
def test_unknown_genes_to_impute(genes, words, section, default, rejects):
    rejects(GenesError, section, lambda: sagefm.tl.impute(section, default, genes=genes), *words)


@pytest.mark.parametrize("genes", [[], (), pd.Index([])])
def test_no_genes_to_impute(genes, section, default, rejects):
    rejects(
        ArgumentError,
        section,
        lambda: sagefm.tl.impute(section, default, genes=genes),
        f"genes={genes!r}",
        "gene names",
    )


@pytest.mark.parametrize("genes", [3, 2.5, True])
def test_genes_of_another_type(genes, section, default, rejects):
    rejects(ArgumentError, section, lambda: sagefm.tl.impute(section, default, genes=genes), f"genes={genes!r}")
    call = lambda: sagefm.tl.perturb(section, default, sources=genes, targets=["DBI"])
    rejects(ArgumentError, section, call, f"sources={genes!r}")


def frame(*pairs) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["source", "target"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"pairs": frame(("DBI", "nonsense"))},
            GenesError,
            ("pairs: not in the model", "(1 in all)", "'nonsense'", "match_genes"),
        ),
        ({"pairs": frame(("nonsense", "DBI"))}, GenesError, ("pairs: not in the model", "(1 in all)", "'nonsense'")),
        ({"pairs": frame(("dbi", "MVP"))}, GenesError, ("'dbi'", "Did you mean ['DBI']")),
        ({"sources": ["nonsense"], "targets": ["DBI"]}, GenesError, ("sources", "'nonsense'")),
        ({"sources": ["DBI"], "targets": ["nonsense"]}, GenesError, ("targets", "'nonsense'")),
        ({"pairs": frame(("DBI", "MVP"), ("MVP", "MVP"))}, ArgumentError, ("equal to the source", "'MVP'")),
        ({"pairs": frame(("DBI", "ENSG00000155368.16"))}, ArgumentError, ("equal to the source", "'DBI'")),
        ({"sources": ["DBI"], "targets": ["DBI"]}, ArgumentError, ("target other than",)),
        ({"sources": "DBI", "targets": "DBI"}, ArgumentError, ("target other than",)),
        ({"pairs": frame()}, ArgumentError, ("at least one",)),
        ({"pairs": frame(("DBI_MVP", "nonsense_DBI"))}, GenesError, ("pairs: not in the model", "'nonsense'")),
        ({"pairs": frame(("DBI_MVP", "MVP"))}, ArgumentError, ("gene in common", "'DBI_MVP'", "'MVP'")),
        ({"sources": "DBI", "targets": "DBI_MVP"}, ArgumentError, ("target other than",)),
        ({"sources": [], "targets": ["DBI"]}, ArgumentError, ("sources=[]", "gene names")),
        ({"pairs": frame(("DBI", None))}, ArgumentError, ("missing values", "dropna()")),
        ({"pairs": frame(("DBI", "MVP")).rename(columns={"source": "ligand"})}, MissingKeyError, ("source", "ligand")),
        ({"pairs": [("DBI", "MVP")]}, ArgumentError, ("list", "DataFrame", "source")),
        ({"pairs": {"source": ["DBI"], "target": ["MVP"]}}, ArgumentError, ("dict", "DataFrame")),
        ({"pairs": "omnipath"}, ArgumentError, ("pairs='omnipath'", "'consensus'", "DataFrame")),
        ({}, ArgumentError, ("pairs=", "sources=", "targets=")),
        ({"sources": ["DBI"]}, ArgumentError, ("pairs=", "sources=", "targets=")),
        ({"targets": ["DBI"]}, ArgumentError, ("pairs=", "sources=", "targets=")),
        ({"pairs": frame(("DBI", "MVP")), "sources": ["DBI"]}, ArgumentError, ("pairs=", "sources=", "targets=")),
        ({"pairs": frame(("DBI", "MVP")), "targets": ["MVP"]}, ArgumentError, ("pairs=", "sources=", "targets=")),
        (
            {"pairs": frame(("DBI", "MVP")), "sources": ["DBI"], "targets": ["MVP"]},
            ArgumentError,
            ("pairs=", "sources=", "targets="),
        ),
    ],
    ids=lambda value: None if not isinstance(value, dict) else "+".join(value) or "nothing",
)
def test_pairs_that_cannot_be_scored(arguments, error, words, section, default, rejects):
    rejects(error, section, lambda: sagefm.tl.perturb(section, default, progress=False, **arguments), *words)


def test_source_that_was_not_measured(section, default, rejects):
    rest = section[:, section.var_names != "DBI"].copy()
    call = lambda: sagefm.tl.perturb(rest, default, sources=["DBI"], targets=["MVP"])
    rejects(GenesError, rest, call, "not measured", "'DBI'")
    call = lambda: sagefm.tl.perturb(rest, default, sources=["MVP_DBI"], targets=["CARM1"])
    rejects(GenesError, rest, call, "not measured", "['DBI'] (1 in all)")


def test_target_that_was_not_measured_is_predicted(section, default):
    rest = section[:, section.var_names != "MVP"].copy()
    sagefm.tl.perturb(rest, default, sources=["DBI"], targets=["MVP"], progress=False)
    assert np.isfinite(rest.uns["sagefm_perturb"]["scores"]["effect"]).all()


def test_a_gene_may_have_an_underscore_in_its_name(section):
    """The whole name is looked for first."""
    names = list(section.var_names)
    vocabulary = Vocabulary(("A_B", *names[1:]))
    assert subunits("A_B", vocabulary) == ["A_B"]
    assert subunits("_".join(names[1:3]), vocabulary) == names[1:3]
    assert subunits(f"{names[1]}_{names[1]}", vocabulary) == [names[1]]


def test_ensembl_ids_of_subunits(section, default):
    pairs = frame(("ENSG00000155368.16", "MVP"), ("ENSG00000155368_CARM1", "MVP"))
    sagefm.tl.perturb(section, default, pairs=pairs, progress=False)
    assert section.uns["sagefm_perturb"]["scores"]["source"].to_list() == ["DBI", "DBI_CARM1"]


@pytest.mark.skipif(importlib.util.find_spec("liana") is not None, reason="liana is installed")
def test_consensus_pairs_without_liana(section, default, rejects):
    rejects(ArgumentError, section, lambda: sagefm.tl.perturb(section, default, pairs="consensus"), "pip install liana")
