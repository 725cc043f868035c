"""The strongest couplings: as a graph, or those of one source as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.lines import Line2D

from sagefm._arguments import key_name, whole_number
from sagefm._arguments import number as check_number
from sagefm._constants import NETWORK_KEY
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._tissue import get_panels, make_room, select_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

#: Red and blue at the ends of matplotlib's RdBu_r, where it is still easy to read.
POSITIVE, NEGATIVE = "#B2182B", "#2166AC"
#: Box of a gene: of a source, of a target, and of one that is both.
_ROLES: Final = {"source": "#F6D9A8", "target": "#FFFFFF", "source and target": "#D9D9D9"}
#: Points.
_THINNEST, _THICKEST = 0.8, 4.5
_TWO_SIDED_95 = 1.96


def network(
    adata: Any,
    *,
    source: str | None = None,
    n_edges: int = 30,
    max_qval: float | None = 0.05,
    library: str | None = None,
    key: str = NETWORK_KEY,
    table_key: str | None = None,
    mod: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the strongest couplings as a graph, or those of one source as bars.

    In the graph, a line is red where the target is higher with more of the source around, and blue where it is lower; its
    width grows with ``|z|``. It has no arrow: with mutual neighborhoods a coupling has no direction, and a pair that was
    tested both ways is drawn once. The same couplings are always placed alike.

    With `source`, bars are the effects on its targets, with 95 % confidence intervals; pale bars do not pass `max_qval`.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section on which :func:`sagefm.tl.regulatory_network` was run; or what it
        returned of a corpus.
    source
        Gene whose targets are drawn as bars. Default: draw the graph.
    n_edges
        Draw at most this many couplings, those with the smallest p-values.
    max_qval
        Draw lines for couplings with a smaller ``qval`` only; None draws the strongest, whether significant or not.
    library
        Library whose couplings are drawn. Default: the only one, or the combined ones.
    key
        The ``key_added`` of :func:`sagefm.tl.regulatory_network`.
    ax
        Axes to draw into.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.

    Returns
    -------
    The Axes. If no coupling passes `max_qval`, they say so, and what to do.

    Raises
    ------
    sagefm.errors.SagefmError
        No network was computed, the source or library is not in it, or `n_edges` is below 1.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.regulatory_network(adata, sources=["CXCL12", "CCL19"], targets=["CXCR4", "CCR7", "CD74"])
    >>> ax = sagefm.pl.network(adata, max_qval=None)
    >>> ax = sagefm.pl.network(adata, source="CCL19")
    """
    n_edges = whole_number(n_edges, name="n_edges", minimum=1)
    if source is not None:
        key_name(source, name="source")
    if max_qval is not None:
        check_number(max_qval, name="max_qval", is_valid=lambda x: x > 0, expected="a number above 0, or None")
    result = network_result(adata, key, table_key, mod)
    edges = edges_of(result["edges"], library).sort_values("pval", kind="stable")
    if source is not None:
        return _draw_targets(edges, source, n_edges, max_qval, ax)
    # Of a pair that was tested both ways, the one with the smaller p-value.
    pairs = np.sort(edges[["source", "target"]].to_numpy(dtype=str), axis=1).reshape(-1, 2)
    strongest = edges[~_repeated(pairs)]
    strongest = strongest[strongest["z"] != 0]
    if max_qval is not None:
        strongest = strongest[strongest["qval"] < max_qval]
    if strongest.empty:
        return _say_there_is_none(edges, max_qval, int(result["params"]["n_pairs"]), ax)
    return _draw_graph(strongest.head(n_edges), ax)


def network_result(adata: Any, key: str, table_key: str | None, mod: str | None) -> dict[str, Any]:
    """Return what `tl.regulatory_network` has stored; of a corpus, it has returned it."""
    if isinstance(adata, dict) and "edges" in adata:
        return adata
    stored = select_table(adata, table_key, mod).uns
    if key_name(key, name="key") not in stored:
        raise MissingKeyError(f"Found no {key!r} in adata.uns; run sagefm.tl.regulatory_network(adata) first.")
    result: dict[str, Any] = stored[key]
    return result


def edges_of(edges: pd.DataFrame, library: str | None) -> pd.DataFrame:
    """Return the couplings of a library; by default those of the only one, or the combined ones."""
    if "library" not in edges:
        if library is not None:
            raise ArgumentError(f"Found library={library!r}, and couplings of one section; pass library=None.")
        return edges
    name = "combined" if library is None else str(library)
    rows = edges[edges["library"].astype(str) == name]
    if rows.empty and library is not None:
        raise MissingKeyError(f"Found no couplings of library={library!r}; found {sorted(set(edges['library']))}.")
    return rows


def number(value: float, digits: int = 2) -> str:
    """Return a number of few digits, with a minus sign that is one."""
    # Zero has no sign.
    return f"{value + 0.0:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def _repeated(pairs: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return whether a pair stands further up (n_pairs,)."""
    first = np.unique(pairs, axis=0, return_index=True)[1]
    return np.isin(np.arange(len(pairs)), first, invert=True)


