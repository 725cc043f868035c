"""A user's table and a checkpoint to the sections that the network reads."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sagefm._constants import NEIGHBORS_KEY, SPATIAL_KEY
from sagefm.data._blocks import StoredMatrix, take_columns
from sagefm.data._counts import get_counts
from sagefm.data._genes import GeneMatch, Vocabulary, match_genes
from sagefm.data._graph import get_neighbors
from sagefm.data._input import SectionInput, make_input
from sagefm.data._section import Section
from sagefm.data._table import get_coordinates, get_libraries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from sagefm.module._config import NetworkConfig


@dataclass(frozen=True)
class TableReader:
    """The counts and genes of a table; the graph follows when the sections are asked for.

    Everything that can be wrong with a table or an argument is found before anything is written to it, but for
    stored counts, which are checked as they are read.
    """

    table: AnnData
    counts: sparse.csr_matrix | StoredMatrix
    match: GeneMatch
    coordinates: NDArray[np.float64]
    spatial_key: str
    library_key: str | None
    neighbors_key: str | None

    def sections(self) -> list[Section]:
        """Return one section a library; builds and stores the graph where the table has none."""
        if self.spatial_key not in self.table.obsm:
            self.table.obsm[self.spatial_key] = self.coordinates
        neighbors = get_neighbors(
            self.table,
            neighbors_key=self.neighbors_key,
            spatial_key=self.spatial_key,
            library_key=self.library_key,
        )
        genes, coordinates = self.match.genes, self.coordinates
        libraries, names = get_libraries(self.table, self.library_key)
        counts = self.counts
        if not np.array_equal(self.match.columns, np.arange(counts.shape[1])):
            counts = take_columns(counts, self.match.columns)
        if len(names) == 1:
            return [Section(counts, genes, neighbors, np.arange(len(libraries)), coordinates, names[0])]
        sections = []
        for code, name in enumerate(names):
            rows = np.flatnonzero(libraries == code)
            own = counts.with_rows(rows) if isinstance(counts, StoredMatrix) else counts[rows]
            sections.append(Section(own, genes, neighbors[rows][:, rows], rows, coordinates[rows], name))
        return sections

    def inputs(self, config: NetworkConfig) -> list[SectionInput]:
        """Return what a network reads of each section."""
        return [make_input(section, config.input, scale=config.scale) for section in self.sections()]

    @contextmanager
    def untouched_on_error(self) -> Iterator[None]:
        """Take back what was written to the table if the block raises: stored counts are checked as they are read."""
        stores = [getattr(self.table, name) for name in ("obsm", "obsp", "uns")]
        before = [{key: store[key] for key in store if key.startswith(NEIGHBORS_KEY)} for store in stores]
        keys = [set(store) for store in stores]
        try:
            yield
        except BaseException:
            for store, kept, known in zip(stores, before, keys, strict=True):
                for key in set(store) - known:
                    del store[key]
                for key, value in kept.items():
                    store[key] = value
            raise


def read_table(
    table: AnnData,
    vocabulary: Vocabulary,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    coordinates: NDArray[np.float64] | None = None,
) -> TableReader:
    """Check a table's counts, genes, coordinates and libraries; writes nothing to it.

    `coordinates` are those of :func:`~sagefm.data._table.find_coordinates`; the table's if left out.

    Raises
    ------
    SagefmError
        What :func:`~sagefm.data._counts.get_counts`, :func:`~sagefm.data._genes.match_genes`,
        :func:`~sagefm.data._table.get_coordinates` and :func:`~sagefm.data._table.get_libraries` raise.
    """
    if coordinates is None:
        coordinates = get_coordinates(table, spatial_key)
    get_libraries(table, library_key)
    match = match_genes(table, vocabulary, gene_key)
    counts = get_counts(table, layer)
    n_empty = 0 if isinstance(counts, StoredMatrix) else int((counts.sum(axis=1) == 0).sum())
    if n_empty:
        warnings.warn(
            f"{n_empty} of {table.n_obs} spots have no counts; they are described by their neighbors alone. "
            f"To leave them out: scanpy.pp.filter_cells(adata, min_counts=1)",
            UserWarning,
            stacklevel=4,
        )
    return TableReader(table, counts, match, coordinates, spatial_key, library_key, neighbors_key)
