"""Files and stores: opened without reading them, and their hash; tables beside them."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import anndata
import h5py
import pandas as pd
import zarr

from sagefm._arguments import as_path, check_type, shown
from sagefm.data._genes import get_gene_names, to_symbols
from sagefm.data._table import pick
from sagefm.errors import ArgumentError, MissingKeyError, SagefmError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

#: Suffixes of stores.
STORES: Final = (".h5ad", ".zarr")
#: Group of a SpatialData store.
_TABLES = "tables"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say which file an error of another library is about."""
    try:
        yield
    except SagefmError:
        raise
    except Exception as error:
        raise SagefmError(f"{path} cannot be read: {error}") from error


@contextmanager
def open_store(path: Path) -> Iterator[Any]:
    """Yield an open h5ad or zarr store, of which no more is read than is asked for."""
    with _reading(path):
        if path.suffix == ".h5ad":
            with h5py.File(path, "r") as file:
                yield file
        else:
            yield zarr.open_group(path, mode="r")


@contextmanager
def open_table(path: Path, table_key: str | None = None) -> Iterator[Any]:
    """Yield the table of an open store of AnnData or SpatialData."""
    with open_store(path) as store:
        if _TABLES in store:
            store = pick(dict(store[_TABLES].groups()), table_key, what="table", argument="table_key")
        yield store


def read_file(path: Path) -> Any:
    """Return AnnData or SpatialData, in memory."""
    with open_store(path) as store:
        is_spatialdata = _TABLES in store
    with _reading(path):
        if is_spatialdata:
            import spatialdata

            return spatialdata.read_zarr(path)
        return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)


def read_symbols(path: Path, table_key: str | None, gene_key: str | None) -> list[str]:
    """Return the symbols of the genes of a store, of which no more is read."""
    with open_table(path, table_key) as table:
        var = anndata.io.read_elem(table["var"])
    try:
        names = to_symbols(get_gene_names(SimpleNamespace(var=var, var_names=var.index), gene_key))
    except SagefmError as error:
        raise type(error)(f"{path}: {error}") from error
    return list(map(str, names))


def read_shape(path: Path, table_key: str | None) -> tuple[int, int]:
    """Return numbers of spots and genes of a store, of which no more is read."""
    with open_table(path, table_key) as table:
        return n_rows(table["obs"]), n_rows(table["var"])


def n_rows(frame: Any) -> int:
    """Return the length of obs or var in an open store."""
    names = frame[frame.attrs["_index"]]
    # With pandas 3, anndata stores strings as a group of values and mask.
    return int((names if hasattr(names, "shape") else names["values"]).shape[0])


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


def sections_folder(root: Path) -> Path:
    """Return where the sections of a folder are: in its folder ``st``, as in HEST-1k, or in itself."""
    return root / "st" if (root / "st").is_dir() else root


def find_metadata(
    root: Path, metadata: str | os.PathLike[str] | pd.DataFrame | None, key: str | None
) -> pd.DataFrame | None:
    """Return the table of a folder's sections, by name; see :meth:`sagefm.datasets.Corpus.from_folder`."""
    if metadata is None:
        files = sorted({*root.glob("HEST*.csv"), *root.glob("metadata.csv"), *root.glob("metadata.tsv")})
        if len(files) > 1:
            raise ArgumentError(f"Found several tables, {[path.name for path in files]}: pass metadata=...")
        if not files:
            return None
        metadata = files[0]
    if isinstance(metadata, pd.DataFrame):
        table = metadata
    else:
        metadata = as_path(metadata, name="metadata")
        if not metadata.is_file():
            raise ArgumentError(f"metadata={shown(str(metadata))} is no file; expected a table as .csv or .tsv.")
        table = pd.read_csv(metadata, sep="\t" if Path(metadata).suffix == ".tsv" else ",")
        key = key or ("id" if "id" in table else str(table.columns[0]))
    if key is None:
        return table
    if key not in table:
        raise MissingKeyError(f"key={key!r} is not a column of the metadata; found {list(table.columns)}.")
    return table.set_index(table[key].astype(str))


def align_metadata(metadata: pd.DataFrame | None, names: Sequence[str]) -> pd.DataFrame:
    """Return one row for each of `names`, in their order; without columns where there is no table."""
    if metadata is None:
        return pd.DataFrame(index=names)
    check_type(metadata, pd.DataFrame, name="metadata", expected="a DataFrame with a row for each section")
    metadata = metadata.set_axis(metadata.index.astype(str))
    unknown = [name for name in names if name not in metadata.index]
    if unknown:
        raise MissingKeyError(
            f"{len(unknown)} sections are not in the index of the metadata, e.g. {unknown[:3]}; "
            f"it holds {list(metadata.index[:3])}. Expected a row for each file, by its name without suffix."
        )
    doubled = metadata.index[metadata.index.duplicated() & metadata.index.isin(names)]
    if len(doubled):
        raise ArgumentError(f"The metadata have several rows for {list(doubled[:3])}; expected one for each section.")
    return metadata.loc[names]
