"""Sections and results as files: read whole, written whole or not at all."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._progress import ProgressBar
from sagefm._replacing import replacing, try_output, typed_errors
from sagefm.cli._run import explain
from sagefm.errors import ArgumentError, OutputExistsError, SagefmError
from sagefm.io._find import find_kind, hest_files, is_zarr, section_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

#: Parts of AnnData that are read though the counts are not.
_SMALL_PARTS = ("obs", "var", "obsm", "obsp", "varm", "uns")


class SectionPath(click.Path):
    """What :func:`sagefm.io.read` takes, or a pattern of several, as a shell without globs hands it on."""

    name = "section"

    def __init__(self) -> None:
        super().__init__(exists=True, readable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the paths, or end with a usage error; a folder of HEST-1k stands for its sections."""
        pattern = Path(str(value))
        if set("*?[") & set(str(value)) and not pattern.exists():
            matches = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
            sections = sorted(path for path in matches if is_section(path))
            if not sections:
                self.fail(f"{str(value)!r} matches no .h5ad file, no .zarr store and no other section.", param, ctx)
            return sections
        path = Path(str(super().convert(value, param, ctx)))
        if find_kind(path) == "HEST":
            return hest_files(path)
        if not is_section(path):
            hint = f" For the sections in a folder: '{path}/*.h5ad', or '{path}/*'." if path.is_dir() else ""
            self.fail(
                f"{str(path)!r} is neither a .h5ad file nor a .zarr store, nor a folder of Space Ranger.{hint}",
                param,
                ctx,
            )
        return [path]


def _flatten(_ctx: click.Context, _parameter: click.Parameter, value: tuple[list[Path], ...]) -> tuple[Path, ...]:
    return tuple(path for paths in value for path in paths)


sections_argument = click.argument(
    "sections", metavar="INPUT...", nargs=-1, required=True, type=SectionPath(), callback=_flatten
)


def is_section(path: Path) -> bool:
    """Return whether a path looks like one section that :func:`read_section` reads."""
    return find_kind(path) not in (None, "HEST")


def read_section(path: Path, *, lazy: bool = False) -> Any:
    """Return what :func:`sagefm.io.read` reads; with `lazy`, ``X`` of AnnData stays in its file or store."""
    from sagefm import io

    if not lazy:
        return io.read(path)
    import anndata

    try:
        if find_kind(path) == "h5ad":
            return anndata.read_h5ad(path, backed="r")
        if is_zarr(path):
            import zarr

            group = zarr.open_group(path, mode="r")
            if group.attrs.get("encoding-type") == "anndata":
                parts = {key: anndata.io.read_elem(group[key]) for key in _SMALL_PARTS if key in group}
                stored: Any = group.get("layers", {})
                layers = {key: _stored(stored[key]) for key in stored}
                return anndata.AnnData(X=_stored(group["X"]) if "X" in group else None, layers=layers, **parts)
    # A library's, of any kind: the file may be cut short, or of a newer version of its format.
    except Exception as error:
        raise ArgumentError(f"{path} cannot be read: {explain(error)}") from error
    return io.read(path)


def _stored(element: Any) -> Any:
    """Return a matrix of a zarr store, which stays there."""
    from anndata.io import sparse_dataset

    return sparse_dataset(element) if str(element.attrs.get("encoding-type", "")).endswith("_matrix") else element


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise unless a file or store may be written, and can be."""
    kind, is_replaceable = ("zarr store", is_zarr) if path.suffix.lower() == ".zarr" else ("file", Path.is_file)
    _check(path, overwrite, "" if is_replaceable(path) else f"is no {kind}")


def check_format(section: Path, output: Path) -> None:
    """Raise unless the results of a section can be written in the format of an output."""
    if (section.suffix.lower() == ".h5mu") == (output.suffix.lower() == ".h5mu") or output.suffix.lower() == ".h5ad":
        return
    expected = ".h5mu, or .h5ad for its modality" if section.suffix.lower() == ".h5mu" else ".h5ad or .zarr"
    raise ArgumentError(f"{output}: the results of {section} are written as {expected}. Choose another path.")


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
    with (
        anndata.settings.override(allow_write_nullable_strings=True),
        ProgressBar(f"writing {path.name}"),
        replacing(path) as staged,
    ):
        try:
            if path.suffix.lower() == ".h5ad":
                write_h5ad(table, staged, compression=compression)
            elif data is table:
                table.write_zarr(staged)
            else:
                # SpatialData to .zarr, MuData to .h5mu.
                data.write(staged)
        except (SagefmError, OSError):
            raise
        # A library's, of any kind: each part of a table may be one that it does not write.
        except Exception as error:
            notes = "".join(f" {note}." for note in getattr(error, "__notes__", ()))
            reason = explain(error).rstrip(".")
            raise SagefmError(f"{path} cannot be written: {reason}.{notes}") from error


def without_counts(table: AnnData, key: str) -> AnnData:
    """Return a table of lazily read counts without these: its other parts, and the layer `key`."""
    from anndata import AnnData

    parts = {name: dict(getattr(table, name)) for name in ("obsm", "obsp", "varm", "uns")}
    layers = {key: table.layers[key]} if key in table.layers else None
    return AnnData(obs=table.obs, var=table.var, shape=None if layers else table.shape, layers=layers, **parts)


@contextmanager
def as_stores(paths: Sequence[Path], *, mod: str | None) -> Iterator[list[Path]]:
    """Yield sections as files that a corpus opens part by part; those of other kinds are written to a scratch folder."""
    from sagefm.data._table import get_table

    with tempfile.TemporaryDirectory(prefix="sagefm-") as scratch:
        stores = []
        for i, path in enumerate(paths):
            if find_kind(path) in ("h5ad", "zarr"):
                stores.append(path)
                continue
            # A folder of its own: where names are the same, a corpus tells sections apart by their folders.
            store = Path(scratch) / str(i) / f"{section_name(path)}.h5ad"
            store.parent.mkdir()
            table = get_table(read_section(path), mod=mod)
            write_section(table, store, table=table)
            stores.append(store)
        yield stores
