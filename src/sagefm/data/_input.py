"""What a network reads of a section.

Notation, for one section of n spots and m genes of the vocabulary: ``U`` (n, m) holds the transformed counts, ``u_mean``
(m,) its mean over the section. A network reads two rows at spot i, c_i of the center and

    neighborhood  v_i = sum_j O_ij u_j - s_i u_mean

with an operator O and shifts s. The two architectures read different inputs: :class:`Log1pInput` (published) and
:class:`RelativeInput` (center_neighborhood).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from scipy import sparse

from sagefm._transform import root
from sagefm.data._blocks import StoredMatrix, column_sums, to_memory
from sagefm.data._counts import log1p, log_normalize, with_values
from sagefm.data._graph import averaging
from sagefm.errors import CoordinatesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sagefm.data._section import Section

#: Ratio of neighboring depths of :func:`depth_grid`: cubic interpolation is then exact to float32.
_RATIO: Final = 1.1
#: Spots whose neighbors are gathered at a time: their values, a few MB, stay in the processor's cache.
_GATHERED: Final = 16


@dataclass(frozen=True)
class SectionInput(ABC):
    """What a network reads of a section; see the head of this file for the notation.

    Attributes
    ----------
    operator
        ``O``, CSR float32 (n_spots, n_spots).
    shift
        ``s`` (n_spots,).
    center_weight
        ``a``, by which u_i enters the center (n_spots,).
    scale
        Counts that a spot is brought to (relative input).
    """

    section: Section
    operator: sparse.csr_matrix
    shift: NDArray[np.float32]
    center_weight: NDArray[np.float32]
    scale: float

    @classmethod
    @abstractmethod
    def of(cls, section: Section, scale: float) -> Self:
        """Return the input of a section."""

    @property
    @abstractmethod
    def transform(self) -> Callable[[sparse.csr_matrix], sparse.csr_matrix]:
        """Takes rows of all of the section's counts to rows of ``U``."""

    @abstractmethod
    def center(
        self, counts: NDArray[np.float32], sizes: NDArray[np.floating], profile: NDArray[np.floating], rows: slice
    ) -> NDArray[np.float32]:
        """Return ``c`` of some genes at the spots `rows`, with nothing hidden (n_rows, n_genes).

        `counts` are theirs (n_rows, n_genes), `sizes` all counts of the spots (n_rows,), `profile` the share of the
        genes in the counts of the section (n_genes,).
        """

    @abstractmethod
    def to_counts(self, values: NDArray[np.float32], sizes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the counts of which `values` (n_spots, n_values) are ``U``, at spots with `sizes` counts in all."""

    @cached_property
    def values(self) -> sparse.csr_matrix | StoredMatrix:
        """``U``, CSR float32 (n_spots, n_genes), in memory or stored."""
        counts = self.section.counts
        return counts.map(self.transform) if isinstance(counts, StoredMatrix) else self.transform(counts)

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """``u_mean`` (n_genes,); zeros where it is not read."""
        if not self.shift.any():
            return np.zeros(self.section.n_genes, np.float32)
        return (column_sums(self.values) / self.section.n_spots).astype(np.float32)

    def dense_counts(self, rows: NDArray[np.int64], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return raw counts at `rows`, dense (n_rows, n_genes)."""
        return np.asarray(to_memory(self.section.counts)[rows].toarray(out=out))

    def dense_neighborhood(
        self, rows: NDArray[np.int64], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return ``v`` at `rows`, dense (n_rows, n_genes)."""
        values = to_memory(self.values)
        dense = np.empty((len(rows), values.shape[1]), np.float32) if out is None else out
        for start in range(0, len(rows), _GATHERED):
            part = slice(start, start + _GATHERED)
            operator = self.operator[rows[part]]
            gathered = values[operator.indices]
            gathered.data *= np.repeat(operator.data, np.diff(gathered.indptr))
            # A row for each (spot, neighbor) pair; joining the rows of one spot leaves duplicate
            # columns, which toarray() adds up: the average without a sparse x sparse product.
            joined = (gathered.data, gathered.indices, gathered.indptr[operator.indptr])
            sparse.csr_matrix(joined, shape=dense[part].shape).toarray(out=dense[part])
        if self.shift.any():
            dense -= self.shift[rows, None] * self.mean
        return dense


class Log1pInput(SectionInput):
    """The published network's: u = log(1 + x), no mean; O = 1/(k_i+1) on the k_i neighbors, c_i = u_i / (k_i+1).

    c_i + v_i is the 15-spot average of the GCN's closed form.
    """

    @classmethod
    def of(cls, section: Section, scale: float) -> Self:
        operator = averaging(section.neighbors, with_center=True)
        weight = operator.diagonal().astype(np.float32)
        off_diagonal = sparse.csr_matrix(operator - sparse.diags_array(weight), dtype=np.float32)
        off_diagonal.eliminate_zeros()
        return cls(section, off_diagonal, np.zeros(section.n_spots, np.float32), weight, scale)

    @property
    def transform(self) -> Callable[[sparse.csr_matrix], sparse.csr_matrix]:
        return log1p

    def center(
        self, counts: NDArray[np.float32], sizes: NDArray[np.floating], profile: NDArray[np.floating], rows: slice
    ) -> NDArray[np.float32]:
        return self.center_weight[rows, None] * np.log1p(counts)

    def to_counts(self, values: NDArray[np.float32], sizes: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.expm1(values)


class RelativeInput(SectionInput):
    """The center_neighborhood network's: deviations from the section.

    u = log(1 + scale x / total); deviations are from the mean of the *other* spots of the section, so that nothing a
    spot hides comes back through the mean. With mean of the others = n/(n-1) u_mean - u_i/(n-1): s = n/(n-1), and
    O = 1/k_i on the neighbors and 1/(n-1) on the diagonal. The center is r(x_i) - r(size_i p), with r the root of
    Anscombe (1948), p the section's profile and size_i the counts of the spot: noise of about one for every gene and
    at every depth, so that a shallow spot says less.
    """

    @classmethod
    def of(cls, section: Section, scale: float) -> Self:
        n = section.n_spots
        if n < 2:
            raise CoordinatesError(f"Section {section.name!r} has {n} spot; at least 2 are needed, to compare it with.")
        # A spot without neighbors reads the section's mean: a deviation of zero.
        shift = np.where(np.diff(section.neighbors.indptr) > 0, n / (n - 1), 0.0).astype(np.float32)
        own = sparse.diags_array(shift / n)
        operator = sparse.csr_matrix(averaging(section.neighbors, with_center=False) + own, dtype=np.float32)
        return cls(section, operator, shift, np.ones(n, np.float32), scale)

    @property
    def transform(self) -> Callable[[sparse.csr_matrix], sparse.csr_matrix]:
        return partial(log_normalize, scale=self.scale)

    def center(
        self, counts: NDArray[np.float32], sizes: NDArray[np.floating], profile: NDArray[np.floating], rows: slice
    ) -> NDArray[np.float32]:
        return root(counts) - expected_roots(np.maximum(sizes, 1), profile)

    def to_counts(self, values: NDArray[np.float32], sizes: NDArray[np.floating]) -> NDArray[np.float32]:
        factors: NDArray[np.float32] = np.maximum(sizes, 1).astype(np.float32) / np.float32(self.scale)
        return np.expm1(values) * factors[:, None]


def make_input(section: Section, kind: str, *, scale: float = 1e4) -> SectionInput:
    """Return what a network reads of a section: `kind` is ``"log1p"`` or ``"relative"``."""
    return {"log1p": Log1pInput, "relative": RelativeInput}[kind].of(section, scale)


def sparse_root(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the root of sparse counts: it is 0 at 0."""
    return with_values(counts, root(counts.data))


def expected_roots(sizes: NDArray[np.floating], profile: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the root of the expected counts ``size_i p_g`` (n_spots, n_genes)."""
    return root(np.multiply.outer(np.asarray(sizes, np.float32), np.asarray(profile, np.float32)))


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
