"""Results of Space Ranger 1 to 4, whole or in part, and of Visium HD, whose bins are summed to the width of spots."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sagefm._constants import SPATIAL_KEY
from sagefm.errors import ArgumentError
from sagefm.io._find import bin_um, find_bins, find_matrix, find_outs, section_name
from sagefm.pp._bins import aggregate_bins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

#: Width of the tiles that bins of Visium HD are summed over, in um: near the 100 um that spots of Visium are apart, and
#: a whole number of bins of 2, 8 and 16 um.
TILE_UM = 96
#: Names of the list of positions, of Space Ranger 2 and later, 1, and HD.
_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")
_COLUMNS = ["in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
_SCALE_FACTORS = "scalefactors_json.json"
_RESOLUTIONS = ("hires", "lowres")


def read_visium(path: Path) -> AnnData:
    """Return a section of Visium (n_spots, n_genes) in the layout of :func:`squidpy.read.visium`.

    That reader wants counts in HDF5 and both images; here mtx will do, images come along where there are any, spots
    beside the tissue are left out, and genes of one symbol are told apart.
    """
    outs = find_outs(path) or path
    return _read_folder(outs, section_name(path), [outs / "spatial", outs])


def read_visium_hd(path: Path) -> AnnData:
    """Return a section of Visium HD (n_tiles, n_genes), the widest bins summed over tiles of 96 um."""
    outs = find_outs(path) or path
    folder = find_bins(outs)[0]
    bins = _read_folder(folder, section_name(path), [folder / "spatial", outs / "spatial"])
    # Tiles of whole bins: in pixels, bins at an edge would fall to either side.
    bins.obsm["array"] = bins.obs[["array_col", "array_row"]].to_numpy(dtype=float)
    n_bins = max(TILE_UM // bin_um(folder), 1)
    tiles = aggregate_bins(bins, width=n_bins, spatial_key="array", progress=False)
    to_pixels = np.linalg.lstsq(_with_ones(bins.obsm["array"]), bins.obsm[SPATIAL_KEY], rcond=None)[0]
    array = tiles.obsm.pop("array")
    tiles.obsm[SPATIAL_KEY] = _with_ones(array) @ to_pixels
    for library in tiles.uns["spatial"].values():
        scale = library["scalefactors"]
        if "spot_diameter_fullres" in scale:
            scale["spot_diameter_fullres"] = n_bins * float(_scale_factors(folder / "spatial")["spot_diameter_fullres"])
    return tiles


def _with_ones(array: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([array, np.ones(len(array))])


def _read_folder(folder: Path, name: str, places: list[Path]) -> AnnData:
    """Return counts and positions of a folder; `places` are where its positions, scale factors and images may be."""
    matrix = find_matrix(folder)
    if matrix is None:
        raise ArgumentError(f"{folder} holds no counts of Space Ranger. Expected filtered_feature_bc_matrix.h5 in it.")
    positions = _read_positions(places)
    adata = _read_counts(matrix)
    known = adata.obs_names.isin(positions.index)
    if not known.all():
        raise ArgumentError(
            f"{int((~known).sum()):,} of {adata.n_obs:,} spots of {matrix} have no position, first "
            f"{adata.obs_names[~known][0]!r}; the list has e.g. {positions.index[0]!r}. Expected counts and positions of "
            f"one section: copy {folder.name}/spatial from the same run of Space Ranger."
        )
    rows = positions.loc[adata.obs_names]
    adata.obs[_COLUMNS[:3]] = rows[_COLUMNS[:3]].to_numpy(dtype=int)
    adata.obsm[SPATIAL_KEY] = rows[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    inside = adata.obs["in_tissue"].to_numpy() == 1
    if not inside.any():
        raise ArgumentError(f"All {adata.n_obs:,} spots of {matrix} are outside the tissue, by the list of positions.")
    if not inside.all():
        adata = adata[inside].copy()
    adata.uns["spatial"] = {name: _library(places)}
    return adata


def _read_counts(matrix: Path) -> AnnData:
    """Return the counts of genes, by symbol; repeated symbols get a number."""
    import scanpy as sc

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Variable names are not unique")
            if matrix.is_dir():
                (file,) = matrix.glob("*matrix.mtx*")
                prefix = file.name.partition("matrix.mtx")[0]
                adata = sc.read_10x_mtx(matrix, prefix=prefix or None, make_unique=False)
            else:
                adata = sc.read_10x_h5(matrix)
    except Exception as error:
        raise ArgumentError(
            f"{matrix} cannot be read as counts of 10x: {error}. Copy or download the file again; a part may be missing."
        ) from error
    adata.var_names_make_unique()
    return adata


def _read_positions(places: list[Path]) -> pd.DataFrame:
    """Return the list of positions by barcode: in CSV with or without a header, or parquet."""
    file = _find(places, *(name for position in _POSITIONS for name in (position, f"{position}.gz")))
    if file is None:
        parts = sorted(path.name for place in places if place.is_dir() for path in place.iterdir())[:6]
        raise ArgumentError(
            f"Found no positions of spots in {places[0]}, which has {parts or 'no files'}; expected one of "
            f"{', '.join(_POSITIONS)}. Copy the folder 'spatial' of Space Ranger beside the counts."
        )
    with _reading(file):
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
            table = table.set_index("barcode") if "barcode" in table else table
        else:
            # Space Ranger 1 has no header.
            table = pd.read_csv(file, header=None, index_col=0, dtype=str)
            if "in_tissue" in set(table.iloc[0]):
                table = table.iloc[1:].set_axis(table.iloc[0], axis=1)
            elif table.shape[1] == len(_COLUMNS):
                table.columns = _COLUMNS
        missing = sorted(set(_COLUMNS) - set(table.columns))
        if missing:
            raise ArgumentError(f"{file} lacks the columns {missing}; found {list(map(str, table.columns))}.")
        if table.index.has_duplicates:
            raise ArgumentError(
                f"{file} lists {table.index[table.index.duplicated()][0]!r} twice; expected a row a spot."
            )
        return table[_COLUMNS].apply(pd.to_numeric)


def _library(places: list[Path]) -> dict[str, Any]:
    """Return images and scale factors in the layout of squidpy, those that there are."""
    from PIL import Image

    library: dict[str, Any] = {"images": {}, "metadata": {}}
    library["scalefactors"] = next((scale for place in places if (scale := _scale_factors(place))), {})
    for resolution in _RESOLUTIONS:
        file = _find(places, *(f"tissue_{resolution}_image.{suffix}" for suffix in ("png", "jpg")))
        if file is not None and f"tissue_{resolution}_scalef" in library["scalefactors"]:
            with _reading(file), Image.open(file) as image:
                library["images"][resolution] = np.asarray(image.convert("RGB"))
    return library


def _scale_factors(place: Path) -> dict[str, float]:
    file = _find([place], _SCALE_FACTORS)
    if file is None:
        return {}
    with _reading(file):
        return dict(json.loads(file.read_text()))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Say which file an error of another library is about."""
    try:
        yield
    except ArgumentError:
        raise
    # Of any kind: the file may be cut short, or another one.
    except Exception as error:
        raise ArgumentError(
            f"{file} cannot be read: {type(error).__name__}: {error}. Copy or download it again."
        ) from error


def _find(places: list[Path], *names: str) -> Path | None:
    """Return the first file of one of `names`, which may have a prefix, in the first of `places` that has one."""
    for place in places:
        for name in names:
            matches = sorted(place.glob(f"*{name}"))
            if matches:
                return matches[0]
    return None
