"""Genes that are named otherwise, are no genes, are few or were not measured: read as what they are, or told."""

from __future__ import annotations

import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sagefm
from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._genes import Vocabulary, match_genes, published_vocabulary
from sagefm.data._symbols import _ensembl_to_symbol, canonical, previous_symbols, reference_symbols
from sagefm.errors import GenesError
from sagefm.model import SAGEFM
from tests import OTHER_KERNELS
from tests.repairs import repaired

IDS = {symbol: ensembl for ensembl, symbol in _ensembl_to_symbol().items()}


def embed(adata, model):
    sagefm.tl.embed(adata, model)
    return adata.obsm["X_sagefm"]


def table(names, n_spots=1):
    return ad.AnnData(np.ones((n_spots, len(names)), np.float32), var=pd.DataFrame(index=list(names)))


def findings(adata, model, what, **kwargs):
    report = sagefm.pp.check(adata, model, verbose=False, **kwargs)
    return [finding for finding in report.findings if finding.what == what]


def in_r(name):
    return re.sub(r"^(?=\d)", "X", re.sub(r"[^0-9A-Za-z]", ".", name))


@pytest.fixture
def visium():
    """A few spots of a real section whose genes have all kinds of names."""
    return sagefm.datasets.dlpfc()[:200].copy()


# Names that were changed on the way

