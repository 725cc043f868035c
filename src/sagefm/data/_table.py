"""AnnData, SpatialData or MuData to the table that is worked on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sagefm._arguments import key_name, shown
from sagefm._constants import NEIGHBORS_KEY, SPATIAL_KEY
from sagefm.errors import ArgumentError, CoordinatesError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

#: Where a table of SpatialData says which elements it annotates.
ATTRS_KEY = "spatialdata_attrs"
#: Columns of ``obs`` with the place of a spot, x and y: full-resolution pixels, or other units.
_PLACE_COLUMNS = (
    ("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow"), ("x_centroid", "y_centroid"), ("x", "y"),
)  # fmt: skip
#: Extents of a section between which squares of distances have a value.
_EXTENTS = (1e-100, 1e100)


@dataclass(frozen=True)
class TableKeys:
    """Where a table holds counts, genes, coordinates, libraries and graph; see :func:`sagefm.tl.embed`."""

    layer: str | None = None
    gene_key: str | None = None
    spatial_key: str = SPATIAL_KEY
    library_key: str | None = None
    neighbors_key: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name == "spatial_key":
                key_name(value, name=field.name)


@dataclass(frozen=True)
class Spots:
    """Coordinates of spots (n_spots, 2) in the unit of the table, the code of each spot's library, and their names."""

    coordinates: NDArray[np.float64]
    libraries: NDArray[np.int64]
    names: list[str]


def get_table(data: Any, *, table_key: str | None = None, mod: str | None = None) -> AnnData:
    """Return the table of SpatialData (`table_key`) or MuData (`mod`), or AnnData itself; it is not copied."""
    # The classes are told apart by name: importing spatialdata takes seconds, and whoever
    # holds such an object has imported it already.
    kind = _kind(data)
    if kind == "SpatialData":
        table = pick(data.tables, table_key, what="table", argument="table_key")
    elif kind == "MuData":
        table = pick(data.mod, mod, what="modality", argument="mod")
    elif kind == "AnnData":
        table = data
    else:
        raise ArgumentError(f"Found an object of type {type(data).__name__}; expected AnnData, SpatialData or MuData.")
    if table.is_view and table.isbacked:
        raise ArgumentError(
            "Found a view of a table whose counts are in a file: results cannot be written to it. Pass the whole table, "
            "or take the part to memory: adata = adata[...].to_memory()"
        )
    if table.n_obs == 0 or table.n_vars == 0:
        raise ArgumentError(
            f"Found a table of {table.n_obs} spots x {table.n_vars} genes; expected at least one of each."
        )
    return table


def copy_data(data: Any) -> Any:
    """Return a copy of AnnData, SpatialData or MuData, in memory."""
    kind = _kind(data)
    if kind == "SpatialData":
        from spatialdata import deepcopy

        return deepcopy(data)
    if kind == "AnnData" and data.isbacked:
        return data.to_memory()
    return data.copy()


def get_column(table: AnnData, key: str, *, argument: str, name: str = "adata") -> pd.Series:
    """Return a column of ``obs``, or an error that lists the columns there are; it calls the table `name`."""
    if key_name(key, name=argument) not in table.obs:
        raise MissingKeyError(f"{argument}={key!r} is not a column of {name}.obs; found {_names(table.obs.columns)}.")
    if list(table.obs.columns).count(key) > 1:
        repair = f"{name}.obs = {name}.obs.loc[:, ~{name}.obs.columns.duplicated()].copy()"
        raise ArgumentError(
            f"{argument}={key!r}: {name}.obs has several columns of this name. Keep the first: {repair}"
        )
    if isinstance(table.obs, pd.DataFrame):
        # By position: `obs[key]` is kept by pandas 2, which then warns of the user's own assignments.
        return table.obs.iloc[:, table.obs.columns.get_loc(key)]
    # Of a table that is read lazily, a column is an xarray.
    return pd.Series(np.asarray(table.obs[key]), index=table.obs_names)


