"""AnnData written to an h5ad file, on a disk that may be full."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import anndata
import h5py

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData


class _HeldErrors(io.FileIO):
    """A file that takes what is written after an error, too, and keeps the error: HDF5 crashes where a write fails."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or nothing more once that has failed."""
        rest = memoryview(data).cast("B")
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(data)

    def readinto(self, buffer: Any) -> int | None:
        """Read, unless an error has left out some of what would be read: HDF5 crashes on anything else there."""
        if self.error is not None:
            raise self.error
        return super().readinto(buffer)

    def truncate(self, size: int | None = None) -> int:
        """Change the size of the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def write_h5ad(table: AnnData, path: Path, *, compression: str | None = None) -> None:
    """Write AnnData as ``AnnData.write_h5ad`` does; where the disk fails, the error is its OSError."""
    table.strings_to_categoricals()
    if table.raw is not None:
        table.strings_to_categoricals(table.raw.var)
    with _HeldErrors(path, "w+b") as file:
        try:
            with h5py.File(file, "w") as store:
                anndata.io.write_elem(store, "/", table, dataset_kwargs={"compression": compression})
        finally:
            if file.error is not None:
                raise file.error
