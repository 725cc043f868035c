"""Sections as the networks read them, and batches of spots for training.

Notation, for one section of n spots and m genes of the vocabulary: ``U`` (n, m) holds the transformed
counts, ``u_mean`` (m,) its mean over the section. A network reads at spot i two rows,

    center        c_i = a_i (u_i - u_mean)
    neighborhood  v_i = sum_j O_ij u_j - s_i u_mean

with center weights a, operator O and shifts s of the input:

``"log1p"``      (published) u = log(1 + x), no mean; O = 1/(k_i+1) on the neighbors, a_i = 1/(k_i+1), so that
                 c_i + v_i is the 15-spot average of the GCN's closed form.
``"relative"``   (default) u = log(1 + scale x / total); deviations are from the mean of the *other* spots
                 of the section, so that nothing a spot hides comes back through the mean. With
                 mean of the others = n/(n-1) u_mean - u_i/(n-1): a = s = n/(n-1), and O = 1/k_i on the
                 neighbors and 1/(n-1) on the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sagefm.data._counts import log1p, log_normalize
from sagefm.data._graph import averaging
from sagefm.errors import ArgumentError, CoordinatesError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Section:
    """One section (library): raw counts of vocabulary genes, and each spot's neighbors.

    Attributes
    ----------
    counts
        Raw counts, CSR float32 (n_spots, n_genes).
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

    counts: sparse.csr_matrix
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

    @cached_property
    def totals(self) -> NDArray[np.float32]:
        """Counts of each spot (n_spots,)."""
        return np.asarray(self.counts.sum(axis=1, dtype=np.float64), dtype=np.float32).ravel()

    @cached_property
    def gene_totals(self) -> NDArray[np.float32]:
        """Counts of each gene (n_genes,)."""
        return np.asarray(self.counts.sum(axis=0, dtype=np.float64), dtype=np.float32).ravel()


