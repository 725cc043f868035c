"""Sections and results as files: read whole, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._replacing import replacing, try_output, typed_errors
from sagefm.cli._run import explain
from sagefm.errors import ArgumentError, OutputExistsError, SagefmError

if TYPE_CHECKING:
    from anndata import AnnData

#: Files that mark a zarr store, of formats 3 and 2.
_ZARR_MARKS = ("zarr.json", ".zgroup")
#: Parts of AnnData that are read though the counts are not.
_SMALL_PARTS = ("obs", "var", "obsm", "obsp", "varm", "uns")


class SectionPath(click.Path):
    """An existing ``.h5ad`` file or zarr store, or a pattern of several, as a shell without globs hands it on."""

    name = "file"

    def __init__(self) -> None:
        super().__init__(exists=True, readable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the paths, or end with a usage error."""
        pattern = Path(str(value))
        if set("*?[") & set(str(value)) and not pattern.exists():
            matches = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
            sections = sorted(path for path in matches if is_section(path))
            if not sections:
                self.fail(f"{str(value)!r} matches no .h5ad file and no .zarr store.", param, ctx)
            return sections
        path = Path(str(super().convert(value, param, ctx)))
        if not is_section(path):
            hint = f" For the sections in a folder: '{path}/*.h5ad'." if path.is_dir() else ""
            self.fail(f"{str(path)!r} is neither a .h5ad file nor a .zarr store.{hint}", param, ctx)
        return [path]


def _flatten(_ctx: click.Context, _parameter: click.Parameter, value: tuple[list[Path], ...]) -> tuple[Path, ...]:
    return tuple(path for paths in value for path in paths)


sections_argument = click.argument(
    "sections", metavar="INPUT...", nargs=-1, required=True, type=SectionPath(), callback=_flatten
)


def is_section(path: Path) -> bool:
    """Return whether a path looks like a file that :func:`read_section` reads."""
    return (path.is_file() and path.suffix.lower() == ".h5ad") or is_zarr(path)


def is_zarr(path: Path) -> bool:
    """Return whether a path is a zarr store."""
    return path.is_dir() and any((path / mark).is_file() for mark in _ZARR_MARKS)


def read_section(path: Path, *, lazy: bool = False) -> Any:
    """Return AnnData, or SpatialData if the store is one; with `lazy`, ``X`` of AnnData stays in the file."""
    import anndata

    try:
        if path.is_file():
            return anndata.read_h5ad(path, backed="r" if lazy else None)
        import zarr

        group = zarr.open_group(path, mode="r")
        kind = group.attrs.get("encoding-type", "no AnnData and no SpatialData")
        if kind == "anndata" and lazy:
            parts = {key: anndata.io.read_elem(group[key]) for key in _SMALL_PARTS if key in group}
            stored: Any = group.get("layers", {})
            layers = {key: _stored(stored[key]) for key in stored}
            return anndata.AnnData(X=_stored(group["X"]) if "X" in group else None, layers=layers, **parts)
        if kind == "anndata":
            return anndata.read_zarr(path)
        # Stores of spatialdata before its version 0.1 have no mark of their own.
        if "spatialdata_attrs" in group.attrs or {"tables", "table"} & set(group):
            import spatialdata

            return spatialdata.read_zarr(path)
    # A library's, of any kind: the file may be cut short, or of a newer version of its format.
    except Exception as error:
        raise ArgumentError(f"{path} cannot be read: {explain(error)}") from error
    raise ArgumentError(f"{path} is a zarr store of {kind}; expected AnnData or SpatialData.")


def _stored(element: Any) -> Any:
    """Return a matrix of a zarr store, which stays there."""
    from anndata.io import sparse_dataset

    return sparse_dataset(element) if str(element.attrs.get("encoding-type", "")).endswith("_matrix") else element


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise unless a file or store may be written, and can be."""
    kind, is_replaceable = ("zarr store", is_zarr) if path.suffix.lower() == ".zarr" else ("file", Path.is_file)
    _check(path, overwrite, "" if is_replaceable(path) else f"is no {kind}")


def check_folder(path: Path, *, contents: tuple[str, ...], overwrite: bool) -> None:
    """Raise unless a folder may be written, and can be; one that holds anything but `contents` is never overwritten."""
    with typed_errors(path):
        others = sorted(item.name for item in path.iterdir() if item.name not in contents) if path.is_dir() else []
    reason = f"holds {', '.join(others[:3])}" if others else "" if path.is_dir() else "is no folder"
    _check(path, overwrite, reason)


def _check(path: Path, overwrite: bool, reason: str) -> None:
    """Raise if a path exists and may not be overwritten, or not at all for a reason, or cannot be written."""
    with typed_errors(path):
        exists = path.exists()
    if exists and not overwrite:
        raise OutputExistsError(f"{path} exists. Choose another path, or pass --overwrite.")
    if exists and reason:
        raise OutputExistsError(f"{path} {reason}: it is not overwritten. Choose another path.")
    try_output(path)


def write_section(data: Any, path: Path, *, table: AnnData, compression: str | None = None) -> None:
    """Write AnnData or SpatialData; of SpatialData, an ``.h5ad`` path takes only its table, which is `table`."""
    import anndata

    from sagefm.data._h5ad import write_h5ad

    # What was read is written: names of pandas 3, which anndata reads and by default does not write.
    with anndata.settings.override(allow_write_nullable_strings=True), replacing(path) as staged:
        try:
            if path.suffix.lower() == ".h5ad":
                write_h5ad(table, staged, compression=compression)
            elif data is table:
                table.write_zarr(staged)
            else:
                data.write(staged)
        except (SagefmError, OSError):
            raise
        # A library's, of any kind: each part of a table may be one that it does not write.
        except Exception as error:
            notes = "".join(f" {note}." for note in getattr(error, "__notes__", ()))
            raise SagefmError(f"{path} cannot be written: {explain(error)}.{notes}") from error


def without_counts(table: AnnData, key: str) -> AnnData:
    """Return a table of lazily read counts without these: its other parts, and the layer `key`."""
    from anndata import AnnData

    parts = {name: dict(getattr(table, name)) for name in ("obsm", "obsp", "varm", "uns")}
    layers = {key: table.layers[key]} if key in table.layers else None
    return AnnData(obs=table.obs, var=table.var, shape=None if layers else table.shape, layers=layers, **parts)
