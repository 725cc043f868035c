"""An embedding, or what was computed from it, on tissue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.lines import Line2D
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from sagefm._arguments import key_name
from sagefm._constants import EMBEDDING_KEY, SPATIAL_KEY
from sagefm.data._table import TableKeys, get_column
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._tissue import (
    COLORBAR_WIDTH,
    add_colorbar,
    check_size,
    draw_spots,
    get_panels,
    make_room,
    robust_limits,
    select_section,
    select_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from sagefm.pl._tissue import Section

#: Qualitative colors of like lightness, told apart side by side; and that of a spot without a category.
PALETTE = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#1f5f5b", "#c9a2e8",
    "#b3364a", "#e3c29b", "#5fd3f3", "#7a8f2a", "#2f3e6e", "#d45fbf", "#c7d84b", "#8a5a00", "#9c6b4e", "#9498a0",
)  # fmt: skip
MISSING = "0.88"
LEGEND_ROWS = 20

# OKLab (B. Ottosson, https://bottosson.github.io/posts/oklab): to cube roots of cone responses, and on to linear sRGB.
_OKLAB_TO_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def embedding(
    adata: Any,
    *,
    basis: str = EMBEDDING_KEY,
    components: int | Sequence[int] | None = None,
    color: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    library: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    size: float = 1.0,
    img: bool = False,
    cmap: str = "viridis",
    colorbar: bool = True,
    title: str | None = None,
) -> Axes | NDArray[Any]:
    """Draw an embedding, or the clusters found in it, on tissue.

    By default, the first three principal components of the embedding (over the spots shown) are combined into
    one color: the first sets its lightness, the second and third its hue and saturation. Spots of similar color
    have similar embeddings; the colors themselves have no meaning, and differ from section to section.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section with an embedding.
    basis
        Key of the embedding in ``adata.obsm`` (n_spots, n_latent).
    components
        Component of the embedding, counted from 0, or several, each in its own panel. Default: three principal components.
    color
        Column of ``adata.obs`` to draw instead of the embedding: categories, such as clusters, or numbers.
        Categories have the colors of ``adata.uns[f"{color}_colors"]``, if scanpy has stored them.
    spatial_key
        Key of the coordinates in ``adata.obsm`` (n_spots, 2).
    library_key
        Column of ``adata.obs`` that names the library of each spot.
    library
        The library to show; needed if there are several.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.
    ax
        Axes to draw into, one for each panel.
    size
        Diameter of a spot, in units of the distance between neighboring spots.
    img
        Draw the image of the tissue under the spots, which are then as wide as on a Visium array, 0.55 of `size`. It is
        that of ``adata.uns["spatial"]``, or of a SpatialData object.
    cmap
        Colormap for numbers; the color limits are their 1 % and 99 % quantiles.
    colorbar
        Draw a color bar, or the legend of categories, next to the tissue.
    title
        Title. Default: the basis and the component, or the column.

    Returns
    -------
    The Axes, or an array of them where `components` is a sequence.

    Raises
    ------
    sagefm.errors.SagefmError
        The embedding, component, column, coordinates or image do not exist, or there are several libraries and none was
        chosen.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.embed(adata)
    >>> ax = sagefm.pl.embedding(adata)
    >>> first, second = sagefm.pl.embedding(adata, components=[0, 1])
    >>> ax = sagefm.pl.embedding(adata, color="infiltrate")
    """
    table = select_table(adata, table_key, mod)
    keys = TableKeys(spatial_key=spatial_key, library_key=library_key)
    section = select_section(adata, table, keys, library, img=img)
    check_size(size)
    if color is not None:
        if components is not None:
            raise ArgumentError(f"Found components={components!r} and color={color!r}; pass one of the two.")
        (panel,) = get_panels(ax, 1, section.figsize(beside=COLORBAR_WIDTH * colorbar))
        _draw_column(panel, table, section, color, cmap=cmap, size=size, has_legend=colorbar)
        panel.set_title(color if title is None else title)
        return panel

    if key_name(basis, name="basis") not in table.obsm:
        call = "sagefm.tl.embed(adata)" if basis == EMBEDDING_KEY else f"sagefm.tl.embed(adata, key_added={basis!r})"
        raise MissingKeyError(f"Found no {basis!r} in adata.obsm; run {call} first.")
    latent = np.asarray(table.obsm[basis])[section.rows]
    if components is None:
        (panel,) = get_panels(ax, 1, section.figsize())
        draw_spots(panel, section, colors=_rgb(latent), size=size)
        panel.set_title(basis if title is None else title)
        return panel

    shown: list[Any] = list(components) if isinstance(components, Iterable) else [components]
    if not shown or not all(isinstance(c, int | np.integer) and 0 <= c < latent.shape[1] for c in shown):
        raise ArgumentError(f"Found components={components!r}; expected whole numbers from 0 to {latent.shape[1] - 1}.")
    panels = get_panels(ax, len(shown), section.figsize(beside=COLORBAR_WIDTH * colorbar))
    for panel, component in zip(panels, shown, strict=True):
        circles = draw_spots(panel, section, values=latent[:, component], cmap=cmap, size=size)
        panel.set_title(f"{basis} {component}" if title is None else title)
        if colorbar:
            add_colorbar(panel, circles, "")
    return panels[0] if isinstance(components, int | np.integer) else np.array(panels, dtype=object)


def _draw_column(
    panel: Axes, table: AnnData, section: Section, color: str, *, cmap: str, size: float, has_legend: bool
) -> None:
    """Draw a column of ``obs``: numbers by a color map, anything else as categories."""
    column = get_column(table, color, argument="color")
    if is_numeric_dtype(column) and not is_bool_dtype(column):
        values = column.to_numpy(dtype=float, na_value=np.nan)[section.rows]
        circles = draw_spots(panel, section, values=values, cmap=cmap, size=size)
        if has_legend:
            add_colorbar(panel, circles, "")
        return
    categories = column.astype("category").cat
    names, codes = categories.categories, categories.codes.to_numpy()[section.rows]
    stored = table.uns.get(f"{color}_colors", ())
    palette = stored if len(stored) >= len(names) else PALETTE
    colors = [palette[i % len(palette)] for i in range(len(names))]
    # Code -1, no category, is the last color.
    draw_spots(panel, section, colors=to_rgba_array([*colors, MISSING])[codes], size=size)
    if has_legend:
        handles = [
            Line2D([], [], linestyle="", marker="o", markersize=7, color=colors[code], label=str(names[code]))
            for code in np.unique(codes[codes >= 0])
        ]
        make_room(panel)
        panel.legend(
            handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handletextpad=0.1,
            ncols=-(-len(handles) // LEGEND_ROWS) or 1,
        )  # fmt: skip


def _rgb(latent: NDArray[Any]) -> NDArray[np.float64]:
    """Return sRGB (n_spots, 3) of three principal components, robustly scaled in OKLab."""
    centered = latent.astype(np.float64) - latent.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    vectors = vectors[:, ::-1][:, :3]
    # The sign of a principal component is arbitrary: its largest loading is made positive.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
    scores = np.zeros((len(latent), 3))
    for column, score in enumerate((centered @ vectors).T):
        low, high = robust_limits(score)
        scores[:, column] = np.clip(2 * (score - low) / (high - low) - 1, -1, 1)
    lab = np.array([0.72, 0, 0]) + scores * np.array([0.18, 0.14, 0.14])
    linear = np.clip((lab @ _OKLAB_TO_CONES.T) ** 3 @ _CONES_TO_RGB.T, 0, 1)
    rgb: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb
