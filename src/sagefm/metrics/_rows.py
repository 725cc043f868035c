"""Matrices of every kind, whose rows are made dense as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy import sparse

from sagefm._arguments import as_array, shown
from sagefm.data._blocks import StoredMatrix, is_stored
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rows made dense at a time: some ten arrays of float64, 180 MB for 18,000 genes.
BLOCK_ROWS: Final = 128
#: Smallest rate of a null model: with a rate of zero a residual is not defined.
MIN_NULL: Final = float(np.finfo(np.float32).tiny)


def _is_numeric(matrix: Any) -> bool:
    """Whether a matrix is an array of real numbers already, which is read as it is."""
    return isinstance(matrix, np.ndarray) and matrix.dtype.kind in "biuf"


class Rows:
    """A matrix (dense, sparse, stored or Dask) whose rows are made dense, float64, as they are read."""

    def __init__(self, matrix: Any, *, name: str, shape: tuple[int, int] | None = None) -> None:
        if isinstance(matrix, pd.DataFrame):
            matrix = matrix.to_numpy()
        if np.isscalar(matrix):
            raise ArgumentError(f"{name} is {shown(matrix)}; expected a matrix (n_spots, n_genes).")
        if is_stored(matrix):
            self.matrix: Any = StoredMatrix(matrix, lambda block: block)
        else:
            self.matrix = matrix if sparse.issparse(matrix) or _is_numeric(matrix) else as_array(matrix, name=name)
        self.shape: tuple[int, int] = self.matrix.shape
        if len(self.shape) != 2 or shape not in (None, self.shape):
            expected = "(n_spots, n_genes)" if shape is None else f"that of counts, {shape}"
            raise ArgumentError(f"{name} has shape {self.shape}; expected {expected}.")

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        matrix = self.matrix
        if isinstance(matrix, StoredMatrix) and not isinstance(rows, slice):
            matrix, rows = matrix.with_rows(rows), slice(None)
        part = matrix[rows]
        return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)


class PredictedRows(Rows):
    """Expected counts (n_spots, n_genes), NaN for genes that were not predicted."""

    def __init__(self, matrix: Any, shape: tuple[int, int], *, is_log: bool = False) -> None:
        super().__init__(matrix, name="predicted", shape=shape)
        self.is_log = is_log
        self.absent = np.zeros(shape[1], dtype=bool)
        if sparse.issparse(self.matrix):
            # The sparse layer of tl.impute(genes=...) stores all values of its genes, and none of the others.
            starts = range(0, shape[0], BLOCK_ROWS)
            self.absent = sum(self.matrix[start : start + BLOCK_ROWS].getnnz(axis=0) for start in starts) == 0

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        values = super().__getitem__(rows)
        rates: NDArray[np.float64] = np.maximum(np.expm1(values) if self.is_log else values, 0)
        rates[:, self.absent] = np.nan
        return rates
