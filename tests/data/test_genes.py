"""Vocabularies, and how a table's genes are found in them."""

from __future__ import annotations

import hashlib

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagefm.data._genes import (
    Vocabulary,
    _ensembl_to_symbol,
    make_vocabulary,
    match_genes,
    published_vocabulary,
    to_symbols,
)
from sagefm.errors import ArgumentError, GenesError, MissingKeyError


def table(names, **columns) -> ad.AnnData:
    return ad.AnnData(np.zeros((1, len(names))), var=pd.DataFrame(columns, index=pd.Index(list(names), dtype=object)))


# TP53, GAPDH, ACTB
IDS = ["ENSG00000141510", "ENSG00000111640", "ENSG00000075624"]
VOCABULARY = Vocabulary(("GAPDH", "ACTB", "TP53", "GFAP"))


def test_published_vocabulary():
    vocabulary = published_vocabulary()
    assert len(vocabulary) == len(set(vocabulary.symbols)) == 14_558
    assert vocabulary is published_vocabulary(), "read once"
    # The order is that of the published network's columns.
    digest = hashlib.sha256("\n".join(vocabulary.symbols).encode()).hexdigest()
    assert digest == "fd2722011b2d9f269de486e157b6f31964eff646d72f50075deebb106ed62852"


def test_the_bundled_ids():
    symbols = _ensembl_to_symbol()
    assert len(symbols) == 36_601
    assert [symbols[i] for i in IDS] == ["TP53", "GAPDH", "ACTB"]
    # Most of the published vocabulary can be given by id.
    assert len(set(published_vocabulary().symbols) & set(symbols.values())) > 0.9 * 14_558


def test_to_symbols():
    names = pd.Index(
        [IDS[0], f"{IDS[1]}.14", "GFAP", "ENSG99999999999", "ENSMUSG00000059552", "ENSG0000014151", "ensg1"]
    )
    expected = ["TP53", "GAPDH", "GFAP", "ENSG99999999999", "ENSMUSG00000059552", "ENSG0000014151", "ensg1"]
    assert to_symbols(names).tolist() == expected
    assert to_symbols(pd.Index(["A", "B"])).tolist() == ["A", "B"]
    assert to_symbols(pd.Index([])).tolist() == []


def test_a_vocabulary_holds_a_gene_once():
    with pytest.raises(GenesError, match="twice"):
        Vocabulary(("A", "B", "A"))


def test_positions():
    assert VOCABULARY.positions(["TP53", "GAPDH", "TP53"], argument="genes").tolist() == [2, 0, 2]
    assert VOCABULARY.positions([f"{IDS[2]}.3"], argument="genes").tolist() == [1]
    assert VOCABULARY.positions([], argument="genes").dtype == np.int64
    with pytest.raises(GenesError, match=r"sources: .*vocabulary of 4 genes: \['gfap', 'X'\] \(2 in all\).*\['GFAP'\]"):
        VOCABULARY.positions(["gfap", "TP53", "X"], argument="sources")


def test_make_vocabulary():
    names = pd.Index(["GFAP", IDS[0], "TP53", "other"])
    assert make_vocabulary(names).symbols == ("GFAP", "TP53", "other")
    assert make_vocabulary(names, ["B", "A"]).symbols == ("B", "A")
    assert make_vocabulary(names, "published") is published_vocabulary()
    with pytest.raises(ArgumentError, match="'mouse'"):
        make_vocabulary(names, "mouse")
    with pytest.raises(GenesError, match="twice"):
        make_vocabulary(names, ["A", "A"])


def test_match():
    match = match_genes(table(["x", "TP53", f"{IDS[1]}.2", "GFAP", IDS[0], "gfap"]), VOCABULARY)
    assert match.columns.tolist() == [2, 1, 3]
    assert match.genes.tolist() == [0, 2, 3]
    assert match.coverage == 0.75
    assert match.report["gene"].tolist() == ["x", "TP53", "GAPDH", "GFAP", "TP53", "gfap"]
    assert match.report["matched"].tolist() == [False, True, True, True, False, False]
    assert match.report["duplicate"].tolist() == [False, False, False, False, True, False]
    assert match.report["via"].tolist() == ["", "symbol", "ensembl", "symbol", "ensembl", ""]


def test_match_by_a_column():
    names = table(["p1", "p2"], symbol=["ACTB", None], number=[1, 2])
    match = match_genes(names, VOCABULARY, "symbol")
    assert (match.columns.tolist(), match.genes.tolist()) == ([0], [1])
    assert match.report.index.tolist() == ["p1", "p2"]
    with pytest.raises(MissingKeyError, match=r"gene_key='id'.*'symbol', 'number'"):
        match_genes(names, VOCABULARY, "id")
    with pytest.raises(GenesError, match=r"Found 0 of the 4 genes.*\['1', '2'\]"):
        match_genes(names, VOCABULARY, "number")


@given(st.permutations(["GAPDH", "ACTB", "TP53", "GFAP", "x", "y", "ENSG00000000003"]), st.integers(1, 7))
def test_match_does_not_depend_on_order(names, n):
    match = match_genes(table(names[:n] if set(names[:n]) & set(VOCABULARY.symbols) else names), VOCABULARY)
    assert (np.diff(match.genes) > 0).all()
    assert [names[column] for column in match.columns] == [VOCABULARY.symbols[gene] for gene in match.genes]
    assert match.coverage == len(match.genes) / 4
    assert match.report["matched"].sum() == len(match.genes)


@pytest.mark.parametrize(
    ("names", "is_mouse"),
    [
        ([symbol.title() for symbol in published_vocabulary().symbols[:50]], True),
        ([f"ENSMUSG{i:011d}" for i in range(50)], True),
        ([f"AT1G{i:05d}" for i in range(50)], False),
        ([str(i) for i in range(50)], False),
    ],
)
def test_low_coverage(names, is_mouse):
    with pytest.raises(GenesError, match=r"of the 14558 genes .*at least 10%") as raised:
        match_genes(table(names), published_vocabulary())
    message = str(raised.value)
    assert names[0] in message
    assert ("mouse" in message) == is_mouse
    assert ("gene_key=" in message) == (not is_mouse)


def test_human_names_with_few_genes_are_not_taken_for_mouse():
    with pytest.raises(GenesError, match="Found 50 of the 14558") as raised:
        match_genes(table(published_vocabulary().symbols[:50]), published_vocabulary())
    assert "mouse" not in str(raised.value)
