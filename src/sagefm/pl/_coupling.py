"""One coupling: the source around every spot, the target at the spot, and one against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sagefm._arguments import key_name, whole_number
from sagefm._constants import NETWORK_KEY, SPATIAL_KEY
from sagefm.data._table import TableKeys
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._network import edges_of, network_result, number
from sagefm.pl._tissue import (
    COLORBAR_WIDTH,
    add_colorbar,
    check_size,
    draw_spots,
    get_panels,
    robust_limits,
    select_section,
    select_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

#: Blue of the Okabe-Ito palette.
_BLUE = "#0072B2"
_TWO_SIDED_95 = 1.96


def coupling(
    adata: Any,
    source: str,
    target: str,
    *,
    n_bins: int = 10,
    key: str = NETWORK_KEY,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    library: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    axes: Sequence[Axes] | NDArray[Any] | None = None,
    size: float = 1.0,
    img: bool = False,
    cmap: str = "RdBu_r",
) -> NDArray[Any]:
    """Draw a coupling: the source around every spot and the target at the spot, on tissue and against each other.

    Shown are the residuals that :func:`sagefm.tl.regulatory_network` compares: what depth, cell types and domains do not
    explain. In the third panel, spots are binned by the source around them. Points are means of the target in a bin, and
    the band their 95 % interval as if spots were independent; the test takes account of their dependence, and is
    wider. The line is the fit to all spots, the dashed one what both genes share at one spot: the coupling is what lies
    between the two.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section on which :func:`sagefm.tl.regulatory_network` was run with
        ``fields=True``.
    source, target
        Gene around the spot, and gene at the spot.
    n_bins
        Number of bins, each with the same number of spots; 10 for deciles.
    key
        The ``key_added`` of :func:`sagefm.tl.regulatory_network`.
    axes
        Three Axes to draw into.
    cmap
        Colormap of the maps, with its middle at zero.
    spatial_key, library_key, library, table_key, mod, size, img
        As in :func:`sagefm.pl.embedding`.

    Returns
    -------
    Array of the three Axes: source around, target, and the curve.

    Raises
    ------
    sagefm.errors.SagefmError
        The pair was not tested, or its residuals were not kept; coordinates do not exist; there are several libraries
        and none was chosen; or `n_bins` does not suit the number of spots.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> genes = {"sources": ["CXCL12"], "targets": ["CXCR4", "CD74"]}
    >>> sagefm.tl.regulatory_network(adata, **genes, fields=True)
    >>> around, center, curve = sagefm.pl.coupling(adata, "CXCL12", "CD74")
    """
    table = select_table(adata, table_key, mod)
    keys = TableKeys(spatial_key=spatial_key, library_key=library_key)
    section = select_section(adata, table, keys, library, img=img)
    check_size(size)
    key_name(source, name="source")
    key_name(target, name="target")
    n_bins = whole_number(n_bins, name="n_bins", minimum=2)
    edges = edges_of(network_result(adata, key, table_key, mod)["edges"], library)
    call = f"sagefm.tl.regulatory_network(adata, sources=[{source!r}], targets=[{target!r}], fields=True)"
    rows = edges[(edges["source"] == source) & (edges["target"] == target)]
    if rows.empty:
        raise MissingKeyError(f"Found no coupling of {source!r} and {target!r} under {key!r}; run {call} first.")
    around, center = (
        _residuals(table, f"{key}_{side}", gene, call)[section.rows]
        for side, gene in (("around", source), ("center", target))
    )
    if not 2 <= n_bins <= len(around) // 2:
        raise ArgumentError(f"Found n_bins={n_bins} and {len(around)} spots; expected 2 to {len(around) // 2} bins.")

    panels = get_panels(axes, 3, section.figsize(beside=COLORBAR_WIDTH), argument="axes")
    maps = ((f"{source} around the spot", around), (f"{target} at the spot", center))
    for panel, (title, values) in zip(panels[:2], maps, strict=True):
        spots = draw_spots(panel, section, values=values, cmap=cmap, size=size)
        limit = max(map(abs, robust_limits(values)))
        spots.set_clim(-limit, limit)
        add_colorbar(panel, spots, "adjusted residual (sd)", extend="both")
        panel.set_title(title)
    _draw_curve(panels[2], around, center, rows.iloc[0], n_bins)
    panels[2].set(
        title=f"{source} → {target}",
        xlabel=f"{source} around the spot (sd)",
        ylabel=f"{target} at the spot (sd)",
    )
    return np.array(panels, dtype=object)


def _residuals(table: AnnData, name: str, gene: str, call: str) -> NDArray[np.float64]:
    """Return the residuals of a gene (n_spots,)."""
    fields = table.obsm.get(name)
    if not isinstance(fields, pd.DataFrame) or gene not in fields:
        raise MissingKeyError(f"Found no residuals of {gene!r} in adata.obsm[{name!r}]; run {call} first.")
    return fields[gene].to_numpy(dtype=np.float64)


def _draw_curve(
    panel: Axes, around: NDArray[np.float64], center: NDArray[np.float64], pair: pd.Series, n_bins: int
) -> None:
    """Draw means of the target in bins of the source around, the line through all spots, and what both genes share."""
    bins = np.array_split(np.argsort(around, kind="stable"), n_bins)
    x, mean = (np.array([values[spots].mean() for spots in bins]) for values in (around, center))
    half = _TWO_SIDED_95 * np.array([center[spots].std(ddof=1) / np.sqrt(len(spots)) for spots in bins])
    panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    panel.fill_between(x, mean - half, mean + half, color=_BLUE, alpha=0.2, linewidth=0, label="95 % interval")
    panel.plot(x, mean, color=_BLUE, marker="o", markersize=4, linewidth=0, label=f"mean in {n_bins} bins")
    ends = x[[0, -1]]
    # Both fields have mean 0 and standard deviation 1: slopes are correlations.
    panel.plot(ends, pair["r"] * ends, color="black", linewidth=1.2, label="fit")
    if pair["shared"] > 0:
        slope = np.sign(pair["r"]) * pair["shared"]
        panel.plot(ends, slope * ends, color="0.4", linewidth=1.2, linestyle="--", label="what they share")

    low, high = (pair["effect"] + sign * _TWO_SIDED_95 * pair["se"] for sign in (-1, 1))
    text = (
        f"effect = {number(pair['effect'])} ({number(low)} to {number(high)})\n"
        f"q = {number(pair['qval'])}\n"
        f"detectable effect = {number(pair['detectable_effect'])}"
    )
    # Text in a corner that the line leaves free, the legend in the other.
    rises = pair["r"] >= 0
    panel.text(
        0.03, 0.97 if rises else 0.03, text, transform=panel.transAxes, va="top" if rises else "bottom", fontsize=8
    )
    panel.legend(loc="lower right" if rises else "upper right", frameon=False, fontsize=8)
    panel.margins(y=0.35)
    panel.spines[["top", "right"]].set_visible(False)
