"""What a section's profile gives at the depth of each spot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sagefm.data._blocks import StoredMatrix, column_sums, take_columns, to_memory
from sagefm.data._counts import log1p, log_normalize, root
from sagefm.data._graph import averaging
from sagefm.errors import ArgumentError, CoordinatesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sagefm.data._section import Section

from typing import TYPE_CHECKING, Final

from sagefm._constants import ANSCOMBE

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Ratio of neighboring depths: cubic interpolation is then exact to float32.
_RATIO: Final = 1.1


def expected_roots(sizes: NDArray[np.floating], profile: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return what :func:`~sagefm.data._counts.root` gives for the expected counts of spots (n_spots, n_genes).

    Parameters
    ----------
    sizes
        Counts of each spot (n_spots,).
    profile
        Share of each gene in the counts (n_genes,).
    """
    rates = np.multiply.outer(np.asarray(sizes, np.float32), np.asarray(profile, np.float32))
    roots: NDArray[np.float32] = np.sqrt(4 * rates + np.float32(ANSCOMBE)) - np.float32(ANSCOMBE**0.5)
    return roots


def depth_grid(sizes: NDArray[np.floating]) -> tuple[sparse.csr_matrix, NDArray[np.floating]]:
    """Return weights (n_spots, n_depths) and depths (n_depths,) between which a function of depth is interpolated.

    A function of depth alone, such as the product of :func:`expected_roots` with weights, is computed at some tens of
    depths and not at each spot: ``weights @ function(depths)``, by a cubic in the logarithm of depth.
    """
    position = np.log(np.maximum(np.asarray(sizes, np.float64), 1)) / np.log(_RATIO)
    first = int(np.floor(position.min())) - 1
    cell = np.floor(position).astype(np.int64)
    t = position - cell
    # Lagrange's cubic through the depths at -1, 0, 1 and 2.
    weights = np.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ]
    )
    columns = cell[:, None] - first + np.arange(-1, 3)
    n_depths = int(columns.max()) + 1
    indptr = np.arange(0, columns.size + 1, 4)
    matrix = sparse.csr_matrix(
        (weights.T.ravel().astype(np.float32), columns.ravel(), indptr), shape=(len(position), n_depths)
    )
    return matrix, np.exp(np.log(_RATIO) * np.arange(first, first + n_depths, dtype=np.float64))


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
