"""Spots on tissue: which are shown, how large they are, the image under them, and the color bar beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.transforms import Affine2D
from scipy.spatial import cKDTree

from sagefm._arguments import number
from sagefm.data._table import find_spots, get_table, library_column
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._image import Image, find_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.cm import ScalarMappable
    from numpy.typing import NDArray

    from sagefm.data._table import TableKeys

#: Inches: a tissue panel that this package makes, and the color bar beside it.
_PANEL_WIDTH = 3.4
COLORBAR_WIDTH = 0.8
#: Share of their size that spots have on an image: that of Visium's spots, 55 um wide and 100 um apart.
_ON_IMAGE = 0.55


class Section(NamedTuple):
    """Spots of one library."""

    #: Coordinates of all spots of the table (n_spots, 2).
    coordinates: NDArray[np.float64]
    #: Rows of the table that are shown (n_shown,).
    rows: NDArray[np.int64]
    #: Median distance to the nearest other spot, in units of the coordinates.
    pitch: float
    #: Image of the tissue, drawn under the spots.
    image: Image | None = None

    @property
    def xy(self) -> NDArray[np.float64]:
        """Coordinates of the shown spots (n_shown, 2)."""
        return self.coordinates[self.rows]

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the tissue and a pitch around it."""
        width, height = np.ptp(self.xy, axis=0) + 2 * self.pitch
        return float(width), float(height)

    def figsize(self, *, beside: float = 0.0) -> tuple[float, float]:
        """Inches of a panel that the tissue fills, with room for a title and `beside` it."""
        width, height = self.extent
        return _PANEL_WIDTH + beside, _PANEL_WIDTH * float(np.clip(height / width, 0.4, 1.6)) + 0.4


def select_table(data: Any, table_key: str | None, mod: str | None) -> AnnData:
    """Return AnnData as it is, or the table of SpatialData or MuData."""
    # Nothing is written: unlike the verbs, plots take views of files and tables without genes.
    return data if isinstance(data, AnnData) else get_table(data, table_key=table_key, mod=mod)


def check_size(size: Any) -> None:
    """Raise an ArgumentError unless spots can be drawn with this diameter."""
    number(size, name="size", is_valid=lambda x: x > 0, expected="a number above 0")


def select_section(data: Any, table: AnnData, keys: TableKeys, library: str | None, *, img: bool = False) -> Section:
    """Return the spots of `library`, or of the only one, in a table of `data`; with `img`, on the tissue's image."""
    if table.n_obs == 0:
        raise ArgumentError("Found a table without spots; expected at least one.")
    spots, column = find_spots(data, table, keys), library_column(table, keys.library_key)
    if library is None and len(spots.names) > 1:
        raise ArgumentError(
            f"Found {len(spots.names)} libraries in adata.obs[{column!r}]: {spots.names}. Pass library=... ."
        )
    if library is not None and column is None:
        raise ArgumentError(f"library={library!r} needs library_key, the column of adata.obs that holds it.")
    if library is not None and str(library) not in spots.names:
        raise MissingKeyError(f"library={library!r} is not in adata.obs[{column!r}]; found {spots.names}.")
    rows = np.flatnonzero(spots.libraries == (0 if library is None else spots.names.index(str(library))))
    image = find_image(data, table, rows, keys.spatial_key, library) if img else None
    return Section(spots.coordinates, rows, _pitch(spots.coordinates[rows]), image)


def _pitch(xy: NDArray[np.float64]) -> float:
    if len(xy) < 2:
        return 1.0
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    # Spots that share a position say nothing about the pitch.
    nearest = nearest[nearest > 0]
    return float(np.median(nearest)) if len(nearest) else 1.0


def get_panels(
    ax: Axes | Sequence[Axes] | NDArray[Any] | None, n: int, figsize: tuple[float, float], *, argument: str = "ax"
) -> list[Axes]:
    """Return `n` axes side by side: the user's, or those of a new figure with constrained layout."""
    if ax is None:
        import matplotlib.pyplot as plt

        _, grid = plt.subplots(1, n, figsize=(n * figsize[0], figsize[1]), layout="constrained", squeeze=False)
        return list(grid[0])
    panels = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(panels) != n or not all(isinstance(panel, Axes) for panel in panels):
        raise ArgumentError(f"Found {argument} of length {len(panels)}; expected {n} matplotlib Axes.")
    return panels


def draw_spots(
    ax: Axes,
    section: Section,
    *,
    values: NDArray[Any] | None = None,
    colors: Any = None,
    cmap: str = "viridis",
    size: float = 1.0,
) -> EllipseCollection:
    """Draw spots as circles of `size` pitches, in data units, colored by `values` (n_shown,) or by `colors`."""
    if section.image is not None:
        _draw_image(ax, section.image)
        size *= _ON_IMAGE
    diameter = size * section.pitch
    # Diameters in data units: spots keep touching at any size of the figure.
    spots = EllipseCollection(
        [diameter], [diameter], [0.0], units="xy", offsets=section.xy, offset_transform=ax.transData,
        facecolors=colors, linewidths=0, rasterized=True,
    )  # fmt: skip
    if values is not None:
        spots.set_array(np.asarray(values, dtype=np.float64))
        spots.set_cmap(cmap)
        spots.set_clim(*robust_limits(values))
    ax.add_collection(spots, autolim=False)
    low, high = section.xy.min(axis=0) - section.pitch, section.xy.max(axis=0) + section.pitch
    # Rows count downward in an image.
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", xticks=[], yticks=[], frame_on=False)
    return spots


def _draw_image(ax: Axes, image: Image) -> None:
    height, width = image.pixels.shape[:2]
    to_data = Affine2D(image.to_coordinates) + ax.transData
    ax.imshow(image.pixels, extent=(0, width, height, 0), transform=to_data, zorder=-1, aspect="auto")


def robust_limits(values: NDArray[Any]) -> tuple[float, float]:
    """Return the 1 % and 99 % quantiles, or the range where they coincide."""
    values = np.asarray(values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.01, 0.99])
    if low == high:
        low, high = finite.min(), finite.max()
    return float(low), float(high if high > low else low + 1)


def add_colorbar(ax: Axes, mappable: ScalarMappable, label: str, *, width: float = 0.04, **kwargs: Any) -> None:
    """Put a color bar of the height of `ax`, and a share `width` of its width, on its right."""
    make_room(ax)
    # A child of the axes: it follows their height under any aspect, and layout engines see it.
    bar = ax.figure.colorbar(mappable, cax=ax.inset_axes((1 + 0.75 * width, 0, width, 1)), label=label, **kwargs)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)


def make_room(ax: Axes) -> None:
    """Move `ax` so that a color bar or a legend has room on its right."""
    spec = ax.get_subplotspec()
    if spec is not None and ax.figure.get_layout_engine() is None:
        # No layout engine will make room: narrow the axes, as figure.colorbar does.
        ax.set_subplotspec(spec.subgridspec(1, 2, width_ratios=(0.8, 0.2), wspace=0)[0])
    # Slack that an equal aspect leaves goes to the left, or layout engines would take it for room for the bar.
    ax.set_anchor("E")
