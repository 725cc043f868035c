"""An embedding on tissue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sagefm._constants import EMBEDDING_KEY, SPATIAL_KEY
from sagefm.data._table import get_table
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._tissue import (
    COLORBAR_WIDTH,
    add_colorbar,
    draw_categories,
    draw_spots,
    get_panels,
    get_section,
    robust_limits,
)

# OKLab (B. Ottosson, https://bottosson.github.io/posts/oklab): to cube roots of cone responses, and on to linear sRGB.
_OKLAB_TO_CONES = np.array([
    [1.0,  0.3963377774,  0.2158037573],
    [1.0, -0.1055613458, -0.0638541728],
    [1.0, -0.0894841775, -1.2914855480],
])  # fmt: skip
_CONES_TO_RGB = np.array([
    [ 4.0767416621, -3.3077115913,  0.2309699292],
    [-1.2684380046,  2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147,  1.7076147010],
])  # fmt: skip


def embedding(
    adata: Any,
    *,
    basis: str = EMBEDDING_KEY,
    color: str | None = None,
    components: int | Sequence[int] | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    library: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    size: float = 1.0,
    cmap: str = "viridis",
    colorbar: bool = True,
    title: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
) -> Axes | NDArray[Any]:
    """Draw an embedding on the tissue.

    By default, the first three principal components of the embedding (over the spots shown) are combined into
    one color: the first sets its lightness, the second and third its hue and saturation. Spots of similar color
    have similar embeddings; the colors themselves have no meaning, and differ from section to section.

    Parameters
    ----------
    adata
        A section with an embedding.
    basis
        Key of the embedding in ``adata.obsm`` (n_spots, n_latent).
    color
        Categorical column of ``adata.obs`` to draw instead, such as clusters of the embedding.
    components
        Component of the embedding, counted from 0, or several, each in its own panel.
        Default: the first three principal components, as one color.
    spatial_key
        Key of the coordinates in ``adata.obsm`` (n_spots, 2).
    library_key
        Column of ``adata.obs`` that names the library (section) of each spot.
    library
        The library to show; needed if there are several.
    ax
        Axes to draw into, one for each panel.
    size
        Diameter of a spot, in units of the distance between neighboring spots.
    cmap
        Colormap for single components; the color limits are their 1 % and 99 % quantiles.
    colorbar
        Draw a color bar next to single components.
    title
        Title. Default: the name of the basis and the component, or of the column.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.

    Returns
    -------
    The Axes, or an array of Axes if `components` is a sequence.

    Raises
    ------
    sagefm.errors.SagefmError
        A key or component does not exist, or there are several libraries and none was chosen.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.embed(adata)
    >>> ax = sagefm.pl.embedding(adata)
    >>> first, second = sagefm.pl.embedding(adata, components=[0, 1])
    """
    adata = get_table(adata, table_key=table_key, mod=mod)
    section = get_section(adata, spatial_key=spatial_key, library_key=library_key, library=library)
    if color is not None:
        (panel,) = get_panels(ax, 1, section.figsize(beside=COLORBAR_WIDTH))
        draw_categories(panel, adata, section, color, size=size)
        panel.set_title(color if title is None else title)
        return panel
    if basis not in adata.obsm:
        call = "sagefm.tl.embed(adata)" if basis == EMBEDDING_KEY else f"sagefm.tl.embed(adata, key_added={basis!r})"
        raise MissingKeyError(f"Found no {basis!r} in adata.obsm; run {call} first.")
    latent = np.asarray(adata.obsm[basis])[section.rows]
    if components is None:
        (panel,) = get_panels(ax, 1, section.figsize())
        draw_spots(panel, section, colors=_rgb(latent), size=size)
        panel.set_title(basis if title is None else title)
        return panel

    single = isinstance(components, int | np.integer)
    shown = np.ravel(components).tolist()
    if not shown or not all(isinstance(c, int | np.integer) and 0 <= c < latent.shape[1] for c in shown):
        raise ArgumentError(f"Found components={components!r}; expected whole numbers from 0 to {latent.shape[1] - 1}.")
    panels = get_panels(ax, len(shown), section.figsize(beside=COLORBAR_WIDTH * colorbar))
    for panel, component in zip(panels, shown, strict=True):
        spots = draw_spots(panel, section, values=latent[:, component], cmap=cmap, size=size)
        panel.set_title(f"{basis} {component}" if title is None else title)
        if colorbar:
            add_colorbar(panel, spots, "")
    return panels[0] if single else np.array(panels, dtype=object)


def _rgb(latent: NDArray[Any]) -> NDArray[np.float64]:
    """Return sRGB (n_spots, 3) of three principal components, robustly scaled in OKLab."""
    centered = latent.astype(np.float64) - latent.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    vectors = vectors[:, ::-1][:, :3]
    # The sign of a principal component is arbitrary: its largest loading is made positive.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
    scores = np.zeros((len(latent), 3))
    for column, score in enumerate((centered @ vectors).T):
        scores[:, column] = np.interp(score, robust_limits(score), (-1, 1))
    lab = np.array([0.72, 0, 0]) + scores * np.array([0.18, 0.14, 0.14])
    linear = np.clip((lab @ _OKLAB_TO_CONES.T) ** 3 @ _CONES_TO_RGB.T, 0, 1)
    rgb: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb
