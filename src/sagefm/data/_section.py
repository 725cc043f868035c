"""Sections: counts of vocabulary genes, and each spot's neighbors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sagefm.data._blocks import StoredMatrix, column_sums, to_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Section:
    """One section (library): raw counts of vocabulary genes, and each spot's neighbors.

    Attributes
    ----------
    counts
        Raw counts, CSR float32 (n_spots, n_genes), in memory or stored.
    genes
        Position in the vocabulary of each column (n_genes,), increasing unless columns are in the table's order.
    neighbors
        Pattern of ones, CSR (n_spots, n_spots), without the diagonal.
    rows
        Row of the table of each spot (n_spots,).
    coordinates
        Coordinates (n_spots, 2), in the unit of the table.
    name
        Name of the library, empty where there is one.
    """

    counts: sparse.csr_matrix | StoredMatrix
    genes: NDArray[np.int64]
    neighbors: sparse.csr_matrix
    rows: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    name: str = ""

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return int(self.counts.shape[0])

    @property
    def n_genes(self) -> int:
        """Number of vocabulary genes that were measured."""
        return int(self.counts.shape[1])

    @property
    def is_stored(self) -> bool:
        """Whether the counts are in a file or a Dask array."""
        return isinstance(self.counts, StoredMatrix)

    @cached_property
    def gene_totals(self) -> NDArray[np.float32]:
        """Counts of each gene (n_genes,)."""
        return column_sums(self.counts).astype(np.float32)

    def to_memory(self) -> Section:
        """Return the section with its counts in memory."""
        return replace(self, counts=to_memory(self.counts))
