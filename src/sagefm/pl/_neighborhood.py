"""A spot and its neighbors on tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from scipy.sparse import csr_matrix

from sagefm._constants import NEIGHBORS_KEY, SPATIAL_KEY
from sagefm.data._table import get_coordinates, get_libraries, get_table
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._tissue import draw_spots, get_panels, get_section

# Vermilion and blue of the Okabe-Ito palette.
_CENTER, _NEIGHBOR, _TISSUE = "#D55E00", "#56B4E9", "0.88"


def neighborhood(
    adata: Any,
    spot: str | int,
    *,
    neighbors_key: str = NEIGHBORS_KEY,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    ax: Axes | None = None,
    table_key: str | None = None,
    mod: str | None = None,
) -> Axes:
    """Draw a spot and its neighbors on the tissue, with an enlarged view next to it.

    Parameters
    ----------
    adata
        A section with spatial neighbors.
    spot
        Name in ``adata.obs_names``, or position.
    neighbors_key
        The ``key_added`` of :func:`sagefm.pp.spatial_neighbors`; the graph is
        ``adata.obsp[f"{neighbors_key}_connectivities"]`` (n_spots, n_spots), with a spot's neighbors in its row.
    library_key
        Column of ``adata.obs`` that names the library (section) of each spot; only the library of `spot` is shown.
    ax
        Axes to draw the tissue into; the enlarged view is placed inside it.
    spatial_key, table_key, mod
        As in :func:`sagefm.pl.embedding`.

    Returns
    -------
    The Axes of the tissue.

    Raises
    ------
    sagefm.errors.SagefmError
        The graph, the spot or another key does not exist.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.pp.spatial_neighbors(adata)
    >>> ax = sagefm.pl.neighborhood(adata, 150)
    """
    adata = get_table(adata, table_key=table_key, mod=mod)
    center = _position(adata, spot)
    graph_key = f"{neighbors_key}_connectivities"
    if graph_key not in adata.obsp:
        argument = "" if neighbors_key == NEIGHBORS_KEY else f", key_added={neighbors_key!r}"
        call = f"sagefm.pp.spatial_neighbors(adata{argument})"
        raise MissingKeyError(f"Found no {graph_key!r} in adata.obsp; run {call} first.")
    codes, names = get_libraries(adata, library_key)
    library = names[codes[center]] or None
    section = get_section(adata, spatial_key=spatial_key, library_key=library_key, library=library)
    row = csr_matrix(adata.obsp[graph_key][[center]])
    # Stored zeros are no neighbors.
    neighbors = np.setdiff1d(row.indices[row.data != 0], center)
    xy = get_coordinates(adata, spatial_key)
    rows = np.append(neighbors, center)
    members, colors = section._replace(rows=rows, xy=xy[rows]), [_NEIGHBOR] * len(neighbors) + [_CENTER]

    width, height = section.extent
    # The enlargement stands inside the axes, right of the tissue: nothing can be clipped or overlap.
    side, gap = 0.6 * np.sqrt(width * height), 0.08 * width
    inches = section.figsize()
    (panel,) = get_panels(ax, 1, (inches[0] * (1 + (gap + side) / width), inches[1]))
    draw_spots(panel, section, colors=_TISSUE)
    draw_spots(panel, members, colors=colors)
    x, y = section.xy.min(axis=0) - section.pitch
    panel.set(xlim=(x, x + width + gap + side), ylim=(y + max(height, side), y))
    panel.set_title(str(adata.obs_names[center]))

    corner = x + width + gap, y + (height - side) / 2
    inset = panel.inset_axes((*corner, side, side), transform=panel.transData)
    draw_spots(inset, section, colors=_TISSUE, size=0.7).set_zorder(0)
    lines = [[xy[center], xy[neighbor]] for neighbor in neighbors]
    inset.add_collection(LineCollection(lines, colors="0.4", linewidths=1, zorder=0.5), autolim=False)
    draw_spots(inset, members, colors=colors, size=0.7)
    middle = (members.xy.min(axis=0) + members.xy.max(axis=0)) / 2
    reach = np.ptp(members.xy, axis=0).max() / 2 + section.pitch
    (left, top), (right, bottom) = middle - reach, middle + reach
    inset.set(xlim=(left, right), ylim=(bottom, top), frame_on=True, title=f"{len(neighbors)} neighbors")
    inset.spines[:].set_color("0.5")
    # A frame around the neighborhood on the tissue, and beams from there to the enlargement.
    frame: dict[str, Any] = {"fill": False, "edgecolor": "0.5", "linewidth": 0.8, "clip_on": False}
    panel.add_patch(Rectangle((left, top), 2 * reach, 2 * reach, **frame))
    beams = [[(right, top), corner], [(right, bottom), (corner[0], corner[1] + side)]]
    panel.add_collection(LineCollection(beams, colors="0.5", linewidths=0.8), autolim=False)
    return panel


def _position(adata: AnnData, spot: Any) -> int:
    if isinstance(spot, str):
        if spot not in adata.obs_names:
            raise MissingKeyError(
                f"Found no spot {spot!r}; expected a name in adata.obs_names, such as {adata.obs_names[0]!r}."
            )
        return int(np.flatnonzero(adata.obs_names == spot)[0])
    if not isinstance(spot, int | np.integer) or not -adata.n_obs <= spot < adata.n_obs:
        raise ArgumentError(f"Found spot={spot!r}; expected a position from 0 to {adata.n_obs - 1}, or a name.")
    return int(spot % adata.n_obs)