CHANGES = {
    "R": in_r,
    "R, of some": lambda name: in_r(name) if name < "M" else name,
    "underscores": lambda name: name.replace("-", "_"),
    "genome": lambda name: f"GRCh38_{name}",
    "reference": lambda name: f"refdata-gex-GRCh38-2020-A_{name}",
    "genome, three dashes": lambda name: f"GRCh38---{name}",
    "genome, with introns": lambda name: f"GRCh38premrna-{name}",
    "genome, of half": lambda name: f"hg19_{name}" if len(name) % 2 else name,
    "genome, of few": lambda name: f"hg38_{name}" if name.startswith("A") else name,
    "genome at the end": lambda name: f"{name}-GRCh38",
    "species at the end": lambda name: f"{name}_human",
    "a word that all share": lambda name: f"sampleA.{name}",
    "genome and R": lambda name: in_r(f"GRCh38_{name}"),
    "bytes": lambda name: str(name.encode()),
    "quotes": lambda name: f'"{name}"',
    "spaces": lambda name: f" {name}\t",
    "symbol and id": lambda name: f"{name}_{IDS[name]}" if name in IDS else name,
    "id and symbol": lambda name: f"{IDS[name]}.4|{name}" if name in IDS else name,
    "ids, lifted over": lambda name: f"{IDS[name]}.7_2" if name in IDS else name,
    "ids of Y": lambda name: f"{IDS[name]}.5_PAR_Y" if name in IDS else name,
    "prefixed ids": lambda name: f"GRCh38_{IDS[name]}" if name in IDS else f"GRCh38_{name}",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_names_are_read_and_told(change, visium):
    model = resolve_model("default")
    expected = embed(visium.copy(), model)
    visium.var_names = [CHANGES[change](name) for name in visium.var_names]
    if change.startswith("ids"):
        np.testing.assert_array_equal(embed(visium, model), expected)
        return
    with pytest.warns(UserWarning, match="not spelled as genes.*of the model's vocabulary") as caught:
        found = embed(visium, model)
    np.testing.assert_array_equal(found, expected)
    named = repaired(visium, str(caught[0].message))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(embed(named, model), expected)


def test_the_call_that_renames_genes(visium):
    visium.var_names = [in_r(name) for name in visium.var_names]
    (finding,) = findings(visium, "default", "changed names")
    named = repaired(visium, str(finding))
    assert not findings(named, "default", "changed names")
    assert {"HLA-A", "HLA-DRB1"} <= set(named.var_names)
    visium.var["symbol"] = visium.var_names
    visium.var_names = [f"probe{i}" for i in range(visium.n_vars)]
    (finding,) = findings(visium, "default", "changed names", gene_key="symbol")
    assert not findings(repaired(visium, str(finding)), "default", "changed names", gene_key="symbol")


@pytest.mark.parametrize(
    "names",
    [
        [f"antisense_{name}" for name in ("CD3E", "CD4", "CD8A")],
        [f"ADT_{name}" for name in ("CD3E", "CD4", "CD8A")],
        ["NegControlProbe_CD4", "BLANK_CD3E", "DEPRECATED_CD8A", "DEPRECATED_ENSG00000198851"],
        ["mm10___Cd3e", "cd4", "Cd8a"],
        ["CD3E-1", "CD4-2", "HLA.Z"],
        ["CD3E-AS1", "CD4-DT"],
    ],
    ids=str,
)
def test_names_that_are_no_genes(names):
    others = [f"gene{i}" for i in range(50)]
    vocabulary = Vocabulary(("CD3E", "CD4", "CD8A", "HLA-A", *others))
    assert match_genes(table([*others, *names]), vocabulary).report["via"].to_list() == ["symbol"] * 50 + [""] * len(
        names
    )


def test_a_name_that_can_mean_two_genes_is_not_read():
    vocabulary = Vocabulary(("A-B", "A_B", "HLA-A", "NKX2-1"))
    report = match_genes(table(["A.B", "HLA.A", "HLA_A", "NKX2.1"]), vocabulary).report
    assert report["matched"].to_list() == [False, False, False, True]
    assert report["duplicate"].to_list() == [False, True, True, False]


def test_two_genomes_in_one_table(synovium, synovium_model):
    expected = embed(synovium.copy(), synovium_model)
    mouse = synovium.copy()
    mouse.var_names = [f"mm10___{name.title()}" for name in synovium.var_names]
    synovium.var_names = [f"GRCh38_{name}" for name in synovium.var_names]
    both = ad.concat([synovium, mouse], axis=1, merge="same")
    both.obsm["spatial"] = synovium.obsm["spatial"]
    with pytest.warns(UserWarning, match="not spelled as genes"):
        found = embed(both, synovium_model)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Symbols that were renamed

RENAMED = {
    "SEPT9": "SEPTIN9",
    "MARCHF9": "MARCH9",
    "H2AZ1": "H2AFZ",
    "CTGF": "CCN2",
    "PVRL1": "NECTIN1",
    "KARS1": "KARS",
}


@pytest.mark.parametrize("name", RENAMED)
def test_renamed_genes_are_found(name):
    symbol = RENAMED[name]
    others = tuple(f"gene{i}" for i in range(10))
    report = match_genes(table([name, *others]), Vocabulary((symbol, *others))).report
    assert report.iloc[0].to_list() == [symbol, True, "previous", False]
    # And in a model that has the other name.
    report = match_genes(table([symbol, *others]), Vocabulary((name, *others))).report
    assert report.iloc[0].to_list() == [name, True, "previous", False]


def test_a_renamed_gene_beside_itself_or_another_name_of_it():
    others = tuple(f"gene{i}" for i in range(10))
    vocabulary = Vocabulary(("SEPTIN9", "H2AFZ", *others))
    report = match_genes(table(["SEPT9", "SEPTIN9", "H2AZ1", "H2AZ", *others]), vocabulary).report.iloc[:4]
    assert report["matched"].to_list() == [False, True, False, False]
    assert report["duplicate"].to_list() == [True, False, True, True]


def test_previous_symbols_are_unambiguous():
    previous = previous_symbols()
    assert len(previous) > 7_000
    wanted = {*published_vocabulary().symbols, *resolve_model("default").vocabulary.symbols}
    assert set(previous.values()) <= wanted <= reference_symbols()
    assert not set(previous) & reference_symbols()
    # Two genes were once named NOV; AIM1 and QARS1P1 are no symbols of the reference.
    assert canonical("NOV") == "NOV"
    assert all(canonical(symbol) == symbol for symbol in published_vocabulary().symbols)


def test_renamed_genes_are_noted(section, default):
    symbols = {symbol: name for name, symbol in previous_symbols().items()}
    expected = embed(section.copy(), default)
    renamed = {name: symbols[name] for name in section.var_names if name in symbols}
    section.var_names = [renamed.get(name, name) for name in section.var_names]
    assert len(renamed) > 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(embed(section, default), expected)
    (note,) = findings(section, default, "renamed genes")
    assert note.severity == "note"
    assert f"{len(renamed)} of 300 names" in note.message
    name = next(iter(renamed.values()))
    with pytest.raises(GenesError, match=re.escape(f"Did you mean ['{canonical(name)}']")):
        sagefm.tl.impute(section, default, genes=[name])


@pytest.mark.parametrize(
    ("date", "symbol"),
    [
        ("9-Mar", "MARCH9"), ("09-Mar", "MARCH9"), ("Mar-09", "MARCH9"), ("2024-03-09", "MARCH9"), ("X9.Mar", "MARCH9"),
        ("2023-03-09 00:00:00", "MARCH9"), ("9-Sep", "SEPTIN9"), ("9-SEP", "SEPTIN9"), ("9-Sep.1", "SEPTIN9"),
        ("1-Dec", "DEC1"), ("1-Mar", None), ("2-Mar", None), ("99-Mar", None), ("9-May", None),
    ],
)  # fmt: skip
def test_dates_of_a_spreadsheet(date, symbol):
    others = [f"gene{i}" for i in range(10)]
    vocabulary = Vocabulary(("MARCH1", "MARC1", "MARCH2", "MARC2", "MARCH9", "SEPTIN9", "DEC1", *others))
    report = match_genes(table([date, *others]), vocabulary).report
    assert (report["gene"].iloc[0] if report["matched"].iloc[0] else None) == symbol


def test_dates_are_noted(synovium):
    """The section that is bundled has some."""
    read, unread = findings(synovium, "default", "dates")
    assert "'9-Mar' as 'MARCH9'" in read.message
    assert "'1-Mar'" in unread.message
    assert {read.severity, unread.severity} == {"note"}


# Features that are no genes


@pytest.mark.parametrize("key", ["feature_types", "feature_type"])
def test_features_that_are_no_genes_are_not_read(key, section, default):
    gene = section.var_names[5]
    expected = embed(section[:, section.var_names != gene].copy(), default)
    section.var[key] = "Gene Expression"
    section.var.loc[gene, key] = "Antibody Capture"
    section.X[:, 5] = 1000
    with pytest.warns(UserWarning, match=f"1 of 300 features are no genes.*'Antibody Capture'.*{gene}") as caught:
        found = embed(section, default)
    np.testing.assert_array_equal(found, expected)
    kept = repaired(section, str(caught[0].message))
    assert gene not in kept.var_names
    np.testing.assert_array_equal(embed(kept, default), expected)
    SAGEFM.setup_anndata(section)
    assert gene not in SAGEFM(section, hidden=(8, 4)).to_checkpoint().vocabulary.symbols


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_features_that_have_the_name_of_a_gene_twice(section, default, rejects, of_section):
    proteins = section[:, :5].copy()
    both = ad.concat([section, proteins], axis=1, merge="first")
    both.var["feature_types"] = ["Gene Expression"] * 300 + ["Antibody Capture"] * 5
    message = rejects(GenesError, both, lambda: embed(both, default), "5 names more than once", "no genes")
    np.testing.assert_array_equal(embed(repaired(both, message), default), of_section.embedding)


def test_features_that_no_gene_is_named_like_are_noted(section, default):
    names = [f"CD{i}-antibody" for i in range(20)]
    proteins = ad.AnnData(
        sparse.csr_matrix(np.full((400, 20), 9, np.float32)), obs=section.obs, var=pd.DataFrame(index=names)
    )
    both = ad.concat([section, proteins], axis=1, merge="first")
    both.var["feature_types"] = pd.Categorical(["Gene Expression"] * 300 + ["Antibody Capture"] * 20)
    np.testing.assert_array_equal(embed(both, default), embed(section, default))
    (note,) = findings(both, default, "features")
    assert note.severity == "note"
    assert repaired(both, str(note)).n_vars == 300


@pytest.mark.parametrize("kinds", ["protein_coding", "Genes", "gene expression "])
def test_other_words_for_genes(kinds, section, default, of_section):
    section.var["feature_types"] = kinds
    np.testing.assert_array_equal(embed(section, default), of_section.embedding)


# Few genes, and genes that were not measured


def test_few_genes_are_told(synovium, synovium_model):
    few = synovium[:, ::9].copy()
    with pytest.warns(
        UserWarning, match=r"1,668 of the 15,005 genes of the model's vocabulary \(11%\).*highly variable"
    ):
        embed(few, synovium_model)
    few.raw = synovium
    with pytest.warns(UserWarning, match="adata.raw has 15,005") as caught:
        embed(few, synovium_model)
    assert repaired(few, str(caught[0].message)).n_vars == 15_005
    few.var["symbol"] = few.var_names
    few.var_names = [name if i % 3 == 0 else f"probe{i}" for i, name in enumerate(few.var_names)]
    del few.raw
    with pytest.warns(UserWarning, match="pass gene_key='symbol'") as caught:
        embed(few, synovium_model)


def test_a_column_with_more_genes_is_named(section, default, rejects):
    section.var["gene_name"], section.var["n"] = section.var_names, 1
    section.var_names = [f"probe{i}" for i in range(300)]
    rejects(GenesError, section, lambda: embed(section, default), "pass gene_key='gene_name'")
    sagefm.tl.embed(section, default, gene_key="gene_name")


def joined(section, *, n_missing):
    """Two sections, the second without some genes, joined as ``anndata.concat(join="outer")`` does."""
    other = section[:, n_missing:].copy()
    other.X = other.X + sparse.random_array(other.shape, density=0.01, rng=np.random.default_rng(0)).ceil().tocsr()
    both = ad.concat({"a": section, "b": other}, label="slide", index_unique="-", join="outer")
    assert both.shape == (800, 300)
    return both


@pytest.mark.parametrize("layer", [None, "counts"])
def test_genes_that_one_of_the_sections_did_not_measure(layer, section, default):
    both = joined(section, n_missing=60)
    if layer is not None:
        both.layers[layer], both.X = both.X, None
    call = lambda adata: sagefm.tl.embed(adata, default, library_key="slide", layer=layer)
    with pytest.warns(UserWarning, match="60 of the model's genes have no count in section 'b'.*outer join") as caught:
        call(both)
    inner = repaired(both, str(caught[0].message))
    assert inner.n_vars == 240
    call(inner)


def test_sections_that_name_a_gene_differently_are_read_as_one_table(synovium, synovium_model):
    """After an outer join each name of the gene has its own column, with zeros for the other section."""
    renamed = synovium.copy()
    renamed.var_names = renamed.var_names.map(lambda name: "ATP5F1A" if name == "ATP5A1" else name)
    assert "ATP5F1A" in renamed.var_names
    join = lambda *sections: ad.concat(
        dict(zip("ab", sections, strict=True)), label="slide", index_unique="-", join="outer", fill_value=0
    )
    same, both = join(synovium, synovium), join(synovium, renamed)
    assert both.n_vars == same.n_vars + 1
    for adata in (same, both):
        sagefm.tl.embed(adata, synovium_model, library_key="slide")
    np.testing.assert_allclose(both.obsm["X_sagefm"], same.obsm["X_sagefm"], **OTHER_KERNELS)
    findings = sagefm.pp.check(both, synovium_model, library_key="slide").to_frame()
    assert "'ATP5F1A' with 'ATP5A1'" in findings.set_index("what").loc["split genes", "message"]


def test_two_columns_of_one_gene_in_one_section_are_not_added_up(synovium, synovium_model):
    other = synovium[:, ["ATP5A1"]].copy()
    other.var_names = ["ATP5F1A"]
    twice = ad.concat([synovium, other], axis="var", merge="same")
    for adata in (synovium, twice):
        sagefm.tl.embed(adata, synovium_model)
    np.testing.assert_array_equal(twice.obsm["X_sagefm"], synovium.obsm["X_sagefm"])


def test_genes_that_the_only_section_did_not_measure(section, default):
    one = joined(section, n_missing=120)[400:].copy()
    with pytest.warns(
        UserWarning, match="120 of the 300 genes that the model knows have no count.*outer join"
    ) as caught:
        embed(one, default)
    measured = repaired(one, str(caught[0].message))
    assert measured.n_vars == 180
    embed(measured, default)


def test_rare_genes_are_measured(synovium, synovium_model):
    """Of few or shallow spots, many genes have no count by chance."""
    embed(synovium[:40].copy(), synovium_model)
    synovium.X = sparse.csr_matrix(
        np.random.default_rng(0).binomial(synovium.X.toarray().astype(int), 0.02).astype(np.float32)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*spots have no counts")
        embed(synovium, synovium_model)
