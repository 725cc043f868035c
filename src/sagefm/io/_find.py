"""What a path holds, told by names of files; of a table, by its first names. Nothing slow is imported."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Literal

Kind = Literal["h5ad", "h5mu", "zarr", "Space Ranger", "Visium HD", "ST table", "HEST"]

#: Files that mark a zarr store, of formats 3 and 2.
_ZARR_MARKS = ("zarr.json", ".zgroup")
#: Counts of spots on the tissue; and of all spots, for folders that hold no others.
MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
#: Folder of Visium HD with a folder for each width of bins.
BINNED, BINS = "binned_outputs", "square_*um"
#: Suffixes of tables of counts, and their separators.
SEPARATORS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
#: Name of a spot of Spatial Transcriptomics: column and row of the array, or a place between them.
PLACE = r"(-?\d+(?:\.\d+)?)x(-?\d+(?:\.\d+)?)"


def find_kind(path: Path) -> Kind | None:
    """Return what :func:`sagefm.io.read` takes a path for, or None."""
    if path.is_file():
        return _kind_of_file(path)
    if not path.is_dir():
        return None
    if is_zarr(path):
        return "zarr"
    outs = find_outs(path)
    if outs is not None:
        return "Visium HD" if find_bins(outs) else "Space Ranger"
    return "HEST" if hest_files(path) else None


def is_zarr(path: Path) -> bool:
    """Return whether a path is a zarr store."""
    return path.is_dir() and any((path / mark).is_file() for mark in _ZARR_MARKS)


def find_outs(path: Path) -> Path | None:
    """Return the folder of Space Ranger's results: `path`, or ``outs`` in it."""
    for folder in (path, path / "outs"):
        if folder.is_dir() and (find_matrix(folder) is not None or find_bins(folder)):
            return folder
    return None


def find_matrix(folder: Path) -> Path | None:
    """Return the counts in a folder: HDF5 or a folder of mtx, in downloads with a prefix."""
    for matrix in MATRICES:
        for pattern in (f"*{matrix}.h5", f"*{matrix}/*matrix.mtx*"):
            matches = sorted(path for path in folder.glob(pattern) if path.is_file())
            if matches:
                return matches[0] if pattern.endswith(".h5") else matches[0].parent
    return None


def find_bins(folder: Path) -> list[Path]:
    """Return the folders of bins of Visium HD with counts, the widest bins first; `folder` may be one of them."""
    if re.fullmatch(r"square_\d+um", folder.name) and find_matrix(folder) is not None:
        return [folder]
    bins = [*folder.glob(f"{BINNED}/{BINS}"), *folder.glob(BINS)]
    return sorted((path for path in bins if find_matrix(path) is not None), key=bin_um, reverse=True)


def bin_um(folder: Path) -> int:
    """Return how wide the bins of a folder are, in um, by its name."""
    return int(folder.name.removeprefix("square_").removesuffix("um"))


def hest_files(folder: Path) -> list[Path]:
    """Return the sections of a folder of HEST-1k."""
    return sorted((folder / "st").glob("*.h5ad"))


def section_name(path: Path) -> str:
    """Return the name of a section: of its file, or of the folder that Space Ranger's results are in."""
    path = path.resolve()
    if path.is_dir() and not is_zarr(path):
        parts = [part for part in path.parts if part not in ("outs", BINNED) and not part.startswith("square_")]
        return parts[-1]
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.stem


def split_table(path: Path) -> tuple[str, str]:
    """Return the separator of a table of counts and its text opened as ``"gzip"`` or ``"plain"``; "" if it is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = "gzip" if suffixes[-1:] == [".gz"] else "plain"
    suffix = suffixes[0] if compression == "gzip" else suffixes[-1] if suffixes else ""
    return SEPARATORS.get(suffix, ""), compression


def _kind_of_file(path: Path) -> Kind | None:
    suffix = path.suffix.lower()
    if suffix == ".h5ad":
        return "h5ad"
    if suffix == ".h5mu":
        return "h5mu"
    return "ST table" if _names_places(path) else None


def _names_places(path: Path) -> bool:
    """Tell whether the rows or the columns of a table are named by places, such as 10x13."""
    separator, compression = split_table(path)
    if not separator:
        return False
    try:
        with gzip.open(path, "rt") if compression == "gzip" else path.open() as file:
            header, first = file.readline(), file.readline()
    except (OSError, UnicodeDecodeError):
        return False
    names = [first.split(separator)[0], header.rstrip("\n").split(separator)[-1]]
    return any(re.fullmatch(PLACE, name.strip().strip('"')) for name in names)
