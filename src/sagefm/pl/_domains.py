"""Domains on tissue, with their borders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from scipy.spatial import Voronoi

from sagefm._arguments import key_name
from sagefm._constants import DOMAIN_KEY, SPATIAL_KEY
from sagefm.data._table import TableKeys, find_spots
from sagefm.errors import MissingKeyError
from sagefm.pl._embedding import LEGEND_ROWS, MISSING, PALETTE
from sagefm.pl._tissue import (
    COLORBAR_WIDTH,
    check_size,
    draw_spots,
    get_panels,
    make_room,
    select_section,
    select_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from sagefm.pl._tissue import Section

#: Spots farther apart than this, in pitches, are not beside each other; corners farther than this are outside.
_BESIDE = 1.2
#: Saturation of a spot whose domain is as probable as any other.
_PALEST = 0.25
#: Diameter at which touching circles of a hexagonal array leave no gaps: 2 / sqrt(3).
_SPOT = 1.155


def domains(
    adata: Any,
    *,
    key: str = DOMAIN_KEY,
    probability: bool = True,
    borders: bool = True,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    library: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    size: float = _SPOT,
    img: bool = False,
    legend: bool = True,
    title: str | None = None,
) -> Axes | NDArray[Any]:
    """Draw domains on tissue, each in one color in all sections, with lines between them.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with domains, see :func:`sagefm.tl.domains`.
    key
        Column of ``adata.obs`` with the domains. Any categorical column will do. Its colors are those of
        ``adata.uns[f"{key}_colors"]``, if scanpy has stored them.
    probability
        Show spots paler the less probable their domain is, if ``adata.obs[f"{key}_probability"]`` is there.
    borders
        Draw lines between neighboring spots of different domains.
    spatial_key
        Key of the coordinates in ``adata.obsm`` (n_spots, 2).
    library_key
        Column of ``adata.obs`` that names the section of each spot.
    library
        The section to show. Default: all, each in its own panel.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.
    ax
        Axes to draw into, one for each section shown.
    size
        Diameter of a spot, in units of the distance between neighboring spots. The default leaves no gaps on a
        hexagonal array.
    img
        Draw the image of the tissue under the spots, which are then as wide as on a Visium array, 0.55 of `size`. It is
        that of ``adata.uns["spatial"]``, or of a SpatialData object.
    legend
        List the domains beside the (last) tissue.
    title
        Title. Default: the column, or the name of each section.

    Returns
    -------
    The Axes, or an array of them where several sections are shown.

    Raises
    ------
    sagefm.errors.SagefmError
        The column, the coordinates, the image or the section do not exist.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.domains(adata, 4)
    >>> ax = sagefm.pl.domains(adata)
    >>> ax = sagefm.pl.domains(adata, key="infiltrate", borders=False)
    """
    table = select_table(adata, table_key, mod)
    if key_name(key, name="key") not in table.obs:
        call = "sagefm.tl.domains(adata)" if key == DOMAIN_KEY else f"sagefm.tl.domains(adata, key_added={key!r})"
        raise MissingKeyError(f"key={key!r} is not a column of adata.obs; run {call} first.")
    keys = TableKeys(spatial_key=spatial_key, library_key=library_key)
    names = find_spots(adata, table, keys).names if table.n_obs and library is None else []
    shown = names if len(names) > 1 else [library]
    sections = [select_section(adata, table, keys, name, img=img) for name in shown]
    check_size(size)
    legend = bool(legend)
    codes, colors, categories = _colors(table, key, has_probability=probability)
    widest = max(sections, key=lambda section: section.figsize()[1])
    panels = get_panels(ax, len(sections), widest.figsize(beside=COLORBAR_WIDTH * legend))
    for panel, section, name in zip(panels, sections, shown, strict=True):
        draw_spots(panel, section, colors=colors[section.rows], size=size)
        if borders:
            lines = _borders(section, codes[section.rows])
            panel.add_collection(LineCollection(list(lines), colors="0.15", linewidths=0.8), autolim=False)
        panel.set_title((key if len(sections) == 1 else str(name)) if title is None else title)
    if legend:
        in_view = np.unique(np.concatenate([codes[section.rows] for section in sections]))
        _add_legend(panels[-1], [categories[code] for code in in_view if code >= 0])
    return panels[0] if len(sections) == 1 else np.array(panels, dtype=object)


def _colors(
    table: AnnData, key: str, *, has_probability: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[tuple[str, Any]]]:
    """Return code and color of each spot of the table, and name and color of each domain."""
    column = table.obs[key].astype("category").cat
    names, codes = [str(name) for name in column.categories], column.codes.to_numpy().astype(np.int64)
    stored = table.uns.get(f"{key}_colors", ())
    palette = stored if len(stored) >= len(names) else PALETTE
    named = [(name, palette[i % len(palette)]) for i, name in enumerate(names)]
    # Code -1, no domain, is the last color.
    colors = np.array([to_rgb(color) for _, color in named] + [to_rgb(MISSING)])[codes]
    probabilities = table.obs.get(f"{key}_probability")
    if has_probability and probabilities is not None:
        chance = 1 / max(len(names), 1)
        values = pd.to_numeric(probabilities).to_numpy(dtype=float, na_value=1.0)
        certainty = ((values - chance) / max(1 - chance, 1e-9)).clip(0, 1)
        weights = (_PALEST + (1 - _PALEST) * certainty)[:, None]
        colors = weights * colors + (1 - weights)
    return codes, colors, named


def _borders(section: Section, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sides that cells of neighboring spots of different domains share (n_sides, 2, 2)."""
    empty = np.empty((0, 2, 2))
    if len(np.unique(section.xy, axis=0)) < 4:
        return empty
    # Joggled: spots on a line have no cells otherwise, nor do two at one place.
    cells = Voronoi(section.xy / section.pitch, qhull_options="Qbb Qc QJ")
    first, second = cells.ridge_points.T
    corners = np.array(cells.ridge_vertices)
    kept = (codes[first] != codes[second]) & (corners >= 0).all(axis=1)
    sides, ends = cells.vertices[corners[kept]], cells.points[cells.ridge_points[kept]]
    middle = ends.mean(axis=1, keepdims=True)
    near = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1) < _BESIDE
    # At the edge of the tissue cells are open, or end far outside.
    near &= (np.linalg.norm(sides - middle, axis=2) < _BESIDE / 2).all(axis=1)
    return np.asarray(sides[near] * section.pitch) if near.any() else empty


def _add_legend(panel: Axes, named: list[tuple[str, Any]]) -> None:
    handles = [Line2D([], [], linestyle="", marker="o", markersize=7, color=color, label=name) for name, color in named]
    make_room(panel)
    panel.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handletextpad=0.1,
        ncols=-(-len(handles) // LEGEND_ROWS) or 1,
    )  # fmt: skip
