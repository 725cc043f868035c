"""A user's table and a vocabulary to the sections that a network reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from sagefm.data._blocks import StoredMatrix, take_columns, take_rows
from sagefm.data._check_counts import cap_wild, find_depths
from sagefm.data._check_genes import find_features, find_few, find_names, find_unmeasured, merge_split
from sagefm.data._check_sections import find_background
from sagefm.data._counts import get_counts
from sagefm.data._findings import Finding, tell
from sagefm.data._genes import GeneMatch, Vocabulary, get_gene_names, match_genes
from sagefm.data._graph import get_neighbors, with_library_key
from sagefm.data._input import SectionInput, make_input
from sagefm.data._section import Section
from sagefm.data._table import Spots, TableKeys, find_spots, get_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData


class InputConfig(Protocol):
    """The part of a network's configuration that says what it reads; see :func:`~sagefm.data._input.make_input`."""

    @property
    def input(self) -> str: ...
    @property
    def scale(self) -> float: ...


@dataclass(frozen=True)
class TableReader:
    """What was found in a table; the graph follows when the sections are asked for.

    Everything that can be wrong with a table or an argument is found before anything is written to it, but for
    stored counts, which are checked as they are read.
    """

    table: AnnData
    keys: TableKeys
    spots: Spots
    counts: sparse.csr_matrix | StoredMatrix
    match: GeneMatch

    def sections(self, *, table_order: bool = False) -> list[Section]:
        """Return one section a library; builds and stores the graph where the table has none.

        Genes are in the order of the vocabulary or, which costs no sorting of all counts, in that of the table.
        """
        neighbors = get_neighbors(self.table, self.keys, self.spots)
        coordinates, names = self.spots.coordinates, self.spots.names
        counts, columns, genes = self.counts, self.match.columns, self.match.genes
        if table_order:
            order = np.argsort(columns)
            columns, genes = columns[order], genes[order]
        if not np.array_equal(columns, np.arange(counts.shape[1])):
            if table_order and len(names) == 1 and not isinstance(counts, StoredMatrix):
                # Block by block: no copy of the table's counts.
                counts = StoredMatrix(counts, partial(take_columns, columns=columns), n_columns=len(columns))
            else:
                counts = take_columns(counts, columns)
        if len(names) == 1:
            return [Section(counts, genes, neighbors, np.arange(len(coordinates)), coordinates, names[0])]
        sections = []
        for code, name in enumerate(names):
            rows = np.flatnonzero(self.spots.libraries == code)
            own = take_rows(counts, rows)
            sections.append(Section(own, genes, neighbors[rows][:, rows], rows, coordinates[rows], name))
        return sections

    def inputs(self, config: InputConfig, *, table_order: bool = False) -> Iterator[SectionInput]:
        """Yield what a network reads of each section; `table_order` as in :meth:`sections`."""
        for section in self.sections(table_order=table_order):
            yield make_input(section, config.input, scale=config.scale)


def read_table(
    data: Any,
    vocabulary: Vocabulary,
    keys: TableKeys | None = None,
    *,
    table_key: str | None = None,
    mod: str | None = None,
) -> TableReader:
    """Check counts, genes, coordinates and libraries of AnnData, SpatialData or MuData, to which nothing is written."""
    table = get_table(data, table_key=table_key, mod=mod)
    keys = with_library_key(table, keys or TableKeys())
    spots = find_spots(data, table, keys)
    match = match_genes(table, vocabulary, keys.gene_key)
    counts, odd_counts = check_counts(table, keys, spots, get_counts(table, keys.layer), match)
    tell([*find_background(table), *check_genes(table, keys, match, vocabulary), *odd_counts], stacklevel=4)
    return TableReader(table, keys, spots, counts, match)


def check_genes(table: AnnData, keys: TableKeys, match: GeneMatch, vocabulary: Vocabulary) -> list[Finding]:
    """Return what is odd about the genes of a table."""
    checks = (find_features, find_names, find_few)
    return [finding for check in checks for finding in check(table, keys, match, vocabulary)]


def check_counts(
    table: AnnData, keys: TableKeys, spots: Spots, counts: sparse.csr_matrix | StoredMatrix, match: GeneMatch | None
) -> tuple[sparse.csr_matrix | StoredMatrix, list[Finding]]:
    """Return counts without those that cannot be true, those of one gene together, and what is odd about them.

    Stored counts are returned as they are.
    """
    if isinstance(counts, StoredMatrix):
        return counts, []
    names = get_gene_names(table, keys.gene_key) if match is not None else table.var_names
    counts, findings = cap_wild(counts, spots.libraries, table.obs_names, names)
    findings = [*find_depths(table, counts), *findings]
    if match is not None:
        counts, split = merge_split(spots, counts, match)
        findings += [*split, *find_unmeasured(keys, spots, counts, match)]
    return counts, findings
