"""Spots on tissue: which are shown, how large they are, and the color bar beside them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sagefm.data._table import get_column, get_coordinates, get_libraries, library_column
from sagefm.errors import ArgumentError, MissingKeyError

#: Inches: a tissue panel that this package makes, and the color bar beside it.
_PANEL_WIDTH = 3.4
COLORBAR_WIDTH = 0.8

#: Qualitative colors of like lightness, told apart side by side.
_PALETTE = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#1f5f5b", "#c9a2e8",
    "#b3364a", "#e3c29b", "#5fd3f3", "#7a8f2a", "#2f3e6e", "#d45fbf", "#c7d84b", "#8a5a00", "#9c6b4e", "#9498a0",
)  # fmt: skip
_NO_CATEGORY = "0.85"


class Section(NamedTuple):
    """Spots of one library: positions in the table (n_shown,), coordinates (n_shown, 2), and their pitch.

    The pitch is the median distance to the nearest other spot, in units of the coordinates.
    """

    rows: NDArray[np.int64]
    xy: NDArray[np.float64]
    pitch: float

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the tissue and a pitch around it."""
        width, height = np.ptp(self.xy, axis=0) + 2 * self.pitch
        return float(width), float(height)

    def figsize(self, *, beside: float = 0.0) -> tuple[float, float]:
        """Inches of a panel that the tissue fills, with room for a title and `beside` it."""
        width, height = self.extent
        return _PANEL_WIDTH + beside, _PANEL_WIDTH * float(np.clip(height / width, 0.4, 1.6)) + 0.4


def get_section(
    adata: AnnData, *, spatial_key: str, library_key: str | None = None, library: str | None = None
) -> Section:
    """Return the spots of one library; which one must be said where there are several."""
    xy = get_coordinates(adata, spatial_key)
    library_key = library_column(adata, library_key)
    codes, names = get_libraries(adata, library_key)
    if library_key is None and library is not None:
        raise ArgumentError(f"library={library!r} needs library_key, the column of adata.obs that holds it.")
    if library is None and len(names) > 1:
        raise ArgumentError(f"Found {len(names)} libraries in adata.obs[{library_key!r}]: {names}. Pass library=... .")
    if library is not None and str(library) not in names:
        raise MissingKeyError(f"library={library!r} is not in adata.obs[{library_key!r}]; found {names}.")
    rows = np.flatnonzero(codes == (0 if library is None else names.index(str(library))))
    xy = xy[rows]
    # Without a second spot, the nearest is infinitely far; spots that share a position say nothing about the pitch.
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    nearest = nearest[(nearest > 0) & np.isfinite(nearest)]
    return Section(rows, xy, float(np.median(nearest)) if len(nearest) else 1.0)


def get_panels(ax: Axes | Sequence[Axes] | NDArray[Any] | None, n: int, figsize: tuple[float, float]) -> list[Axes]:
    """Return `n` axes side by side: the user's, or those of a new figure with constrained layout."""
    if ax is None:
        import matplotlib.pyplot as plt

        _, grid = plt.subplots(1, n, figsize=(n * figsize[0], figsize[1]), layout="constrained", squeeze=False)
        return list(grid[0])
    panels = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(panels) != n or not all(isinstance(panel, Axes) for panel in panels):
        raise ArgumentError(f"Found {len(panels)} axes to draw into; expected {n}, of matplotlib.")
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


def draw_categories(ax: Axes, adata: AnnData, section: Section, column: str, *, size: float) -> None:
    """Draw a column of ``obs`` with a legend, in scanpy's colors of it (``uns``) or, if there are none, our own."""
    categories = get_column(adata, column, argument="color").astype("category").cat
    names = [str(name) for name in categories.categories]
    colors = [str(color) for color in adata.uns.get(f"{column}_colors", [])]
    if len(colors) < len(names):
        colors = list(islice(cycle(_PALETTE), len(names)))
    codes = categories.codes.to_numpy()[section.rows]
    draw_spots(ax, section, colors=[colors[code] if code >= 0 else _NO_CATEGORY for code in codes], size=size)
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=7, color=color, label=name)
        for color, name in zip(colors, names, strict=False)
    ]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handletextpad=0.1)


def add_colorbar(ax: Axes, mappable: ScalarMappable, label: str, *, width: float = 0.04, **kwargs: Any) -> None:
    """Put a color bar of the height of `ax`, and a share `width` of its width, on its right."""
    spec = ax.get_subplotspec()
    if spec is not None and ax.figure.get_layout_engine() is None:
        # No layout engine will make room: narrow the axes, as figure.colorbar does.
        ax.set_subplotspec(spec.subgridspec(1, 2, width_ratios=(0.8, 0.2), wspace=0)[0])
    # Slack that an equal aspect leaves goes to the left, or layout engines would take it for room for the bar.
    ax.set_anchor("E")
    # A child of the axes: it follows their height under any aspect, and layout engines see it.
    bar = ax.figure.colorbar(mappable, cax=ax.inset_axes((1 + 0.75 * width, 0, width, 1)), label=label, **kwargs)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