def _draw_graph(edges: pd.DataFrame, ax: Axes | None) -> Axes:
    import networkx as nx

    graph = nx.Graph()
    for edge in edges.itertuples():
        graph.add_edge(edge.source, edge.target, z=edge.z)
    # Gravity holds unconnected parts together; a little more of it than by default leaves room for their lines.
    places = nx.spring_layout(graph, seed=0, method="energy", gravity=1.5, iterations=300)
    z = np.array([z for *_, z in graph.edges.data("z")])
    widths = _THINNEST + (_THICKEST - _THINNEST) * np.abs(z) / np.abs(z).max()

    side = float(np.clip(1.1 * np.sqrt(len(graph)), 3.2, 8.0))
    (panel,) = get_panels(ax, 1, (1.15 * side + 1.5, side))
    lines = nx.draw_networkx_edges(
        graph, places, ax=panel, width=widths, edge_color=np.where(z > 0, POSITIVE, NEGATIVE), alpha=0.75
    )
    lines.set_zorder(1)
    sources, targets = set(edges["source"]), set(edges["target"])
    roles = {gene: _role(gene in sources, gene in targets) for gene in graph}
    for gene, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.25", "facecolor": _ROLES[roles[gene]], "edgecolor": "0.4", "linewidth": 0.6}
        panel.text(x, y, gene, ha="center", va="center", fontsize=8, bbox=box, zorder=2)
    low, high = (bound(list(places.values()), axis=0) for bound in (np.min, np.max))
    panel.set(xlim=(low[0] - 0.22, high[0] + 0.22), ylim=(low[1] - 0.1, high[1] + 0.1))
    panel.set_axis_off()
    make_room(panel)
    panel.legend(
        handles=_key_of_graph(z, [role for role in _ROLES if role in roles.values()]),
        loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8,
    )  # fmt: skip
    return panel


def _role(is_source: bool, is_target: bool) -> str:
    return "source and target" if is_source and is_target else "source" if is_source else "target"


def _key_of_graph(z: NDArray[np.floating], roles: list[str]) -> list[Line2D]:
    """Return the entries of the legend: signs, widths, roles."""
    signs = [
        Line2D([], [], color=color, linewidth=2.5, label=f"{name} coupling")
        for name, color, shown in (("positive", POSITIVE, (z > 0).any()), ("negative", NEGATIVE, (z < 0).any()))
        if shown
    ]
    largest, smallest = np.abs(z).max(), np.abs(z).min()
    widths = [
        Line2D(
            [],
            [],
            color="0.5",
            linewidth=_THINNEST + (_THICKEST - _THINNEST) * size / largest,
            label=f"|z| = {size:.1f}",
        )
        for size in dict.fromkeys((float(largest), float(smallest)))
    ]
    boxes = [
        Line2D([], [], linestyle="", marker="s", markersize=8, color=_ROLES[role], markeredgecolor="0.4", label=role)
        for role in roles
    ]
    return signs + widths + boxes


def _draw_targets(edges: pd.DataFrame, source: str, n_edges: int, max_qval: float | None, ax: Axes | None) -> Axes:
    rows = edges[edges["source"] == source].head(n_edges)
    if rows.empty:
        raise MissingKeyError(
            f"Found no couplings of {source!r}; run sagefm.tl.regulatory_network(adata, sources=[{source!r}]) first."
        )
    effect, half = rows["effect"].to_numpy(), _TWO_SIDED_95 * rows["se"].to_numpy()
    passes = np.ones(len(rows), bool) if max_qval is None else (rows["qval"] < max_qval).to_numpy()
    # Names stand beside the bars, at about 0.1 inches a letter.
    letters = max(map(len, rows["target"]))
    (panel,) = get_panels(ax, 1, (3.4 + 0.1 * letters, 0.9 + 0.24 * len(rows)))
    make_room(panel)
    place = np.arange(len(rows))
    bars = panel.barh(place, effect, height=0.7, color=np.where(effect > 0, POSITIVE, NEGATIVE))
    for bar, is_significant in zip(bars, passes, strict=True):
        bar.set_alpha(0.9 if is_significant else 0.3)
    panel.errorbar(effect, place, xerr=half, fmt="none", ecolor="0.2", elinewidth=0.9, capsize=2)
    panel.axvline(0, color="0.2", linewidth=0.8)
    for y, q in zip(place, rows["qval"], strict=True):
        panel.text(1.02, float(y), f"q = {number(q)}", transform=panel.get_yaxis_transform(), va="center", fontsize=8)
    panel.set_yticks(place, rows["target"])
    panel.set(
        title=f"{source} around the spot",
        xlabel="effect on the target at the spot\n(log rate per sd around; 95 % interval)",
        ylim=(len(rows) - 0.4, -0.6),
    )
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)
    return panel


def _say_there_is_none(edges: pd.DataFrame, max_qval: float | None, n_pairs: int, ax: Axes | None) -> Axes:
    """Return Axes that say that there is no coupling to draw, and what to do."""
    (panel,) = get_panels(ax, 1, (5.0, 2.2))
    bound = "" if max_qval is None else f" with q < {max_qval:g}"
    lines = [f"No coupling{bound} among {n_pairs:,} pairs."]
    if max_qval is not None and len(edges):
        best = edges.iloc[0]
        lines.append(f"Smallest: q = {number(best['qval'])}, {best['source']} → {best['target']}.")
        lines.append("Name fewer pairs (sources=, targets=), or draw\nthe strongest all the same: max_qval=None.")
    else:
        lines.append("Name the pairs of interest: sources=, targets=.")
    panel.text(0.5, 0.5, "\n".join(lines), transform=panel.transAxes, ha="center", va="center", linespacing=1.6)
    panel.set_axis_off()
    return panel
