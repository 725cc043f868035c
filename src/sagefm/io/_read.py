"""``sagefm.io.read``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagefm._arguments import as_path
from sagefm._progress import ProgressBar
from sagefm.data._blocks import check_parts
from sagefm.errors import ArgumentError, CountsError
from sagefm.io._find import MATRICES, find_kind, hest_files, section_name

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from sagefm.io._find import Kind

#: What is taken, for messages.
_EXPECTED = (
    "a folder of Space Ranger (with filtered_feature_bc_matrix.h5 and spatial/, or binned_outputs/), .h5ad, .h5mu, .zarr, "
    "or a table (.tsv, .csv) whose spots are named like '10x13'"
)


def read(path: str | os.PathLike[str], *, progress: bool = True) -> Any:
    r"""Return a section as people have it: a folder of Space Ranger, a file or store, or a table of counts.

    Parameters
    ----------
    path
        - A folder of Space Ranger 1 to 4, with or without ``outs``: counts as HDF5 or mtx, the list of positions, and
          scale factors and images where there are any. Spots that are not on tissue are left out.
        - Visium HD (``outs`` with ``binned_outputs``, or a folder ``square_*um``): the widest bins are summed over tiles
          of 96 um, see :func:`sagefm.pp.aggregate_bins`.
        - AnnData as ``.h5ad`` or ``.zarr``, SpatialData as ``.zarr``, MuData as ``.h5mu``.
        - A table of counts of legacy Spatial Transcriptomics (``.tsv``, ``.csv``, ``.txt``, also ``.gz``) whose rows, or
          columns, are named by places on the array, such as ``10x13``. Coordinates are nominal: 200 um apart.
    progress
        As in :func:`sagefm.tl.embed`.

    Returns
    -------
    AnnData, SpatialData or MuData, in memory (images of SpatialData stay in the store). Of Space Ranger, AnnData in the
    layout of squidpy: raw counts in ``X``, Ensembl ids in ``var["gene_ids"]``, full-resolution pixels in
    ``obsm["spatial"]``, images and scale factors in ``uns["spatial"]`` under the name of the folder. Repeated gene
    symbols get a number.

    Raises
    ------
    sagefm.errors.SagefmError
        The path does not exist, is of another kind, holds several sections, or a part of it is missing or damaged.

    Examples
    --------
    >>> import sagefm
    >>> sagefm.datasets.synovium().write_h5ad("synovium.h5ad")
    >>> sagefm.io.read("synovium.h5ad").shape
    (302, 15005)

    A table as it was deposited, with a row for each spot:

    >>> adata = sagefm.datasets.synovium()
    >>> adata.obs_names = adata.obs["array_col"].astype(str) + "x" + adata.obs["array_row"].astype(str)
    >>> adata.to_df().to_csv("RA1.tsv.gz", sep="\t")
    >>> sagefm.io.read("RA1.tsv.gz").obsm["spatial"].shape
    (302, 2)
    """
    path = as_path(path, name="path").expanduser()
    if not path.exists():
        raise ArgumentError(f"{path} does not exist. Expected {_EXPECTED}.")
    kind = find_kind(path)
    if kind is None or kind == "HEST":
        raise ArgumentError(f"{path} {_what_it_is(path)}. Expected {_EXPECTED}.")
    with ProgressBar(f"reading {section_name(path)}", progress=progress):
        return _read_kind(path, kind)


def _read_kind(path: Path, kind: Kind) -> Any:
    if kind == "Space Ranger":
        from sagefm.io._space_ranger import read_visium

        return read_visium(path)
    if kind == "Visium HD":
        from sagefm.io._space_ranger import read_visium_hd

        return read_visium_hd(path)
    if kind == "ST table":
        from sagefm.io._table import read_st

        return read_st(path)
    return _whole(_read_store(path, kind), path)


def _read_store(path: Path, kind: str) -> Any:
    """Return AnnData, MuData or SpatialData, as the store itself says."""
    import anndata

    try:
        if kind == "h5ad":
            return anndata.read_h5ad(path)
        if kind == "h5mu":
            import mudata

            return mudata.read_h5mu(path)
        import zarr

        group = zarr.open_group(path, mode="r")
        encoding = group.attrs.get("encoding-type", "no AnnData and no SpatialData")
        if encoding == "anndata":
            return anndata.read_zarr(path)
        # Stores of spatialdata before its version 0.1 have no mark of their own.
        if "spatialdata_attrs" in group.attrs or {"tables", "table"} & set(group):
            import spatialdata

            return spatialdata.read_zarr(path)
    # A library's, of any kind: the file may be cut short, or of a newer version of its format.
    except Exception as error:
        raise ArgumentError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    raise ArgumentError(f"{path} is a zarr store of {encoding}; expected AnnData or SpatialData.")


def _whole(data: Any, path: Path) -> Any:
    """Return AnnData, MuData or SpatialData; raise where counts are not whole, which their readers do not look at."""
    tables = getattr(data, "mod", None) or getattr(data, "tables", None) or {"": data}
    for table in tables.values():
        for matrix in (table.X, *table.layers.values()):
            try:
                check_parts(matrix)
            except CountsError as error:
                raise ArgumentError(f"{path} cannot be used. {error}") from error
    return data


def _what_it_is(path: Path) -> str:
    """Return what a path is that holds no section by itself, with what to pass instead, if that can be told."""
    if path.is_file():
        if any(path.name.endswith(f"{matrix}.h5") for matrix in MATRICES):
            return f"holds counts without positions. Pass the folder that it is in, {str(path.parent)!r}"
        return "is no section that sagefm reads"
    if not path.is_dir():
        return "is neither a file nor a folder"
    if path.name == "spatial" or path.name in MATRICES:
        return f"is only a part of Space Ranger's results. Pass the folder that it is in, {str(path.parent)!r}"
    if files := hest_files(path):
        return (
            f"holds {len(files)} sections of HEST-1k. Read one, sagefm.io.read({str(files[0])!r}), or all, "
            f"sagefm.datasets.hest({str(path)!r})"
        )
    inside = sorted(part for part in path.iterdir() if find_kind(part) is not None)
    if inside:
        return f"holds {len(inside)} sections. Read them one by one: sagefm.io.read({str(inside[0])!r})"
    parts = sorted(part.name for part in path.iterdir())
    return f"holds {', '.join(parts[:5]) + (', ...' if len(parts) > 5 else '') if parts else 'nothing'}"