@dataclass(frozen=True)
class SectionInput:
    """What a network reads of a section; see the head of this file for the notation.

    Attributes
    ----------
    section
        The section.
    values
        ``U``, CSR float32 (n_spots, n_genes).
    mean
        ``u_mean`` (n_genes,); zeros for ``"log1p"``.
    operator
        ``O``, CSR float32 (n_spots, n_spots).
    center_weight
        ``a`` (n_spots,).
    shift
        ``s`` (n_spots,).
    """

    section: Section
    values: sparse.csr_matrix
    mean: NDArray[np.float32]
    operator: sparse.csr_matrix
    center_weight: NDArray[np.float32]
    shift: NDArray[np.float32]

    def dense_values(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return ``U`` at `rows`, dense (n_rows, n_genes)."""
        return np.asarray(self.values[rows].toarray(), dtype=np.float32)

    def dense_counts(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return raw counts at `rows`, dense (n_rows, n_genes)."""
        return np.asarray(self.section.counts[rows].toarray(), dtype=np.float32)

    def dense_neighborhood(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return ``v`` at `rows`, dense (n_rows, n_genes)."""
        operator = self.operator[rows]
        gathered = self.values[operator.indices]
        # A row for each (spot, neighbor) pair; joining the rows of one spot leaves duplicate
        # columns, which toarray() adds up: the average without a sparse x sparse product.
        weights = np.repeat(operator.data, np.diff(gathered.indptr))
        joined = sparse.csr_matrix(
            (gathered.data * weights, gathered.indices, gathered.indptr[operator.indptr]),
            shape=(len(rows), self.values.shape[1]),
        )
        dense = np.asarray(joined.toarray(), dtype=np.float32)
        if self.mean.any():
            dense -= self.shift[rows, None] * self.mean
        return dense


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
    n = section.n_spots
    if kind == "log1p":
        operator = averaging(section.neighbors, with_center=True)
        center = operator.diagonal().astype(np.float32)
        off_diagonal = sparse.csr_matrix(operator - sparse.diags_array(center), dtype=np.float32)
        off_diagonal.eliminate_zeros()
        mean, shift = np.zeros(section.n_genes, np.float32), np.zeros(n, np.float32)
        return SectionInput(section, log1p(section.counts), mean, off_diagonal, center, shift)
    if kind != "relative":
        raise ArgumentError(f"Found input {kind!r}; expected 'log1p' or 'relative'.")
    if n < 2:
        raise CoordinatesError(
            f"Section {section.name!r} has {n} spot; its mean over the other spots needs at least 2."
        )
    values = log_normalize(section.counts, section.totals, scale)
    mean = np.asarray(values.mean(axis=0, dtype=np.float64), dtype=np.float32).ravel()
    # A spot without neighbors reads the section's mean: a deviation of zero.
    shift = np.where(np.diff(section.neighbors.indptr) > 0, n / (n - 1), 0.0).astype(np.float32)
    own = sparse.diags_array(shift / n)
    operator = sparse.csr_matrix(averaging(section.neighbors, with_center=False) + own, dtype=np.float32)
    return SectionInput(section, values, mean, operator, np.full(n, n / (n - 1), np.float32), shift)


def split_spots(
    sections: Sequence[Section], validation_size: float, rng: np.random.Generator
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Split spots into training and validation, one array of spots a section.

    Of several sections, whole sections are held out. Of one section, square tiles up to eight spots wide
    are: neighbors share counts, so a random choice of spots would be validated on what it was trained on.

    Parameters
    ----------
    sections
        The sections.
    validation_size
        Share of the spots (about) to hold out, in [0, 1).
    rng
        Source of randomness.
    """
    if not 0 <= validation_size < 1:
        raise ArgumentError(f"validation_size={validation_size!r}; expected a share of at least 0 and below 1.")
    everything = [np.arange(section.n_spots) for section in sections]
    nothing = [np.arange(0) for _ in sections]
    if validation_size == 0:
        return everything, nothing
    if len(sections) > 1:
        sizes = np.array([section.n_spots for section in sections])
        order = rng.permutation(len(sections))
        held: set[int] = set()
        for i in order.tolist():
            if sizes[[*held, i]].sum() <= validation_size * sizes.sum() and len(held) + 1 < len(sections):
                held.add(i)
        held = held or {int(order[np.argmin(sizes[order])])}
        train = [nothing[i] if i in held else everything[i] for i in range(len(sections))]
        return train, [everything[i] if i in held else nothing[i] for i in range(len(sections))]
    low, high = sections[0].coordinates.min(axis=0), sections[0].coordinates.max(axis=0)
    # Small sections have smaller tiles: one must not be more than the share that is held out.
    width = min(8.0, np.sqrt(validation_size * sections[0].n_spots))
    side = width * np.sqrt(max(np.prod(high - low), np.finfo(float).tiny) / sections[0].n_spots)
    tiles = np.unique(np.floor((sections[0].coordinates - low) / side), axis=0, return_inverse=True)[1].ravel()
    order = rng.permutation(int(tiles.max()) + 1)
    covered = np.cumsum(np.bincount(tiles)[order])
    n_tiles = min(int(np.searchsorted(covered, validation_size * sections[0].n_spots)) + 1, len(order) - 1)
    is_held = np.isin(tiles, order[:n_tiles])
    return [np.flatnonzero(~is_held)], [np.flatnonzero(is_held)]


def iter_batches(
    spots: Sequence[NDArray[np.int64]], batch_size: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (section, spots) batches; a batch is of one section.

    Parameters
    ----------
    spots
        Spots to go through, one array a section.
    batch_size
        Spots of a batch; the last of a section may be smaller.
    rng
        Shuffles spots and batches; without it they come in order.
    """
    batches = []
    for section, rows in enumerate(spots):
        shuffled = rows if rng is None else rng.permutation(rows)
        n_batches = max(round(len(rows) / batch_size), 1)
        batches += [(section, np.sort(part)) for part in np.array_split(shuffled, n_batches) if len(part)]
    order = range(len(batches)) if rng is None else rng.permutation(len(batches))
    yield from (batches[i] for i in order)
