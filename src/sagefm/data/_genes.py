"""The vocabulary of a network, and how a table's genes are found in it."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from sagefm._arguments import key_name, listed
from sagefm._constants import MIN_COVERAGE, MIN_GENES
from sagefm.data._symbols import _ensembl_to_symbol, canonical, read_lines, reference_symbols, respell
from sagefm.data._symbols import to_symbols as to_symbols  # where other rooms look for it
from sagefm.errors import ArgumentError, GenesError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_MOUSE_ENSEMBL = re.compile(r"^ENSMUSG\d{11}(\.\d+)?$")
#: Names of clones, non-coding and small RNAs, and read-throughs of the human reference.
_NOT_CODING: Final = re.compile(
    r"^(A[CDFLPJ]\d{6}\.\d+|LINC\d+|.+-(AS|IT|OT)\d+|.+-DT|MIR\d+.*|RP\d+-.*|CT[ABCD]-.*|RNU.*|SNOR.*|(Z|BX|FP|CR|CU)\d+\.\d+)$"
)


#: Values of ``var["feature_types"]`` of genes, and those of other features, in lower case.
_GENE_KINDS: Final = ("gene expression", "gene", "genes", "gene_expression", "rna", "mrna")
_OTHER_KINDS: Final = (
    "antibody capture", "antibody", "protein", "protein expression", "adt", "peaks", "peak", "crispr guide capture",
    "multiplexing capture", "custom", "antigen capture", "negative control probe", "negative control codeword",
    "unassigned codeword", "deprecated codeword", "blank codeword", "genomic control",
)  # fmt: skip


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

    @cached_property
    def by_canonical(self) -> dict[str, int]:
        """Position by symbol, and by the reference's symbol of genes that the vocabulary names otherwise."""
        n_genes = Counter(map(canonical, self.symbols))
        renamed = {canonical(symbol): i for i, symbol in enumerate(self.symbols) if n_genes[canonical(symbol)] == 1}
        return renamed | self.position

    def resolve(self, symbol: str) -> int | None:
        """Return the position of a gene by any official symbol of it, or None."""
        return self.by_canonical.get(symbol, self.by_canonical.get(canonical(symbol)))

    def positions(self, genes: Sequence[str], *, argument: str) -> NDArray[np.int64]:
        """Return the positions of `genes`, symbols or Ensembl ids, all of the vocabulary."""
        resolved = to_symbols(pd.Index([str(gene) for gene in genes]))
        unknown = [gene for gene, symbol in zip(genes, resolved, strict=True) if symbol not in self.position]
        if unknown:
            by_case = {symbol.upper(): symbol for symbol in self.symbols}
            close = [by_case[str(g).upper()] for g in unknown if str(g).upper() in by_case]
            renamed = [self.resolve(str(gene)) for gene in unknown]
            texts = [str(gene) for gene in unknown]
            renamed += [
                match[0] for match in respell(texts, self.position, self.by_canonical, n_names=len(self)).values()
            ]
            close += [self.symbols[position] for position in renamed if position is not None]
            hint = f" Did you mean {list(dict.fromkeys(close))[:5]}?" if close else ""
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
    return Vocabulary(tuple(map(str, to_symbols(pd.Index(listed(genes, argument="vocabulary"))))))


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
    return Vocabulary(tuple(read_lines("published_genes.txt.gz")))


def get_gene_names(table: Any, gene_key: str | None = None) -> pd.Index:
    """Return the gene names of a table: the column `gene_key` of ``var``, or ``var_names``, which must be unique."""
    if gene_key is not None:
        if key_name(gene_key, name="gene_key") not in table.var:
            raise MissingKeyError(
                f"gene_key={gene_key!r} is not a column of adata.var; found {list(table.var.columns)}."
            )
        return pd.Index(np.asarray(table.var[gene_key], dtype=object)).astype(str)
    if not table.var_names.is_unique:
        twice = table.var_names[table.var_names.duplicated()].unique()
        repair = "Make them unique: adata.var_names_make_unique()"
        genes = is_gene(table)
        if not genes.all() and table.var_names[genes].is_unique:
            key = _kind_key(table)
            kinds = sorted(set(table.var[key][genes].astype(str)))
            repair = f"Leave out features that are no genes: adata = adata[:, adata.var[{key!r}].isin({kinds})].copy()"
        raise GenesError(f"adata.var_names holds {len(twice)} names more than once, e.g. {list(twice[:3])}. {repair}")
    return table.var_names


