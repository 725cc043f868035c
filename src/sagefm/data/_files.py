"""Files and stores: opened without reading them, and their hash."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sagefm.data._table import pick
from sagefm.errors import SagefmError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Group of a SpatialData store.
_TABLES = "tables"


@contextmanager
def open_store(path: Path) -> Iterator[Any]:
    """Yield an open h5ad or zarr store, of which no more is read than is asked for."""
    try:
        if path.suffix == ".h5ad":
            import h5py

            with h5py.File(path, "r") as file:
                yield file
        else:
            import zarr

            yield zarr.open_group(path, mode="r")
    except SagefmError:
        raise
    except Exception as error:
        raise SagefmError(f"{path} cannot be read: {error}") from error


@contextmanager
def open_table(path: Path, table_key: str | None = None) -> Iterator[Any]:
    """Yield the table of an open store of AnnData or SpatialData."""
    with open_store(path) as store:
        if _TABLES in store:
            store = pick(dict(store[_TABLES].groups()), table_key, what="table", argument="table_key")
        yield store


def read_file(path: Path) -> Any:
    """Return AnnData or SpatialData, in memory."""
    import anndata

    with open_store(path) as store:
        is_spatialdata = _TABLES in store
    try:
        if is_spatialdata:
            import spatialdata

            return spatialdata.read_zarr(path)
        return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
    except Exception as error:
        raise SagefmError(f"{path} cannot be read: {error}") from error


def n_rows(frame: Any) -> int:
    """Return the length of obs or var in an open store."""
    names = frame[frame.attrs["_index"]]
    # With pandas 3, anndata stores strings as a group of values and mask.
    return int((names if hasattr(names, "shape") else names["values"]).shape[0])


def replace_path(path: Path, staged: Path) -> None:
    """Put `staged` in the place of `path`; a folder that was there is deleted last, and put back if this fails."""
    if not path.is_dir():
        staged.replace(path)
        return
    # Not in a folder of `staged`: that may be deleted before.
    before = path.with_name(f".{path.name}-{uuid4().hex}-before")
    path.replace(before)
    try:
        staged.replace(path)
    except BaseException:
        before.replace(path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Return the hash of a file, or of the files of a folder with their names, the same on every system."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    # By the names themselves: paths are in another order on Windows, where their case does not count.
    files = {part.relative_to(path).parts: part for part in path.rglob("*") if part.is_file()}
    digest = hashlib.sha256()
    for names in sorted(files):
        digest.update(f"{'/'.join(names)}\0{file_sha256(files[names])}\n".encode())
    return digest.hexdigest()
