"""Dense results of the size of a table, in memory or in a zarr array, written a block of rows at a time."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sagefm._constants import BLOCK_ROWS
from sagefm._replacing import replacing, try_output, typed_errors
from sagefm.errors import OutputExistsError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray


class DenseLayer:
    """Values (n_spots, n_vars), NaN where nothing was written: in memory, or in a zarr `array` that will be at `path`."""

    def __init__(self, shape: tuple[int, int], path: Path | None = None, array: Any = None) -> None:
        self.shape = shape
        self.path = path
        self._array: Any = np.empty(shape, np.float32) if path is None else array

    def write(self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Write values of some rows and columns (n_rows, n_columns)."""
        whole = np.full((len(rows), self.shape[1]), np.nan, np.float32)
        whole[:, columns] = values
        if self.path is None:
            self._array[rows] = whole
        elif rows[-1] - rows[0] == len(rows) - 1:
            self._array[rows[0] : rows[-1] + 1] = whole
        else:
            self._array.oindex[rows] = whole

    def result(self) -> Any:
        """Return the array, or a Dask array of what is on disk, which is there when the block has ended."""
        if self.path is None:
            return self._array
        import dask.array as da

        return da.from_zarr(str(self.path))


@contextmanager
def dense_layer(
    shape: tuple[int, int], out: str | os.PathLike[str] | None, *, n_written: int = 0
) -> Iterator[DenseLayer]:
    """Yield a layer to write to; an array at `out`, which must not exist, appears there when the block has ended.

    The disk must have room for `n_written` columns: expected counts hardly get smaller by compression.
    """
    if out is None:
        yield DenseLayer(shape)
        return
    import zarr

    out = Path(out)
    with typed_errors(out):
        if out.exists():
            raise OutputExistsError(f"{out} exists: it is not overwritten. Choose another path, or remove it.")
    try_output(out, n_bytes=shape[0] * n_written * np.dtype(np.float32).itemsize)
    with replacing(out, overwrite=False) as staged:
        chunks = (min(BLOCK_ROWS, shape[0]), shape[1])
        array = zarr.open(store=str(staged), mode="w-", shape=shape, chunks=chunks, dtype="float32", fill_value=np.nan)
        yield DenseLayer(shape, out, array)