def match_genes(table: AnnData, vocabulary: Vocabulary, gene_key: str | None = None) -> GeneMatch:
    """Find a table's genes in a vocabulary: by symbol or Ensembl id, or else by a name that can mean one gene only.

    Of several columns for one gene (two Ensembl ids of one symbol, say) the first is used and the others are reported;
    those whose name had to be interpreted are used where no other column claims the gene. Features that are no genes
    are left out. Matching is case-sensitive: `Gapdh` is a mouse gene.
    """
    names = get_gene_names(table, gene_key)
    symbols, position, via, distance = _find(names, vocabulary, is_gene(table))
    duplicate = _is_duplicate(position, distance)
    used = np.flatnonzero((position >= 0) & ~duplicate)
    columns = used[np.argsort(position[used], kind="stable")]
    coverage = len(columns) / max(len(vocabulary), 1)
    if coverage < MIN_COVERAGE and len(columns) < MIN_GENES:
        _raise_low_coverage(table, vocabulary, gene_key, names, n_known=len(columns))
    matched = (position >= 0) & ~duplicate
    report = pd.DataFrame(
        {"gene": symbols.astype(str), "matched": matched, "via": via, "duplicate": duplicate}, index=table.var_names
    )
    counts = {name: int((report["via"] == name).sum()) for name in ("ensembl", "previous", "spelling")}
    if any(counts.values()) or duplicate.any():
        logger.info(
            "%d genes found by Ensembl id, %d by a previous symbol, %d by a changed spelling; "
            "%d columns left out as duplicates of a gene already found.",
            *counts.values(), np.count_nonzero(duplicate),
        )  # fmt: skip
    return GeneMatch(columns, position[columns], report, coverage)


def is_gene(table: Any) -> NDArray[np.bool_]:
    """Tell which features of a table are genes, by the column of ``var`` that says so: all, if none does (n_vars,)."""
    key = _kind_key(table)
    if key is None:
        return np.ones(len(table.var_names), dtype=bool)
    kinds = pd.Series(np.asarray(table.var[key], dtype=object)).astype(str).str.lower().str.strip()
    genes = np.asarray(kinds.isin(_GENE_KINDS), dtype=bool)
    return genes if genes.any() else ~np.asarray(kinds.isin(_OTHER_KINDS), dtype=bool)


def _kind_key(table: Any) -> str | None:
    return next((key for key in ("feature_types", "feature_type") if key in table.var), None)


def _find(
    names: pd.Index, vocabulary: Vocabulary, genes: NDArray[np.bool_]
) -> tuple[NDArray[np.object_], NDArray[np.int64], NDArray[np.object_], NDArray[np.int64]]:
    """Return symbol, position in the vocabulary (or -1), the way it was found, and how far it was sought, of each name."""
    symbols = to_symbols(names)
    position = np.array([vocabulary.position.get(symbol, -1) for symbol in symbols], dtype=np.int64)
    position[~genes] = -1
    values = names.to_numpy(dtype=object)
    via = np.where(position < 0, "", np.where(symbols == values, "symbol", "ensembl")).astype(object)
    distance = np.zeros(len(values), dtype=np.int64)
    unknown = np.flatnonzero((position < 0) & genes)
    renamed = {i: vocabulary.resolve(str(symbols[i])) for i in unknown}
    # A gene of the reference that the model does not know is no other one.
    texts = [str(values[i]) for i in unknown if renamed[i] is None and symbols[i] not in reference_symbols()]
    respelled = respell(texts, vocabulary.position, vocabulary.by_canonical, n_names=len(values))
    symbols = symbols.copy()
    for i, place in renamed.items():
        if place is not None:
            position[i], via[i], distance[i] = place, "previous", 2
        elif str(values[i]) in respelled:
            position[i], is_exact = respelled[str(values[i])]
            via[i], distance[i] = "spelling", 1 if is_exact else 3
        if via[i]:
            symbols[i] = vocabulary.symbols[position[i]]
    return symbols, position, via, distance


