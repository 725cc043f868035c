"""Counts that stay where they are stored, and are read a block of rows at a time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy import sparse

from sagefm._constants import BLOCK_ROWS
from sagefm.errors import CountsError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

T = TypeVar("T")

#: Rows further apart than this are read by calls of their own, and no call reads more rows than this.
_LARGEST_GAP = 64
_LARGEST_SPAN = 2048


class StoredMatrix:
    """A matrix in a file, a Dask array or one in memory that is not to be copied, of which rows are read as CSR float32.

    Parameters
    ----------
    matrix
        Backed CSR matrix (:class:`anndata.abc.CSRDataset`), HDF5 or zarr array, Dask array or CSR (n_rows, n_columns).
    prepare
        Turns a block of rows, as read, into rows of this matrix: checks counts, takes columns, transforms.
    n_columns
        Number of columns that `prepare` returns. Default: those of `matrix`.
    rows
        Rows of `matrix` that this one has, increasing. Default: all.
    """

    def __init__(
        self,
        matrix: Any,
        prepare: Callable[[sparse.csr_matrix], sparse.csr_matrix],
        *,
        n_columns: int | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.matrix = matrix
        self.prepare = prepare
        self.rows = rows
        self.shape: tuple[int, int] = (
            matrix.shape[0] if rows is None else len(rows),
            matrix.shape[1] if n_columns is None else n_columns,
        )
        self._chunks: dict[int, Any] = {}

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        start, stop, _ = rows.indices(self.shape[0])
        if self.rows is None:
            return self.prepare(as_csr(self._read(start, stop)))
        wanted = self.rows[start:stop]
        is_apart = (np.diff(wanted) > _LARGEST_GAP) | (np.diff(wanted // _LARGEST_SPAN) > 0)
        runs = np.split(wanted, np.flatnonzero(is_apart) + 1)
        parts = [as_csr(self._read(int(run[0]), int(run[-1]) + 1))[run - run[0]] for run in runs if len(run)]
        return self.prepare(sparse.vstack(parts or [as_csr(self._read(0, 0))], format="csr"))

    def with_rows(self, rows: NDArray[np.int64]) -> StoredMatrix:
        """Return some of the rows, increasing; nothing is read."""
        rows = rows if self.rows is None else self.rows[rows]
        return StoredMatrix(self.matrix, self.prepare, n_columns=self.shape[1], rows=rows)

    def map(
        self, function: Callable[[sparse.csr_matrix], sparse.csr_matrix], n_columns: int | None = None
    ) -> StoredMatrix:
        """Return the matrix with a function applied to each block of rows; nothing is read."""
        before, n_columns = self.prepare, self.shape[1] if n_columns is None else n_columns
        return StoredMatrix(self.matrix, lambda block: function(before(block)), n_columns=n_columns, rows=self.rows)

    def _read(self, start: int, stop: int) -> Any:
        try:
            return self._rows(start, stop)
        except SagefmError:
            raise
        # A library's, of any kind: the file may be damaged, or on a disk that is gone.
        except Exception as error:
            raise CountsError(f"The stored counts cannot be read: {type(error).__name__}: {error}") from error

    def _rows(self, start: int, stop: int) -> Any:
        if sparse.issparse(self.matrix):
            # Views, where a slice would be a copy.
            first, last = self.matrix.indptr[[start, stop]]
            data, indices = self.matrix.data[first:last], self.matrix.indices[first:last]
            indptr = self.matrix.indptr[start : stop + 1] - first
            return sparse.csr_matrix((data, indices, indptr), shape=(stop - start, self.matrix.shape[1]))
        if not hasattr(self.matrix, "chunks") or not hasattr(self.matrix, "compute"):
            return self.matrix[start:stop]
        # A chunk of a Dask array is computed once, though several blocks are cut from it.
        edges = np.cumsum((0, *self.matrix.chunks[0]))
        first, last = np.searchsorted(edges, [start, max(stop - 1, start)], side="right") - 1
        self._chunks = {i: chunk for i, chunk in self._chunks.items() if first <= i <= last}
        parts = []
        for i in range(first, min(last, len(edges) - 2) + 1):
            if i not in self._chunks:
                self._chunks[i] = as_csr(self.matrix[edges[i] : edges[i + 1]].compute())
            parts.append(self._chunks[i][max(start - edges[i], 0) : stop - edges[i]])
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")


def is_stored(matrix: Any) -> bool:
    """Tell whether a matrix of a table is in a file or a Dask array, and can be read by rows."""
    if isinstance(matrix, np.ndarray) or sparse.issparse(matrix):
        return False
    # A backed CSC matrix has no rows to read: it is taken to memory.
    return getattr(matrix, "format", "csr") == "csr" and hasattr(matrix, "shape") and hasattr(matrix, "__getitem__")


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """Return a matrix as canonical CSR float32; shares memory with the given one where it can."""
    check_parts(matrix)
    csr = sparse.csr_matrix(matrix, dtype=np.float32)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr


def check_parts(matrix: Any) -> None:
    """Raise unless the parts of a CSR or CSC matrix fit: those of a damaged file may point outside of it."""
    if not sparse.issparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    make = sparse.csr_matrix if matrix.format == "csr" else sparse.csc_matrix
    try:
        # Of another object: the check may change the type of its indices.
        make((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape).check_format(full_check=True)
    except ValueError as error:
        raise CountsError(f"The stored counts are damaged: {error}. Copy or download the file again.") from error


def to_memory(matrix: sparse.csr_matrix | StoredMatrix) -> sparse.csr_matrix:
    """Return a matrix in memory."""
    if not isinstance(matrix, StoredMatrix):
        return matrix
    # A matrix of its own, so that no chunk is kept; in blocks, so that no more than one is dense.
    own = StoredMatrix(matrix.matrix, matrix.prepare, n_columns=matrix.shape[1], rows=matrix.rows)
    return sparse.csr_matrix(sparse.vstack([block for _, block in iter_blocks(own)] or [own[:]], format="csr"))


def take_rows(matrix: sparse.csr_matrix | StoredMatrix, rows: NDArray[np.int64]) -> Any:
    """Return rows of a matrix, increasing."""
    return matrix.with_rows(rows) if isinstance(matrix, StoredMatrix) else matrix[rows]


def take_columns(matrix: sparse.csr_matrix | StoredMatrix, columns: NDArray[np.int64]) -> Any:
    """Return columns of a matrix, in this order."""
    if isinstance(matrix, StoredMatrix):
        return matrix.map(lambda block: take_columns(block, columns), n_columns=len(columns))
    taken = matrix[:, columns]
    taken.sort_indices()
    return taken


def iter_blocks(
    matrix: sparse.csr_matrix | StoredMatrix, block_rows: int = BLOCK_ROWS
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yield consecutive blocks of rows; of a stored matrix, the next is read while one is worked on."""
    slices = [slice(start, start + block_rows) for start in range(0, matrix.shape[0], block_rows)]
    blocks = ((rows, matrix[rows]) for rows in slices)
    return prefetch(blocks) if isinstance(matrix, StoredMatrix) else blocks


def column_sums(matrix: sparse.csr_matrix | StoredMatrix) -> NDArray[np.float64]:
    """Return the sum of each column (n_columns,)."""
    total = np.zeros(matrix.shape[1])
    blocks = iter_blocks(matrix) if isinstance(matrix, StoredMatrix) else [(slice(None), matrix)]
    for _, block in blocks:
        total += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
    return total


def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Yield items in order; the next `depth` are made in a thread while one is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as executor:
        pending: deque[Future[Any]] = deque(executor.submit(next, iterator, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(executor.submit(next, iterator, end))
            yield item
