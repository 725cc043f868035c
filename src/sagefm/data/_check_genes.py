"""What a table's genes are to a model: too few, named otherwise, or not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

from sagefm._constants import LOW_COVERAGE
from sagefm.data._blocks import StoredMatrix, column_sums
from sagefm.data._findings import Finding, listed
from sagefm.data._genes import find_gene_key, get_gene_names, is_gene
from sagefm.data._symbols import is_date, to_symbols

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from sagefm.data._genes import GeneMatch, Vocabulary
    from sagefm.data._table import Spots, TableKeys

#: Counts of a gene that are expected of a section by the others, where it has none; and least share of such genes.
_EXPECTED_COUNTS, _MIN_MISSING = 20, 0.02
#: Share of genes without a count, and how many times those that are expected to be missed (Chao 1984).
_MAX_ZERO, _ZERO_RATIO = 0.2, 3


def find_features(table: AnnData, keys: TableKeys, match: GeneMatch, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Yield a finding on features that are no genes; a warning, if their names would have been taken for genes."""
    genes = is_gene(table)
    if not genes.all():
        key = next(key for key in ("feature_types", "feature_type") if key in table.var)
        kinds = listed(sorted(set(table.var[key][~genes].astype(str))))
        named = [
            name for name in get_gene_names(table, keys.gene_key)[~genes] if vocabulary.resolve(str(name)) is not None
        ]
        alike = f" ({len(named)} of them have the name of a gene, e.g. {named[0]!r})" if named else ""
        kept = sorted(set(table.var[key][genes].astype(str)))
        yield Finding(
            "features",
            "warning" if named else "note",
            f"{(~genes).sum():,} of {len(genes):,} features are no genes, by adata.var[{key!r}]: {kinds}{alike}. They are not "
            f"read. To leave them out",
            f"adata = adata[:, adata.var[{key!r}].isin({kept})].copy()",
        )


