"""Names of genes as tables have them, to the symbols of the human reference.

A name is read as what it says, if it says it: a symbol or an Ensembl id. Other names are taken for a gene where there is
only one that they can mean: symbols that were renamed (HGNC), and names that a program has changed on the way.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

#: With the version, and the marks of GENCODE's lift-over and of the pseudoautosomal copy on Y.
_ENSEMBL: Final = re.compile(r"^(ENSG\d{11})(\.\d+)?([_-]\d+|[_-]PAR[_-]Y)?$")
_ENSEMBL_WITHIN: Final = re.compile(r"(?<![A-Za-z0-9])ENSG\d{11}(?!\d)")
#: What a spreadsheet makes of MARCH9: 9-Mar, Mar-09 or 2024-03-09; R makes X9.Mar of it, and a second one is 9-Mar.1.
_DATES: Final = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^X?(?P<day>\d{1,2})[-._](?P<month>mar|sep|dec)([-._]\d)?$",
        r"^(?P<month>mar|sep|dec)[-._](?P<day>\d{1,2})([-._]\d)?$",
        r"^\d{4}-(?P<month>03|09|12)-(?P<day>\d\d)( 00:00:00)?$",
    )
]
_OF_MONTH: Final = {
    **dict.fromkeys(("mar", "03"), ("MARCH", "MARC")),
    **dict.fromkeys(("sep", "09"), ("SEPT", "SEP")),
    **dict.fromkeys(("dec", "12"), ("DEC",)),
}
_AFFIX: Final = re.compile(r"[_\-.:|]+")
_GENOME: Final = re.compile(r"^(GRCh\d\d|hg\d\d|human|homo_?sapiens|hsa?$)", re.IGNORECASE)
#: Features that bear the name of a gene and do not count it.
_CONTROL: Final = re.compile(
    r"^(antisense|adt|antibody|anti|prot|protein|hto|neg|negcontrol\w*|negative\w*|blank|deprecated|unassigned\w*|"
    r"intergenic\w*)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
#: Share of a table's names that have an affix in common, if it does not name a genome; and share of what stays without
#: it that are known genes.
_MIN_SHARED, _MIN_KNOWN = 0.2, 0.5
#: Marks in an affix: refdata-gex-GRCh38-2020-A_.
_MAX_MARKS = 5


@cache
def _ensembl_to_symbol() -> dict[str, str]:
    """Return symbols by human Ensembl gene id (10x Genomics reference GRCh38, 36,601 genes)."""
    return {ensembl: symbol for symbol, ensembl in (line.split("\t") for line in read_lines("human_genes.tsv.gz")[1:])}


@cache
def reference_symbols() -> frozenset[str]:
    """Return the symbols of the human reference."""
    return frozenset(_ensembl_to_symbol().values())


@cache
def previous_symbols() -> dict[str, str]:
    """Return the symbol in the reference by other official symbols, earlier or later ones, of the same gene (HGNC).

    Only names that no two genes have had; see ``docs/make_previous_symbols.py``.
    """
    return dict(line.split("\t") for line in read_lines("previous_symbols.tsv.gz")[1:])


def read_lines(name: str) -> list[str]:
    """Return the lines of a compressed file of this package."""
    return gzip.decompress((files("sagefm.data") / name).read_bytes()).decode().splitlines()


def canonical(name: str) -> str:
    """Return the reference's symbol of a gene that has been renamed, or the name itself."""
    return name if name in reference_symbols() else previous_symbols().get(name, name)


def to_symbols(names: pd.Index) -> NDArray[np.object_]:
    """Return names with human Ensembl ids, with or without version, replaced by symbols."""
    values: NDArray[np.object_] = np.asarray(names, dtype=object)
    matches = [_ENSEMBL.match(str(name)) for name in values]
    if not any(matches):
        return values
    symbols = _ensembl_to_symbol()
    pairs = zip(values, matches, strict=True)
    return np.array([symbols.get(match.group(1), name) if match else name for name, match in pairs], dtype=object)


def is_date(name: str) -> bool:
    """Tell whether a name is a date, as a spreadsheet makes of ``MARCH9`` or ``SEPT9``."""
    return not name.isalnum() and any(pattern.match(name) for pattern in _DATES)