def get_coordinates(table: AnnData, spatial_key: str = SPATIAL_KEY) -> NDArray[np.float64]:
    """Return the coordinates that are stored in a table, float64 (n_spots, 2)."""
    if spatial_key not in table.obsm:
        raise MissingKeyError(
            f"spatial_key={spatial_key!r} is not in adata.obsm; found {_names(table.obsm.keys())}. "
            f"Expected coordinates (n_spots, 2): read the section with squidpy.read.visium(...), "
            f"or set adata.obsm[{spatial_key!r}].{_else(table, spatial_key)}"
        )
    try:
        if np.iscomplexobj(table.obsm[spatial_key]):
            raise TypeError("found complex numbers")
        coordinates = np.asarray(table.obsm[spatial_key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CoordinatesError(f"adata.obsm[{spatial_key!r}] is not numeric: {error}.") from error
    if coordinates.ndim != 2 or coordinates.shape[1] != 2:
        raise CoordinatesError(
            f"adata.obsm[{spatial_key!r}] has shape {coordinates.shape}; expected (n_spots, 2). "
            f"For sections stacked along z, give the first two columns and library_key."
        )
    finite = np.asarray(np.isfinite(coordinates).all(axis=1))
    if not finite.any():
        raise CoordinatesError(
            f"adata.obsm[{spatial_key!r}] holds NaN or infinite values at all {len(finite)} spots: the coordinates were lost."
            f"{_else(table, spatial_key) or ' Read the section again: adata = squidpy.read.visium(path)'}"
        )
    if not finite.all():
        raise CoordinatesError(
            f"adata.obsm[{spatial_key!r}] holds NaN or infinite values at {int((~finite).sum())} of {len(finite)} spots, "
            f"first at {table.obs_names[int(np.argmin(finite))]!r}. "
            f"Leave these spots out: adata = adata[np.isfinite(np.asarray(adata.obsm[{spatial_key!r}], float)).all(axis=1)].copy()"
        )
    with np.errstate(over="ignore"):
        extent = float(np.ptp(coordinates, axis=0).max())
    if extent and not _EXTENTS[0] < extent < _EXTENTS[1]:
        raise CoordinatesError(
            f"adata.obsm[{spatial_key!r}] spans {extent:.3g}, which is no distance on a slide.{_else(table, spatial_key)}"
        )
    return coordinates


def places_in_obs(table: AnnData, spatial_key: str) -> tuple[str, str]:
    """Return where else a table holds the places of its spots, in words, and the call that takes them; or nothing."""
    columns = next((pair for pair in _PLACE_COLUMNS if set(pair) <= set(table.obs)), None)
    if columns is not None:
        repair = f"adata.obs[{list(columns)}].to_numpy()"
    elif {"array_row", "array_col"} <= set(table.obs):
        repair = array_positions(table)
    else:
        return "", ""
    what = "the positions on the array give them, in units of it" if columns is None else "the table has others"
    return what, f"adata.obsm[{spatial_key!r}] = {repair}"


def array_positions(table: AnnData) -> str:
    """Return array positions as coordinates, of a hexagonal array where rows and columns are of the same parity."""
    columns = [get_column(table, key, argument="key") for key in ("array_row", "array_col")]
    array = np.column_stack(
        [pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan) for column in columns]
    )
    array = array[np.isfinite(array).all(axis=1)]
    is_hexagonal = len(np.unique(array.sum(axis=1) % 2)) == 1
    positions = "adata.obs[['array_col', 'array_row']].to_numpy(dtype=float)"
    return f"{positions} * [1.0, 3**0.5]" if is_hexagonal else positions


def _else(table: AnnData, spatial_key: str) -> str:
    """Return a sentence on where else the places are, if anywhere."""
    what, repair = places_in_obs(table, spatial_key)
    return f" {what[0].upper()}{what[1:]}: {repair}" if repair else ""


def find_coordinates(data: Any, table: AnnData, spatial_key: str = SPATIAL_KEY) -> NDArray[np.float64]:
    """Return spot coordinates (n_spots, 2): those of the table, or the centroids of a SpatialData's spots.

    Where the table has no ``obsm[spatial_key]``, a key that names a coordinate system of the SpatialData object gives
    the centroids there, and the default key those in ``"global"`` (of shapes outside it, in their first system).
    """
    has_shapes = _kind(data) == "SpatialData" and ATTRS_KEY in table.uns
    if has_shapes and spatial_key not in table.obsm and spatial_key in (SPATIAL_KEY, *data.coordinate_systems):
        return _centroids(data, table, spatial_key)
    return get_coordinates(table, spatial_key)


def find_spots(data: Any, table: AnnData, keys: TableKeys) -> Spots:
    """Return coordinates and libraries of the spots of a table, to which nothing is written."""
    coordinates = find_coordinates(data, table, keys.spatial_key)
    return Spots(coordinates, *get_libraries(table, keys.library_key))


@contextmanager
def coordinates_in_table(data: Any, table: AnnData, spatial_key: str = SPATIAL_KEY) -> Iterator[None]:
    """Write coordinates that were found in shapes to the table, for scvi-tools; taken back if the block raises."""
    coordinates = find_coordinates(data, table, spatial_key)
    with untouched_on_error(table):
        table.obsm.setdefault(spatial_key, coordinates)
        yield


@contextmanager
def untouched_on_error(table: AnnData) -> Iterator[None]:
    """Take back the graph and whatever was added to ``obsm``, ``obsp`` and ``uns`` if the block raises."""
    before = {}
    for name in ("obsm", "obsp", "uns"):
        entries = getattr(table, name)
        # A key of `uns` may be anything that has a hash.
        graph = {key: entries[key] for key in entries if str(key).startswith(NEIGHBORS_KEY)}
        before[name] = (set(entries), graph)
    try:
        yield
    except BaseException:
        # A view has not been written to: that would have made it a table of its own.
        for name, (keys, graph) in before.items() if not table.is_view else ():
            entries = getattr(table, name)
            for key in set(entries) - keys:
                del entries[key]
            for key, value in graph.items():
                entries[key] = value
        raise


def get_embedding(table: AnnData, use_rep: str, *, name: str = "adata") -> NDArray[np.float64]:
    """Return an embedding, float64 (n_spots, n_latent); messages call the table `name`."""
    repair = f"sagefm.tl.embed({name}, model, key_added={use_rep!r})"
    if key_name(use_rep, name="use_rep") not in table.obsm:
        raise MissingKeyError(
            f"use_rep={use_rep!r} is not in {name}.obsm; found {_names(table.obsm.keys())}. Call {repair}"
        )
    try:
        embedding = np.asarray(table.obsm[use_rep], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}.obsm[{use_rep!r}] is not numeric: {error}. Call {repair}") from error
    if embedding.ndim != 2 or embedding.shape[1] == 0:
        raise ArgumentError(
            f"{name}.obsm[{use_rep!r}] has shape {embedding.shape}; expected (n_spots, n_latent). Call {repair}"
        )
    # Of float32, as embeddings are stored.
    wrong = int((~(np.abs(embedding) <= np.finfo(np.float32).max).all(axis=1)).sum())
    if wrong:
        raise ArgumentError(
            f"{name}.obsm[{use_rep!r}] holds NaN or infinite values at {wrong} of {len(embedding)} spots. Call {repair}"
        )
    return embedding


def library_column(table: AnnData, library_key: str | None) -> str | None:
    """Return the column of ``obs`` that names libraries. Default: that of the regions, if a table annotates several."""
    region_key = entry(table, ATTRS_KEY).get("region_key")
    if library_key is None and isinstance(region_key, str) and region_key in table.obs:
        regions = get_column(table, region_key, argument="region_key")
        return str(region_key) if regions.nunique() > 1 else None
    return None if library_key is None else key_name(library_key, name="library_key")


def get_libraries(
    table: AnnData, library_key: str | None, *, argument: str = "library_key", name: str = "adata"
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the library of each spot as a code (n_spots,), and the libraries' names; messages call the table `name`.

    Without `library_key`, the regions that a table of SpatialData annotates are its libraries.
    """
    library_key = library_column(table, library_key)
    if library_key is None:
        return np.zeros(table.n_obs, dtype=np.int64), [""]
    column = get_column(table, library_key, argument=argument, name=name)
    try:
        codes, names = pd.factorize(column, sort=True)
    except TypeError as error:  # lists, say
        raise CoordinatesError(
            f"{name}.obs[{library_key!r}] holds {shown(column.iloc[0])}; expected the names of sections: "
            f"{name}.obs[{library_key!r}] = {name}.obs[{library_key!r}].astype(str)"
        ) from error
    missing = int((codes < 0).sum())
    if missing:
        raise CoordinatesError(
            f"{name}.obs[{library_key!r}] has no value for {missing} of {table.n_obs} spots. Fill it in, "
            f"or leave these spots out: {name} = {name}[{name}.obs[{library_key!r}].notna()].copy()"
        )
    return codes.astype(np.int64), [str(library) for library in names]


def entry(table: Any, *keys: str) -> Mapping[str, Any]:
    """Return a dictionary in ``uns``; an empty one if it is not there, or if another program keeps other things there."""
    found: Any = table.uns
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def spatial_libraries(table: Any) -> dict[str, Mapping[str, Any]]:
    """Return what ``uns["spatial"]`` holds of each library; other programs keep other things there."""
    return {str(name): library for name, library in entry(table, "spatial").items() if isinstance(library, Mapping)}


def _kind(data: Any) -> str:
    names = {cls.__name__ for cls in type(data).__mro__}
    return next((name for name in ("SpatialData", "MuData", "AnnData") if name in names), "")


def _names(keys: Iterable[Any]) -> str:
    return "[" + ", ".join(repr(str(key)) for key in keys if key is not None) + "]"


def pick(tables: Any, name: str | None, *, what: str, argument: str) -> Any:
    """Return the table called `name`, or the only one."""
    if name is None and len(tables) == 1:
        return next(iter(tables.values()))
    if name is None or key_name(name, name=argument) not in tables:
        raise MissingKeyError(
            f"{argument}={name!r} names no {what}; found {_names(tables.keys())}. Pass {argument}=..."
        )
    return tables[name]


def _centroids(sdata: Any, table: AnnData, spatial_key: str) -> NDArray[np.float64]:
    """Return the centroids of the shapes that a table annotates (n_spots, 2)."""
    from spatialdata import get_centroids
    from spatialdata.transformations import get_transformation

    attrs = table.uns[ATTRS_KEY]
    regions = get_column(table, attrs["region_key"], argument="region_key")
    coordinates = np.full((table.n_obs, 2), np.nan)
    for region in regions.unique():
        if region not in sdata.shapes:
            raise CoordinatesError(
                f"The table has no adata.obsm[{spatial_key!r}], and annotates {region!r}, which is not among the "
                f"shapes {_names(sdata.shapes.keys())}. Set adata.obsm[{spatial_key!r}] to coordinates (n_spots, 2)."
            )
        shapes = sdata.shapes[region]
        systems = list(get_transformation(shapes, get_all=True))
        wanted = "global" if spatial_key == SPATIAL_KEY else spatial_key
        if spatial_key not in (SPATIAL_KEY, *systems):
            raise CoordinatesError(
                f"sdata.shapes[{region!r}] is not in the coordinate system {spatial_key!r}, only in {_names(systems)}. "
                f"Pass one that all regions of the table share, or no spatial_key."
            )
        system = wanted if wanted in systems else systems[0]
        rows = np.flatnonzero((regions == region).to_numpy())
        centroids = get_centroids(shapes.sort_index(), system).compute()
        centroids = centroids.reindex(table.obs[attrs["instance_key"]].to_numpy()[rows])
        missing = int(centroids["x"].isna().sum())
        if missing:
            raise CoordinatesError(
                f"{missing} of {table.n_obs} spots of the table have no shape in sdata.shapes[{region!r}]. "
                f"Leave these spots out, or set adata.obsm[{spatial_key!r}]."
            )
        coordinates[rows] = centroids[["x", "y"]].to_numpy()
    return coordinates
