"""A spot and its neighbors on tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from scipy.sparse import csr_matrix

from sagefm._arguments import key_name
from sagefm._constants import NEIGHBORS_KEY, SPATIAL_KEY
from sagefm.data._table import TableKeys, get_libraries
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._tissue import draw_spots, get_panels, select_section, select_table

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

# Vermilion and blue of the Okabe-Ito palette.
_CENTER, _NEIGHBOR, _TISSUE = "#D55E00", "#56B4E9", "0.88"


def neighborhood(
    adata: Any,
    spot: str | int,
    *,
    neighbors_key: str = NEIGHBORS_KEY,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a spot and its neighbors: where they are on the tissue, and enlarged beside it.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section with spatial neighbors.
    spot
        Name in ``adata.obs_names``, or position.
    neighbors_key
        The ``key_added`` of :func:`sagefm.pp.spatial_neighbors`; the graph is
        ``adata.obsp[f"{neighbors_key}_connectivities"]`` (n_spots, n_spots), a spot's neighbors in its row.
    library_key
        Column of ``adata.obs`` that names the library of each spot: only that of `spot` is shown.
    ax
        Axes of the tissue; the enlargement is placed inside it.
    spatial_key, table_key, mod
        As in :func:`sagefm.pl.embedding`.

    Returns
    -------
    The Axes of the tissue.

    Raises
    ------
    sagefm.errors.SagefmError
        The graph, spot, coordinates or column do not exist.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.pp.spatial_neighbors(adata)
    >>> ax = sagefm.pl.neighborhood(adata, 150)
    """
    table = select_table(adata, table_key, mod)
    center = _position(table, spot)
    graph_key = f"{key_name(neighbors_key, name='neighbors_key')}_connectivities"
    if graph_key not in table.obsp:
        argument = "" if neighbors_key == NEIGHBORS_KEY else f", key_added={neighbors_key!r}"
        call = f"sagefm.pp.spatial_neighbors(adata{argument})"
        raise MissingKeyError(f"Found no {graph_key!r} in adata.obsp; run {call} first.")
    codes, names = get_libraries(table, library_key)
    keys = TableKeys(spatial_key=spatial_key, library_key=library_key)
    section = select_section(adata, table, keys, names[codes[center]] or None)
    row = csr_matrix(table.obsp[graph_key][[center]])
    # Stored zeros are no neighbors.
    neighbors = np.setdiff1d(row.indices[row.data != 0], center)
    members = section._replace(rows=np.append(neighbors, center))
    colors = [_NEIGHBOR] * len(neighbors) + [_CENTER]

    width, height = section.extent
    # The enlargement stands inside the axes, right of the tissue: nothing can be clipped or overlap.
    side, gap = 0.6 * np.sqrt(width * height), 0.08 * width
    inches = section.figsize()
    (panel,) = get_panels(ax, 1, (inches[0] * (1 + (gap + side) / width), inches[1]))
    draw_spots(panel, section, colors=_TISSUE)
    draw_spots(panel, members, colors=colors)
    left, top = section.xy.min(axis=0) - section.pitch
    panel.set(xlim=(left, left + width + gap + side), ylim=(top + max(height, side), top))
    panel.set_title(str(table.obs_names[center]))

    corner = left + width + gap, top + (height - side) / 2
    inset = panel.inset_axes((corner[0], corner[1], side, side), transform=panel.transData)
    draw_spots(inset, section, colors=_TISSUE, size=0.7).set_zorder(0)
    lines = [[members.xy[-1], neighbor] for neighbor in members.xy[:-1]]
    inset.add_collection(LineCollection(lines, colors="0.4", linewidths=1, zorder=0.5), autolim=False)
    draw_spots(inset, members, colors=colors, size=0.7)
    low, high = members.xy.min(axis=0), members.xy.max(axis=0)
    (x, y), reach = (low + high) / 2, (high - low).max() / 2 + section.pitch
    inset.set(
        xlim=(x - reach, x + reach), ylim=(y + reach, y - reach), frame_on=True, title=f"{len(neighbors)} neighbors"
    )
    inset.spines[:].set_color("0.5")
    beams = [[(x + reach, y + sign * reach), (corner[0], corner[1] + (1 + sign) * side / 2)] for sign in (-1, 1)]
    panel.add_collection(LineCollection(beams, colors="0.5", linewidths=0.8), autolim=False)
    box = Rectangle(
        (x - reach, y - reach), 2 * reach, 2 * reach, fill=False, edgecolor="0.5", linewidth=0.8, clip_on=False
    )
    panel.add_patch(box)
    return panel


def _position(table: AnnData, spot: Any) -> int:
    """Return the row of a spot that is given by name or position."""
    if isinstance(spot, str):
        if spot not in table.obs_names:
            raise MissingKeyError(
                f"Found no spot {spot!r}; expected a name in adata.obs_names, such as {table.obs_names[0]!r}."
            )
        return int(np.flatnonzero(table.obs_names == spot)[0])
    if not isinstance(spot, int | np.integer) or not -table.n_obs <= spot < table.n_obs:
        raise ArgumentError(f"Found spot={spot!r}; expected a position from 0 to {table.n_obs - 1}, or a name.")
    return int(spot % table.n_obs)