def find_names(table: AnnData, keys: TableKeys, match: GeneMatch, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Yield findings on gene names that are not those of the vocabulary, and on those that could not be read."""
    names = get_gene_names(table, keys.gene_key).astype(str).to_numpy()
    rename = "adata.var_names = sagefm.pp.match_genes(adata)['gene'].to_numpy()"
    if match.report["duplicate"].any():
        rename += "; adata.var_names_make_unique()"
    if keys.gene_key is not None:
        rename = f"adata.var[{keys.gene_key!r}] = sagefm.pp.match_genes(adata, gene_key={keys.gene_key!r})['gene']"
    via, read = match.report["via"].to_numpy(), match.report["gene"].to_numpy()
    matched = match.report["matched"].to_numpy()
    is_dated = np.zeros(len(names), dtype=bool)
    unread = np.flatnonzero((via == "") | (via == "spelling"))
    is_dated[unread] = [is_date(name) for name in names[unread]]
    kinds: list[tuple[str, Literal["warning", "note"], str, NDArray[np.bool_]]] = [
        ("changed names", "warning", "are not spelled as genes", (via == "spelling") & ~is_dated),
        ("dates", "note", "are dates that a spreadsheet made of genes", (via == "spelling") & is_dated),
        ("renamed genes", "note", "are earlier or later symbols (HGNC)", via == "previous"),
    ]
    for what, severity, why, rows in kinds:
        if rows.any():
            examples = ", ".join(f"{names[i]!r} as {read[i]!r}" for i in np.flatnonzero(rows)[:3])
            n_unused = int((rows & ~matched).sum())
            unused = f" {n_unused} are of a gene that another column holds, and are left out." if n_unused else ""
            yield Finding(
                what,
                severity if (rows & matched).any() else "note",
                f"{rows.sum():,} of {len(names):,} names {why}, and are read as the genes of the model's vocabulary that they "
                f"can only mean: {examples}.{unused} To rename them in the table",
                rename,
            )
    unknown = is_dated & (via == "")
    if unknown.any():
        yield Finding(
            "dates",
            "note",
            f"{unknown.sum()} names are dates, {listed(names[unknown])}, that a spreadsheet made of genes which the model does "
            f"not know, or of one of two (MARCH1 and MARC1). They are not read. A column of Ensembl ids would tell, "
            f"gene_key=...",
        )


def find_few(table: AnnData, keys: TableKeys, match: GeneMatch, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Yield a finding where a table has few genes of the vocabulary."""
    n_genes = len(match.columns)
    if match.coverage >= LOW_COVERAGE:
        return
    other = find_gene_key(table, vocabulary, keys.gene_key, n_known=n_genes)
    raw = () if table.raw is None else to_symbols(table.raw.var_names)
    n_raw = len(set(raw) & vocabulary.position.keys())
    if other is not None:
        hint, repair = (
            f"Another column has more, pass gene_key={other}",
            f"sagefm.pp.match_genes(adata, gene_key={other})",
        )
    elif n_raw > 2 * n_genes:
        hint, repair = f"adata.raw has {n_raw:,}", "adata = adata.raw.to_adata()"
    else:
        hint = (
            "The others are read as not measured. Was the table cut to highly variable genes? Pass all genes that were "
            "measured. To see what was found"
        )
        repair = "sagefm.pp.match_genes(adata)"
    found = f"Found {n_genes:,} of the {len(vocabulary):,} genes of the model's vocabulary ({match.coverage:.0%})."
    yield Finding("few genes", "warning", f"{found} {hint}", repair)


def find_unmeasured(
    keys: TableKeys, spots: Spots, counts: sparse.csr_matrix | StoredMatrix, match: GeneMatch
) -> Iterator[Finding]:
    """Yield a finding where genes that were not measured seem to be stored as zeros, as an outer join does.

    Of stored counts nothing is said: their sums would take a pass over the file.
    """
    if isinstance(counts, StoredMatrix) or not len(match.columns):
        return
    sums = _library_sums(spots, counts)[:, match.columns]
    layer = "" if keys.layer is None else f", layer={keys.layer!r}"
    for name, own, others in zip(spots.names, sums, sums.sum(axis=0) - sums, strict=True):
        n_missing = _n_expected(own, others)
        if n_missing > max(_EXPECTED_COUNTS, _MIN_MISSING * len(own)):
            by = f"adata.obs[{keys.library_key!r}]"
            yield Finding(
                "unmeasured genes",
                "warning",
                f"{n_missing:,} of the model's genes have no count in section {name!r} ({by}), where {_EXPECTED_COUNTS} or more "
                f"would be expected from the other sections: not measured there, and stored as zeros, as an outer join does? "
                f"A zero is read as measured. Keep the genes that all sections have",
                f"adata = adata[:, scanpy.get.aggregate(adata, by={keys.library_key!r}, func='sum'{layer}).layers['sum']"
                f".all(axis=0)].copy()",
            )
            return
    total = sums.sum(axis=0)
    n_zero, n_once, n_twice = (int((total == n).sum()) for n in range(3))
    n_missed = n_once * (n_once - 1) / (2 * (n_twice + 1))
    if total.any() and n_zero > _MAX_ZERO * len(total) and n_zero > _ZERO_RATIO * n_missed + 50:
        repair = "scanpy.pp.filter_genes(adata, min_counts=1)"
        if keys.layer is not None:
            repair = f"adata = adata[:, np.asarray(adata.layers[{keys.layer!r}].sum(axis=0)).ravel() > 0].copy()"
        yield Finding(
            "unmeasured genes",
            "warning",
            f"{n_zero:,} of the {len(total):,} genes that the model knows have no count in any spot, where about "
            f"{n_missed:,.0f} would have been missed by chance: not measured, and stored as zeros, as an outer join does? A "
            f"zero is read as measured. Leave them out",
            repair,
        )


def merge_split(spots: Spots, counts: sparse.csr_matrix, match: GeneMatch) -> tuple[sparse.csr_matrix, list[Finding]]:
    """Return counts (n_spots, n_genes) with those of one gene under two names in one column, and what was found.

    Sections that name a gene differently have two columns of it after an outer join, each with zeros where the section
    has the other. The one that is read gets the counts of both. Counts are copied if there is such a gene.
    """
    if not match.report["duplicate"].any():
        return counts, []
    genes = match.report["gene"].to_numpy()
    column_of = dict(zip(genes[match.columns], match.columns.tolist(), strict=True))
    doubles = np.flatnonzero(match.report["duplicate"] & match.report["gene"].isin(column_of))
    columns = np.array([column_of[gene] for gene in genes[doubles]], dtype=np.int64)
    has_double, has_column = (_library_sums(spots, counts[:, which]) > 0 for which in (doubles, columns))
    split = has_double.any(axis=0) & ~(has_double & has_column).any(axis=0)
    if not split.any():
        return counts, []
    added = sparse.csr_matrix(
        (np.ones(split.sum(), counts.dtype), (doubles[split], columns[split])), shape=(counts.shape[1],) * 2
    )
    names = match.report.index.to_numpy()
    examples = ", ".join(
        f"{names[double]!r} with {names[column]!r}"
        for double, column in zip(doubles[split][:3], columns[split][:3], strict=True)
    )
    finding = Finding(
        "split genes",
        "note",
        f"{split.sum()} genes are there under two names, never both in one section, as after an outer join of sections "
        f"that name them differently. Their counts are read together: {examples}.",
    )
    return (counts + counts @ added).tocsr(), [finding]


def _library_sums(spots: Spots, counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the sum of each gene in each library (n_libraries, n_genes)."""
    if len(spots.names) == 1:
        return column_sums(counts)[None]
    ones = np.ones(len(spots.libraries))
    by_library = sparse.csr_matrix((ones, (spots.libraries, np.arange(len(ones)))), shape=(len(spots.names), len(ones)))
    return np.asarray((by_library @ counts).toarray())


def _n_expected(own: NDArray[np.float64], others: NDArray[np.float64]) -> int:
    """Return how many genes have no count of their own, where the sums of others (n_genes,) let expect many."""
    if not own.any() or not others.any():
        return 0
    return int(((own == 0) & (others / others.sum() * own.sum() >= _EXPECTED_COUNTS)).sum())
