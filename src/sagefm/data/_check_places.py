"""Coordinates that are none of spots: placeholders, array indices, bins, many rows at one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from sagefm._constants import N_SPOTS
from sagefm.data._findings import Finding
from sagefm.data._table import ATTRS_KEY, array_positions, get_column, places_in_obs, spatial_libraries
from sagefm.errors import CoordinatesError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from sagefm.data._table import TableKeys

#: Distance of neighboring spots of Visium, and what is taken for such an array (ST: 200), in um.
VISIUM_PITCH, MIN_PITCH, MAX_PITCH = 100.0, 50.0, 250.0
#: Spots of the largest Visium array (11 mm).
MAX_SPOTS = 14_336
#: Columns of the largest square array (Spatial Transcriptomics, interleaved); those of Visium go on to 127 and 223.
_MAX_SQUARE, _MAX_ROW, _MAX_COLUMN = 70, 127, 223
#: Distances from its fifth neighbor, in those of usual neighbors, of a spot that is far from all others; and of one at
#: the origin. A spot of a Visium array is at most 80 from another.
_FAR, _FAR_AT_ORIGIN = 25, 5
_BIN_NAME, _BIN_LIBRARY = re.compile(r"^s_(\d{3})um_\d+_\d+"), re.compile(r"square_(\d{3})um")
#: Width of a DNB of Stereo-seq, of which its bin sizes are multiples, in um.
_DNB = 0.5


def find_odd_places(
    table: AnnData, keys: TableKeys, coordinates: NDArray[np.float64], rows: NDArray[np.int64], name: str, n_spots: int
) -> Iterator[Finding]:
    """Yield findings on the coordinates (n_spots, 2) of the `rows` of a table that one library `name` has."""
    of_library = f" of {name}" if name else ""
    places, sizes = np.unique(coordinates, axis=0, return_counts=True)
    spacing = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1])) if len(places) > 1 else 0.0
    if sizes.max() > n_spots:
        yield _crowded(table, keys, places, sizes, of_library, n_spots)
        return
    n_shared = len(coordinates) - len(places)
    if n_shared:
        is_placeholder = n_shared == sizes.max() - 1 > 1
        place = places[sizes.argmax()].tolist()
        what = (
            f"Does {tuple(place)} stand for no place? Leave them out"
            if is_placeholder
            else "Several rows of one spot? Add them up"
        )
        yield Finding(
            "shared places",
            "warning",
            f"{n_shared} spots{of_library} have the coordinates of another spot; neighbors at the same distance are taken in "
            f"the order of the table. Several sections in one table? Pass library_key=.... {what}",
            _leave_out(keys, place) if is_placeholder else _add_up(places, keys),
        )
    yield from _array_indices(table, keys, coordinates, rows, of_library)
    yield from _far_spots(table, keys, coordinates, rows, spacing, of_library)
    yield from _bins(table, name, rows, spacing)


def _crowded(
    table: AnnData,
    keys: TableKeys,
    places: NDArray[np.float64],
    sizes: NDArray[np.int64],
    of_library: str,
    n_spots: int,
) -> Finding:
    """Return the finding that so many spots are at a place that their neighborhoods would be the order of the table."""
    crowded = sizes > n_spots
    where = places[sizes.argmax()].tolist()
    message = (
        f"{sizes[crowded].sum():,} of {sizes.sum():,} spots{of_library} are at {crowded.sum()} places, {sizes.max():,} of them "
        f"at {tuple(where)}; their {n_spots} nearest spots would be those that come first in the table. "
    )
    if len(places) <= 2:
        where, repair = places_in_obs(table, keys.spatial_key)
        message += f"The coordinates were lost; {where or 'read the section again'}"
        repair = repair or "adata = squidpy.read.visium(path)"
    elif sizes[crowded].sum() < sizes.sum() / 2 and crowded.sum() == 1:
        message += "If that place stands for none, leave these spots out"
        repair = _leave_out(keys, where)
    else:
        message += "Expected one row a spot: if these are cells that were laid on spots, add up those of a place"
        repair = _add_up(places, keys)
    return Finding("crowded places", "error", message, repair, CoordinatesError)


def _leave_out(keys: TableKeys, place: list[float]) -> str:
    return f"adata = adata[(np.asarray(adata.obsm[{keys.spatial_key!r}]) != {place}).any(axis=1)].copy()"


def _add_up(places: NDArray[np.float64], keys: TableKeys) -> str:
    """Return the call that adds up the rows of each place: no tile as wide holds two places."""
    width = 0.5 * float(cKDTree(places).query(places, k=2)[0][:, 1].min()) if len(places) > 1 else 1.0
    given = "" if keys.library_key is None else f", library_key={keys.library_key!r}"
    return f"adata = sagefm.pp.aggregate_bins(adata, width={width:.4g}{given})"


def _array_indices(
    table: AnnData, keys: TableKeys, coordinates: NDArray[np.float64], rows: NDArray[np.int64], of_library: str
) -> Iterator[Finding]:
    """Yield a finding where the hexagonal array of Visium is squeezed: its rows and columns stand for x and y.

    Spots are in columns of the same parity as their row. So are those of interleaved square arrays (at most 70 columns),
    whose positions are coordinates: these are told apart by their extent, or by not being whole numbers of unit 1.
    """
    if {"array_row", "array_col"} <= set(table.obs):
        columns = [get_column(table, key, argument="key") for key in ("array_row", "array_col")]
        if not all(pd.api.types.is_numeric_dtype(column) for column in columns):
            return
        array = np.column_stack([column.to_numpy(dtype=np.float64, na_value=np.nan) for column in columns])[rows]
        if not np.isfinite(array).all():
            return
        order = next((order for order in ([0, 1], [1, 0]) if _is_scaled(coordinates, array[:, order])), None)
        is_same = order is not None and np.array_equal(coordinates, array[:, order])
        if order is None or not (is_same or array[:, 1].max() > _MAX_SQUARE):
            return
        repair = array_positions(table)
    else:
        units = [np.diff(np.unique(axis)).min(initial=np.inf) for axis in coordinates.T]
        array = (coordinates - coordinates.min(axis=0)) / units[0]
        extent = np.ptp(array, axis=0)
        is_array = units[0] == units[1] and np.allclose(array, np.rint(array), atol=1e-6)
        if not is_array or min(extent) > _MAX_ROW or max(extent) > _MAX_COLUMN:
            return
        if units[0] != 1 and max(extent) <= _MAX_SQUARE:
            return
        array = np.rint(array)
        # Of both, the rows are fewer; they are 3^0.5 times as far apart as columns.
        factors = "[3**0.5, 1.0]" if extent[0] <= extent[1] else "[1.0, 3**0.5]"
        repair = f"adata.obsm[{keys.spatial_key!r}] * {factors}"
    if len(np.unique(array.sum(axis=1) % 2)) == 1 and len(array) >= N_SPOTS:
        yield Finding(
            "array indices",
            "warning",
            f"adata.obsm[{keys.spatial_key!r}] holds rows and columns of the array{of_library}, not coordinates: rows of a "
            f"hexagonal array are 3^0.5 times as far apart as columns, and a quarter of the neighbors would be others. "
            f"Bring them to scale",
            f"adata.obsm[{keys.spatial_key!r}] = {repair}",
        )


def _is_scaled(coordinates: NDArray[np.float64], array: NDArray[np.float64]) -> bool:
    """Tell whether coordinates are array positions moved, turned by 180 degrees or mirrored, and scaled alike."""
    ranges = np.ptp(coordinates, axis=0), np.ptp(array, axis=0)
    if not ranges[0].all() or not ranges[1].all():
        return False
    scale = ranges[0] / ranges[1]
    shape = (coordinates - coordinates.mean(axis=0)) / scale
    centered = array - array.mean(axis=0)
    signs = np.sign((shape * centered).sum(axis=0))
    return bool(np.isclose(scale[0], scale[1], rtol=1e-3) and np.allclose(shape * signs, centered, atol=0.1))


def _far_spots(
    table: AnnData,
    keys: TableKeys,
    coordinates: NDArray[np.float64],
    rows: NDArray[np.int64],
    spacing: float,
    of_library: str,
) -> Iterator[Finding]:
    """Yield a finding where few spots are far from all others."""
    if len(coordinates) < 2 * N_SPOTS or not spacing:
        return
    distance = cKDTree(coordinates).query(coordinates, k=6)[0][:, 5] / spacing
    at_origin = (np.abs(coordinates) <= 1).all(axis=1)
    far = (distance > _FAR) | (at_origin & (distance > _FAR_AT_ORIGIN))
    if 0 < far.sum() <= max(1, 0.01 * len(far)):
        names = [str(name) for name in table.obs_names[rows[far]]]
        yield Finding(
            "far spots",
            "warning",
            f"{far.sum()} spots{of_library} are {distance[far].min():,.0f} times as far from others as is usual, e.g. "
            f"{names[0]!r} at {tuple(coordinates[far][0].tolist())}: a placeholder? Their neighborhoods are of spots that are "
            f"not near. Leave them out",
            f"adata = adata[~adata.obs_names.isin({names})].copy()",
        )


def _bins(table: AnnData, name: str, rows: NDArray[np.int64], pitch: float) -> Iterator[Finding]:
    """Yield a finding where the spots of a library are far closer together, or farther apart, than those of Visium."""
    width, what = bin_width(table, name, rows, pitch)
    if width is not None and MIN_PITCH <= width <= MAX_PITCH:
        return
    n_spots = len(rows)
    if width is None and n_spots > MAX_SPOTS:
        what = f"{n_spots:,} spots, where a Visium section has at most {MAX_SPOTS:,}; if bins are 8 um wide"
        width = 8.0
    if width:
        yield Finding(
            "bins",
            "warning",
            f"Found {what}{f' in {name}' if name else ''}; the neighborhood of {N_SPOTS} spots stands for spots 100 um "
            f"apart (Visium). Add small bins up, to the width of 100 um in the unit of the coordinates",
            f"adata = sagefm.pp.aggregate_bins(adata, width={pitch * VISIUM_PITCH / width:.4g})",
        )


def bin_width(table: AnnData, name: str, rows: NDArray[np.int64], pitch: float) -> tuple[float | None, str]:
    """Return how far spots are apart in um, from what a table says of its bins, and what it says; None, if nothing."""
    libraries = spatial_libraries(table)
    library: Mapping[str, Any] = libraries.get(name) or (next(iter(libraries.values())) if len(libraries) == 1 else {})
    scale = library.get("scalefactors")
    scale = scale if isinstance(scale, Mapping) else {}
    if is_positive(scale.get("microns_per_pixel")):
        width = pitch * float(scale["microns_per_pixel"])
        return width, f"spots are {width:.3g} um apart"
    if is_positive(scale.get("bin_size_um")):
        return float(scale["bin_size_um"]), f"bins of {float(scale['bin_size_um']):.3g} um"
    names = pd.Series(table.obs_names[rows].astype(str))
    sizes = names.str.extract(_BIN_NAME, expand=False)
    if sizes.notna().mean() > 0.9:
        width = float(sizes.dropna().iloc[0])
        return width, f"bins of {width:.3g} um, by their names"
    attrs = table.uns.get(ATTRS_KEY)
    regions = [*map(str, libraries), name, str(attrs.get("region")) if isinstance(attrs, Mapping) else ""]
    if "region" in table.obs:
        regions += get_column(table, "region", argument="key").astype(str).unique().tolist()
    matches = [match for text in regions if (match := _BIN_LIBRARY.search(text))]
    if matches:
        width = float(matches[0].group(1))
        return width, f"bins of {width:.3g} um, by the name {matches[0].string!r}"
    spatial = table.uns.get("spatial")
    stereo = [table.uns, spatial if isinstance(spatial, Mapping) else {}]
    sizes_of = [uns[key] for uns in stereo for key in ("bin_size", "binsize") if is_positive(uns.get(key))]
    if sizes_of:
        width = float(sizes_of[0]) * _DNB
        return width, f"bins of {float(sizes_of[0]):g} DNB of Stereo-seq ({width:g} um)"
    if "cell_area" in table.obs and "nucleus_area" in table.obs:
        return pitch, "cells of Xenium"
    return None, ""


def is_positive(value: object) -> bool:
    """Tell whether a value is a positive number."""
    return isinstance(value, int | float | np.integer | np.floating) and bool(0 < value < np.inf)