def respell(
    names: Sequence[str], genes: Mapping[str, int], renamed: Mapping[str, int], *, n_names: int
) -> dict[str, tuple[int, bool]]:
    """Return which genes those of the `n_names` names of a table can only mean that are none, by name.

    Undone are quotes and spaces, an affix that many names share or that names a genome (``GRCh38_CD3E``), a symbol joined
    with its Ensembl id, what R makes of a symbol (``HLA.A``) and what a spreadsheet makes of it (``9-Mar``). `genes` are
    those of a vocabulary, `renamed` the same by the reference's symbols; with each match comes whether it is of `genes`.
    """
    if not names:
        return {}
    by_shape = _by_shape(genes)
    affixes = _shared_affixes(names, n_names)
    matches = {}
    for name in names:
        for spelling in _spellings(name, affixes):
            symbol = _by_id(spelling)
            gene = genes.get(symbol, by_shape.get(_shape(spelling)))
            other = renamed.get(symbol, renamed.get(canonical(symbol), _of_date(spelling, renamed)))
            if gene is not None or other is not None:
                matches[name] = (other, False) if gene is None else (gene, True)
                break
    return {name: (gene, is_exact) for name, (gene, is_exact) in matches.items() if gene is not None}


def _spellings(name: str, affixes: list[str]) -> Iterator[str]:
    """Yield what a name may have been, the most likely first."""
    bare = re.sub(r"^b(?=['\"])", "", name.strip()).strip("'\" \t\r\n\ufeff\xa0")
    yield bare
    for affix in affixes:
        if bare.startswith(affix):
            yield bare[len(affix) :]
        if bare.endswith(affix):
            yield bare[: -len(affix)]
    ids = set(_ENSEMBL_WITHIN.findall(bare))
    if len(ids) == 1 and not _CONTROL.match(bare):
        yield ids.pop()


def _shared_affixes(names: Sequence[str], n_names: int) -> list[str]:
    """Return beginnings and ends of names, up to a mark such as ``_``, without which most of them are known genes."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        marks = list(_AFFIX.finditer(name))
        for cut in {mark.end() for mark in marks[:_MAX_MARKS]}:
            groups.setdefault((True, name[:cut]), []).append(name[cut:])
        for cut in {mark.start() for mark in marks[-_MAX_MARKS:]}:
            groups.setdefault((False, name[cut:]), []).append(name[:cut])
    kept = []
    for (_, affix), rests in groups.items():
        word = affix.strip("_-.:|")
        is_shared = len(rests) >= _MIN_SHARED * n_names and not word.isdigit()
        if word and (is_shared or _GENOME.match(word)) and not _CONTROL.match(word):
            n_known = sum(canonical(_by_id(rest)) in reference_symbols() for rest in rests)
            if n_known >= _MIN_KNOWN * len(rests):
                kept.append(affix)
    return sorted(kept, key=len, reverse=True)


def _by_id(name: str) -> str:
    match = _ENSEMBL.match(name)
    return _ensembl_to_symbol().get(match.group(1), name) if match else name


def _by_shape(genes: Mapping[str, int]) -> dict[str, int]:
    """Return genes by what R's ``make.names`` leaves of them, where it changes them and they stay different."""
    shapes = {gene: _shape(gene) for gene in genes if not gene.isalnum() or gene[0].isdigit()}
    n_genes = Counter(shapes.values())
    return {
        shape: genes[gene]
        for gene, shape in shapes.items()
        if n_genes[shape] == 1 and (shape == gene or shape not in genes)
    }


def _shape(name: str) -> str:
    """Return a name with a dot for every mark, as R writes it, but without the X before a digit."""
    # Most names need no regular expression.
    shape = name if name.isascii() and name.isalnum() else re.sub(r"[^0-9A-Za-z]", ".", name)
    return shape[1:] if shape[:1] == "X" and shape[1:2].isdigit() else shape


def _of_date(name: str, genes: Mapping[str, int]) -> int | None:
    """Return the gene that a spreadsheet has turned into a date, if it can be one only: 1-Mar is MARCH1 or MARC1."""
    match = next(filter(None, (pattern.match(name) for pattern in _DATES)), None)
    if match is None:
        return None
    official = [f"{stem}{int(match['day'])}" for stem in _OF_MONTH[match["month"].lower()]]
    symbols = {canonical(symbol) for symbol in official} & reference_symbols()
    return genes.get(symbols.pop()) if len(symbols) == 1 else None
