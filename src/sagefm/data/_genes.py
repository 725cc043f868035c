"""The vocabulary of a network, and how a table's genes are found in it."""

from __future__ import annotations

import gzip
import logging
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from sagefm._constants import MIN_COVERAGE, MIN_GENES
from sagefm.errors import ArgumentError, GenesError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_ENSEMBL = re.compile(r"^(ENSG\d{11})(\.\d+)?$")
_MOUSE_ENSEMBL = re.compile(r"^ENSMUSG\d{11}(\.\d+)?$")
#: Names of clones, non-coding and small RNAs, and read-throughs of the human reference.
_NOT_CODING: Final = re.compile(
    r"^(A[CDFLPJ]\d{6}\.\d+|LINC\d+|.+-(AS|IT|OT)\d+|.+-DT|MIR\d+.*|RP\d+-.*|CT[ABCD]-.*|RNU.*|SNOR.*|(Z|BX|FP|CR|CU)\d+\.\d+)$"
)


@dataclass(frozen=True)
class Vocabulary:
    """Gene symbols of a network, in the order of its columns."""

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.symbols)) != len(self.symbols):
            raise GenesError("A vocabulary holds a gene twice; expected each symbol once.")

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def position(self) -> dict[str, int]:
        """Position of each symbol."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def positions(self, genes: Sequence[str], *, argument: str) -> NDArray[np.int64]:
        """Return the positions of `genes`, symbols or Ensembl ids, all of the vocabulary."""
        resolved = to_symbols(pd.Index([str(gene) for gene in genes]))
        unknown = [gene for gene, symbol in zip(genes, resolved, strict=True) if symbol not in self.position]
        if unknown:
            by_case = {symbol.upper(): symbol for symbol in self.symbols}
            close = [by_case[str(g).upper()] for g in unknown if str(g).upper() in by_case]
            hint = f" Did you mean {close[:5]}?" if close else ""
            raise GenesError(
                f"{argument}: not in the model's vocabulary of {len(self)} genes: {unknown[:5]} ({len(unknown)} in all)."
                f"{hint} sagefm.pp.match_genes(adata, model) lists what there is."
            )
        return np.array([self.position[symbol] for symbol in resolved], dtype=np.int64)


def make_vocabulary(names: pd.Index, genes: Sequence[str] | str | None = None) -> Vocabulary:
    """Return the vocabulary of a new model: `genes` in order, ``"published"``, or by default those of its table."""
    if genes is None:
        return Vocabulary(tuple(dict.fromkeys(map(str, to_symbols(names)))))
    if isinstance(genes, str):
        if genes != "published":
            raise ArgumentError(f"vocabulary={genes!r}; expected 'published' or gene names.")
        return published_vocabulary()
    return Vocabulary(tuple(map(str, to_symbols(pd.Index([str(gene) for gene in genes])))))


@dataclass(frozen=True)
class GeneMatch:
    """The columns of a table that are used (n_matched,), and their positions in the vocabulary, `genes`, increasing.

    :func:`sagefm.pp.match_genes` returns the `report`; `coverage` is the share of the vocabulary that the table holds.
    """

    columns: NDArray[np.int64]
    genes: NDArray[np.int64]
    report: pd.DataFrame
    coverage: float


@cache
def published_vocabulary() -> Vocabulary:
    """Return the 14,558 symbols of the published network, in its order."""
    return Vocabulary(tuple(_read("published_genes.txt.gz")))


@cache
def _ensembl_to_symbol() -> dict[str, str]:
    """Return symbols by human Ensembl gene id (10x Genomics reference GRCh38, 36,601 genes)."""
    return {ensembl: symbol for symbol, ensembl in (line.split("\t") for line in _read("human_genes.tsv.gz")[1:])}


def _read(name: str) -> list[str]:
    return gzip.decompress((files("sagefm.data") / name).read_bytes()).decode().splitlines()


def to_symbols(names: pd.Index) -> NDArray[np.object_]:
    """Return names with human Ensembl ids, with or without version, replaced by symbols."""
    values: NDArray[np.object_] = np.asarray(names, dtype=object)
    matches = [_ENSEMBL.match(str(name)) for name in values]
    if not any(matches):
        return values
    symbols = _ensembl_to_symbol()
    pairs = zip(values, matches, strict=True)
    return np.array([symbols.get(match.group(1), name) if match else name for name, match in pairs], dtype=object)


def get_gene_names(table: Any, gene_key: str | None = None) -> pd.Index:
    """Return the gene names of a table: the column `gene_key` of ``var``, or ``var_names``, which must be unique."""
    if gene_key is not None:
        if gene_key not in table.var:
            raise MissingKeyError(
                f"gene_key={gene_key!r} is not a column of adata.var; found {list(table.var.columns)}."
            )
        return pd.Index(np.asarray(table.var[gene_key], dtype=object)).astype(str)
    if not table.var_names.is_unique:
        twice = table.var_names[table.var_names.duplicated()].unique()
        raise GenesError(
            f"adata.var_names holds {len(twice)} names more than once, e.g. {list(twice[:3])}. "
            f"Make them unique: adata.var_names_make_unique()"
        )
    return table.var_names


def match_genes(table: AnnData, vocabulary: Vocabulary, gene_key: str | None = None) -> GeneMatch:
    """Find a table's genes in a vocabulary, by symbol or Ensembl id.

    Of several columns for one gene (two Ensembl ids of one symbol, say) the first is used and the others are reported.
    Matching is case-sensitive: `Gapdh` is a mouse gene.
    """
    names = get_gene_names(table, gene_key)
    symbols = to_symbols(names)
    position = np.array([vocabulary.position.get(symbol, -1) for symbol in symbols], dtype=np.int64)
    known = position >= 0
    duplicate = known & pd.Index(np.where(known, position, -np.arange(1, len(position) + 1))).duplicated()
    used = np.flatnonzero(known & ~duplicate)
    columns = used[np.argsort(position[used], kind="stable")]
    coverage = len(columns) / max(len(vocabulary), 1)
    if coverage < MIN_COVERAGE and len(columns) < MIN_GENES:
        _raise_low_coverage(names, vocabulary, n_found=len(columns))
    via = np.where(~known, "", np.where(symbols == names.to_numpy(dtype=object), "symbol", "ensembl"))
    report = pd.DataFrame(
        {"gene": symbols.astype(str), "matched": known & ~duplicate, "via": via, "duplicate": duplicate},
        index=table.var_names,
    )
    n_by_id, n_duplicates = np.count_nonzero(via == "ensembl"), np.count_nonzero(duplicate)
    if n_by_id or n_duplicates:
        message = "%d genes found by Ensembl id; %d columns left out as duplicates of a gene already found."
        logger.info(message, n_by_id, n_duplicates)
    return GeneMatch(columns, position[columns], report, coverage)


def assign_folds(genes: NDArray[np.int64], n_vocabulary: int, n_folds: int, rng: int) -> NDArray[np.int64]:
    """Return the fold of each gene, which depends on the gene and on `rng`, but not on the other genes."""
    folds = np.random.default_rng(rng).permutation(n_vocabulary) % n_folds
    return np.asarray(folds[genes], dtype=np.int64)


def _raise_low_coverage(names: pd.Index, vocabulary: Vocabulary, *, n_found: int) -> None:
    values = [str(name) for name in names]
    upper = sum(name.upper() in vocabulary.position for name in values)
    mouse = upper > 2 * n_found + 10 or any(_MOUSE_ENSEMBL.match(name) for name in values[:100])
    repair = "Expected human gene symbols or Ensembl ids: pass the column of adata.var that holds them, gene_key=..."
    if mouse:
        repair = (
            "The names look like mouse genes; this model reads human symbols or ENSG ids. Map to human orthologs first"
        )
    raise GenesError(
        f"Found {n_found} of the {len(vocabulary)} genes of the vocabulary "
        f"({n_found / max(len(vocabulary), 1):.1%}; at least {MIN_COVERAGE:.0%} or {MIN_GENES} genes are needed); "
        f"the table's genes are {values[:3]}, ... {repair}, or train a model on these genes: sagefm.model.SAGEFM(adata)."
    )


def named_genes(names: Sequence[str]) -> list[str]:
    """Return the symbols that the human reference knows, without those that name non-coding genes."""
    known = set(_ensembl_to_symbol().values())
    return [name for name in names if name in known and not _NOT_CODING.match(name)]
