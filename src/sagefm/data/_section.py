"""Sections as the networks read them.

Notation, for one section of n spots and m genes of the vocabulary: ``U`` (n, m) holds the transformed counts, ``u_mean``
(m,) its mean over the section. A network reads at spot i two rows, c_i of the center and

    neighborhood  v_i = sum_j O_ij u_j - s_i u_mean

with operator O and shifts s of the input:

``"log1p"``      (published) u = log(1 + x), no mean; O = 1/(k_i+1) on the neighbors, c_i = a_i u_i with a_i = 1/(k_i+1),
                 so that c_i + v_i is the 15-spot average of the GCN's closed form.
``"relative"``   (default) u = log(1 + scale x / total); deviations are from the mean of the *other* spots of the section,
                 so that nothing a spot hides comes back through the mean. With mean of the others
                 = n/(n-1) u_mean - u_i/(n-1): s = n/(n-1), and O = 1/k_i on the neighbors and 1/(n-1) on the diagonal.
                 The center is r(x_i) - r(size_i p), with r(x) = 2 sqrt(x + 3/8), p the section's profile and size_i the
                 counts of the spot: noise of about one for every gene and at every depth, so that a shallow spot says
                 less (Anscombe 1948).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sagefm.data._counts import log1p, log_normalize, root
from sagefm.data._graph import averaging
from sagefm.data._stored import StoredMatrix, column_sums, take_columns, to_memory
from sagefm.errors import ArgumentError, CoordinatesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Section:
    """One section (library): raw counts of vocabulary genes, and each spot's neighbors.

    Attributes
    ----------
    counts
        Raw counts, CSR float32 (n_spots, n_genes), in memory or stored.
    genes
        Position in the vocabulary of each column (n_genes,), increasing.
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


@dataclass(frozen=True)
class SectionInput:
    """What a network reads of a section; see the head of this file for the notation.

    Attributes
    ----------
    section
        The section.
    values
        ``U``, CSR float32 (n_spots, n_genes), in memory or stored.
    transforms
        Takes rows of counts to rows of ``U``; before it, for ``"relative"``, to r(x) - r(0) of the center.
    is_relative
        Whether the network reads deviations from ``u_mean``.
    operator
        ``O``, CSR float32 (n_spots, n_spots).
    center_weight
        ``a`` (n_spots,); ones for ``"relative"``.
    shift
        ``s`` (n_spots,).
    """

    section: Section
    values: sparse.csr_matrix | StoredMatrix
    transforms: tuple[Callable[[sparse.csr_matrix], sparse.csr_matrix], ...]
    is_relative: bool
    operator: sparse.csr_matrix
    center_weight: NDArray[np.float32]
    shift: NDArray[np.float32]

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """``u_mean`` (n_genes,); zeros for ``"log1p"``."""
        if not self.is_relative:
            return np.zeros(self.section.n_genes, np.float32)
        return (column_sums(self.values) / self.section.n_spots).astype(np.float32)

    def with_genes(self, columns: NDArray[np.int64]) -> SectionInput:
        """Return the input with these columns, in this order."""
        section = self.section
        return replace(
            self,
            section=replace(section, counts=take_columns(section.counts, columns), genes=section.genes[columns]),
            values=take_columns(self.values, columns),
        )

    def dense_values(self, rows: NDArray[np.int64], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return ``U`` at `rows`, dense (n_rows, n_genes)."""
        return _dense(to_memory(self.values)[rows], out)

    def dense_counts(self, rows: NDArray[np.int64], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return raw counts at `rows`, dense (n_rows, n_genes)."""
        return _dense(to_memory(self.section.counts)[rows], out)

    def dense_neighborhood(
        self, rows: NDArray[np.int64], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return ``v`` at `rows`, dense (n_rows, n_genes)."""
        operator = self.operator[rows]
        gathered = to_memory(self.values)[operator.indices]
        # A row for each (spot, neighbor) pair; joining the rows of one spot leaves duplicate
        # columns, which toarray() adds up: the average without a sparse x sparse product.
        weights = np.repeat(operator.data, np.diff(gathered.indptr))
        joined = sparse.csr_matrix(
            (gathered.data * weights, gathered.indices, gathered.indptr[operator.indptr]),
            shape=(len(rows), gathered.shape[1]),
        )
        dense = _dense(joined, out)
        if self.is_relative:
            dense -= self.shift[rows, None] * self.mean
        return dense


def _dense(matrix: sparse.csr_matrix, out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return np.asarray(matrix.toarray(out=out), dtype=np.float32)


def make_input(section: Section, kind: str, *, scale: float = 1e4) -> SectionInput:
    """Return what a network reads of a section.

    Parameters
    ----------
    section
        The section.
    kind
        ``"log1p"`` or ``"relative"``.
    scale
        Counts a spot is brought to (``"relative"``).
    """
    if kind not in ("log1p", "relative"):
        raise ArgumentError(f"Found input {kind!r}; expected 'log1p' or 'relative'.")
    n, counts = section.n_spots, section.counts
    transform = log1p if kind == "log1p" else partial(log_normalize, scale=scale)
    values = counts.map(transform) if isinstance(counts, StoredMatrix) else transform(counts)
    if kind == "log1p":
        operator = averaging(section.neighbors, with_center=True)
        center = operator.diagonal().astype(np.float32)
        off_diagonal = sparse.csr_matrix(operator - sparse.diags_array(center), dtype=np.float32)
        off_diagonal.eliminate_zeros()
        return SectionInput(section, values, (transform,), False, off_diagonal, center, np.zeros(n, np.float32))
    if n < 2:
        raise CoordinatesError(
            f"Section {section.name!r} has {n} spot; its mean over the other spots needs at least 2."
        )
    # A spot without neighbors reads the section's mean: a deviation of zero.
    shift = np.where(np.diff(section.neighbors.indptr) > 0, n / (n - 1), 0.0).astype(np.float32)
    own = sparse.diags_array(shift / n)
    operator = sparse.csr_matrix(averaging(section.neighbors, with_center=False) + own, dtype=np.float32)
    return SectionInput(section, values, (root, transform), True, operator, np.ones(n, np.float32), shift)
