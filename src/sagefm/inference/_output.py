"""Dense results of the size of a table, in memory or in a zarr array, written a block of rows at a time."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sagefm._constants import BLOCK_ROWS
from sagefm.errors import OutputExistsError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray


class DenseLayer:
    """Values (n_spots, n_vars), NaN where nothing was written: in memory, or in a new zarr array at `path`."""

    def __init__(self, shape: tuple[int, int], path: Path | None) -> None:
        self.shape = shape
        self.path = path
        self._array: Any = np.empty(shape, np.float32) if path is None else _create(path, shape)

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
        """Return the array, or a Dask array of what is on disk."""
        if self.path is None:
            return self._array
        import dask.array as da

        return da.from_zarr(str(self.path))


def _create(path: Path, shape: tuple[int, int]) -> Any:
    import zarr

    if path.exists():
        raise OutputExistsError(f"{path} exists: it is not overwritten. Choose another path, or remove it.")
    chunks = (min(BLOCK_ROWS, shape[0]), shape[1])
    return zarr.open(store=str(path), mode="w-", shape=shape, chunks=chunks, dtype="float32", fill_value=np.nan)


@contextmanager
def dense_layer(shape: tuple[int, int], out: str | os.PathLike[str] | None) -> Iterator[DenseLayer]:
    """Yield a layer to write to; what was created on disk is removed if the block raises."""
    layer = DenseLayer(shape, None if out is None else Path(out))
    try:
        yield layer
    except BaseException:
        if layer.path is not None:
            shutil.rmtree(layer.path, ignore_errors=True)
        raise
