"""The image of the tissue that belongs to a section, in the coordinates of its spots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sagefm._constants import SPATIAL_KEY
from sagefm.data._check_places import is_positive
from sagefm.data._table import ATTRS_KEY, get_column, spatial_libraries
from sagefm.errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

#: Pixels a side: more are not seen in a figure.
_MAX_SIDE = 3000


class Image(NamedTuple):
    """An image (height, width, 3) as bytes, and the affine map (3, 3) from its pixels to coordinates of spots."""

    pixels: NDArray[np.uint8]
    to_coordinates: NDArray[np.float64]


def find_image(data: Any, table: AnnData, rows: NDArray[np.int64], spatial_key: str, library: str | None) -> Image:
    """Return the image of the section whose spots are `rows` of a table of AnnData, SpatialData or MuData."""
    image = _from_uns(table, library)
    if image is None and hasattr(data, "images") and ATTRS_KEY in table.uns:
        image = _from_elements(data, table, rows, spatial_key)
    if image is None:
        raise MissingKeyError(
            "Found no image of the tissue; expected adata.uns['spatial'][library]['images'] with its scale factor, or images "
            "of a SpatialData object in a coordinate system of its spots. Read the folder of Space Ranger with its images, "
            "or draw without: img=False"
        )
    return image


def _from_uns(table: AnnData, library: str | None) -> Image | None:
    """Return the largest image that a table holds in squidpy's layout."""
    libraries = spatial_libraries(table)
    entry: Mapping[str, Any] = libraries.get(str(library)) or (
        next(iter(libraries.values())) if len(libraries) == 1 else {}
    )
    stored = (entry.get(key) for key in ("images", "scalefactors"))
    images, scales = (value if isinstance(value, Mapping) else {} for value in stored)
    usable = {
        name: np.asarray(image)
        for name, image in images.items()
        if np.ndim(image) in (2, 3) and is_positive(scales.get(f"tissue_{name}_scalef"))
    }
    if not usable:
        return None
    name = max(usable, key=lambda name: usable[name].shape[0])
    return _image(usable[name], np.diag([1 / scales[f"tissue_{name}_scalef"]] * 2 + [1.0]))


def _from_elements(sdata: Any, table: AnnData, rows: NDArray[np.int64], spatial_key: str) -> Image | None:
    """Return the image of a SpatialData object that lies in a coordinate system with the shapes of the spots."""
    from spatialdata.transformations import get_transformation

    region = str(get_column(table, table.uns[ATTRS_KEY]["region_key"], argument="region_key").iloc[rows[0]])
    if region not in sdata.shapes:
        return None
    of_shapes = {name: _matrix(step) for name, step in get_transformation(sdata.shapes[region], get_all=True).items()}
    base = np.eye(3)
    if spatial_key not in table.obsm:
        # Coordinates are centroids in a system, see `find_coordinates`.
        wanted = "global" if spatial_key == SPATIAL_KEY else spatial_key
        base = of_shapes.get(wanted, next(iter(of_shapes.values())))
    candidates = []
    for element in sdata.images.values():
        of_image = get_transformation(element, get_all=True)
        shared = [name for name in of_shapes if name in of_image]
        if shared:
            to_coordinates = base @ np.linalg.inv(of_shapes[shared[0]]) @ _matrix(of_image[shared[0]])
            candidates.append((element, to_coordinates))
    levels = [level for candidate in candidates for level in _levels(*candidate)]
    if not levels:
        return None
    fitting = [level for level in levels if max(level[0].shape[1:]) <= _MAX_SIDE]
    array, to_coordinates = max(fitting, key=_side) if fitting else min(levels, key=_side)
    step = -(-max(array.shape[1:]) // _MAX_SIDE)
    pixels = np.asarray(array[:, ::step, ::step]).transpose(1, 2, 0)
    return _image(pixels, to_coordinates @ np.diag([step, step, 1.0]))


def _side(level: tuple[Any, NDArray[np.float64]]) -> int:
    return int(max(level[0].shape[1:]))


def _levels(element: Any, to_coordinates: NDArray[np.float64]) -> Iterator[tuple[Any, NDArray[np.float64]]]:
    """Yield the arrays (channels, height, width) of an image, each with its map to coordinates."""
    from spatialdata import get_pyramid_levels

    levels = (
        [element]
        if hasattr(element, "dims") and not hasattr(element, "children")
        else list(get_pyramid_levels(element))
    )
    full = levels[0].shape
    for level in levels:
        scale = np.diag([full[2] / level.shape[2], full[1] / level.shape[1], 1.0])
        yield level.data, to_coordinates @ scale


def _matrix(transformation: Any) -> NDArray[np.float64]:
    return np.asarray(transformation.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y")), dtype=np.float64)


def _image(pixels: NDArray[Any], to_coordinates: NDArray[np.float64]) -> Image:
    """Return an image of three channels as bytes; of more, the first three."""
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    pixels = pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    if pixels.dtype != np.uint8:
        high = 1.0 if pixels.dtype.kind == "f" and pixels.max() <= 1 else float(max(pixels.max(), 255))
        pixels = np.clip(pixels / high * 255, 0, 255).astype(np.uint8)
    return Image(pixels, to_coordinates)