def _is_duplicate(position: NDArray[np.int64], distance: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which columns are of a gene that another holds, by a better name or, of interpreted names, an equally good one.

    Of equally good names that say what they mean, the first is used.
    """
    duplicate = np.zeros(len(position), dtype=bool)
    known = pd.DataFrame({"gene": position, "distance": distance})[position >= 0]
    if known["gene"].is_unique:
        return duplicate
    is_worse = known["distance"] > known.groupby("gene")["distance"].transform("min")
    is_twice = known.duplicated() | (known.duplicated(keep=False) & (known["distance"] > 0))
    duplicate[known.index] = is_worse | is_twice
    return duplicate


def assign_folds(genes: NDArray[np.int64], n_vocabulary: int, n_folds: int, rng: int) -> NDArray[np.int64]:
    """Return the fold of each gene, which depends on the gene and on `rng`, but not on the other genes."""
    folds = np.random.default_rng(rng).permutation(n_vocabulary) % n_folds
    return np.asarray(folds[genes], dtype=np.int64)


def _raise_low_coverage(
    table: AnnData, vocabulary: Vocabulary, gene_key: str | None, names: pd.Index, *, n_known: int
) -> None:
    values = [str(name) for name in names]
    upper = sum(name.upper() in vocabulary.position for name in values)
    mouse = upper > 2 * n_known + 10 or any(_MOUSE_ENSEMBL.match(name) for name in values[:100])
    other = find_gene_key(table, vocabulary, gene_key, n_known=n_known)
    repair = "Expected human gene symbols or Ensembl ids: pass the column of adata.var that holds them, gene_key=..."
    if other is not None:
        repair = f"Expected human gene symbols or Ensembl ids: pass gene_key={other}, which has more of them"
    elif mouse:
        repair = (
            "The names look like mouse genes; this model reads human symbols or ENSG ids. Map to human orthologs first"
        )
    raise GenesError(
        f"Found {n_known} of the {len(vocabulary)} genes of the vocabulary "
        f"({n_known / max(len(vocabulary), 1):.1%}; at least {MIN_COVERAGE:.0%} or {MIN_GENES} genes are needed); "
        f"the table's genes are {values[:3]}, ... {repair}, or train a model on these genes: sagefm.model.SAGEFM(adata)."
    )


def find_gene_key(table: Any, vocabulary: Vocabulary, gene_key: str | None = None, *, n_known: int) -> str | None:
    """Return the ``gene_key`` that finds far more genes than `n_known`, as Python writes it, or None."""
    columns = {repr(key): table.var[key] for key in table.var if key != gene_key}
    if gene_key is not None:
        columns["None"] = table.var_names
    n_genes = {
        key: len(set(to_symbols(pd.Index(np.asarray(column, dtype=object)))) & vocabulary.position.keys())
        for key, column in columns.items()
        if not pd.api.types.is_numeric_dtype(column.dtype)
    }
    best = max(n_genes, key=n_genes.__getitem__, default=None)
    return best if best is not None and n_genes[best] > 2 * n_known + 10 else None


def named_genes(names: Sequence[str]) -> list[str]:
    """Return the symbols that the human reference knows, without those that name non-coding genes."""
    known = set(_ensembl_to_symbol().values())
    return [name for name in names if name in known and not _NOT_CODING.match(name)]
