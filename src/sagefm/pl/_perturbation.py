"""Response of a target to a source that is changed: one pair, or all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.patches import Rectangle

from sagefm._arguments import key_name, one_of, shown, whole_number
from sagefm._constants import PERTURB_KEY
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.pl._tissue import add_colorbar, get_panels, select_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Blue of the Okabe-Ito palette.
_BLUE = "#0072B2"
#: Inches.
_CELL = 0.26
#: Where a source was changed.
_PLACES = {"neighborhood": "neighbors", "center": "center", "both": "center and neighbors"}


def perturbation(
    adata: Any,
    source: str,
    target: str,
    *,
    key: str = PERTURB_KEY,
    table_key: str | None = None,
    mod: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how the prediction of a target at the center responds to a source, in its neighbors for example.

    The line is the mean over spots of the change relative to the first level; the band spans the 10 % to 90 % quantiles
    over spots. The text gives the effect, and the pair's coupling with its q, which is measured on the section and not
    predicted by the network.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section on which :func:`sagefm.tl.perturb` was run.
    source, target
        Gene or complex that was changed, and the one that was read at the center.
    key
        The ``key_added`` of :func:`sagefm.tl.perturb`.
    ax
        Axes to draw into.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.

    Returns
    -------
    The Axes.

    Raises
    ------
    sagefm.errors.SagefmError
        This pair was not perturbed.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.perturb(adata, sources=["CXCL13"], targets=["CXCR5"])
    >>> ax = sagefm.pl.perturbation(adata, "CXCL13", "CXCR5")
    """
    result = _result(adata, key, table_key, mod)
    in_order = _pair(result["curves"], source, target)
    curve = in_order.sort_values("level")
    score = _pair(result["scores"], source, target).iloc[0]
    (panel,) = get_panels(ax, 1, (3.6, 3.0))
    level = curve["level"].to_numpy(dtype=float)
    panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    panel.fill_between(
        level, curve["low"], curve["high"], color=_BLUE, alpha=0.2, linewidth=0, label="10-90 % of spots"
    )
    panel.plot(level, curve["mean"], color=_BLUE, marker="o", markersize=4, label="mean")

    text = f"effect = {score['effect']:.3g}"
    if np.isfinite(score["qval"]):
        text += f"\ncoupling = {score['coupling']:.2g} (q = {score['qval']:.2g})"
    text = text.replace("-", "\N{MINUS SIGN}")
    # Curve and band begin at zero, at the first level: the corner there, away from where they go, is free.
    first, last = in_order["level"].iloc[[0, -1]]
    x, align = (0.03, "left") if first <= last else (0.97, "right")
    y, valign = (0.97, "top") if score["effect"] >= 0 else (0.03, "bottom")
    panel.text(x, y, text, transform=panel.transAxes, ha=align, va=valign)
    panel.margins(y=0.12)
    panel.set(
        title=f"{source} → {target}",
        xlabel=f"{source} ({_place(result)})\n{_unit(result, 'level')}",
        ylabel=f"predicted change of\n{target} ({_unit(result, 'response')})",
    )
    panel.spines[["top", "right"]].set_visible(False)
    return panel


def perturbation_heatmap(
    adata: Any,
    *,
    key: str = PERTURB_KEY,
    value: Literal["effect", "slope", "rho", "coupling"] = "effect",
    n_sources: int | None = 30,
    n_targets: int | None = 30,
    frame: Iterable[tuple[str, str]] = (),
    table_key: str | None = None,
    mod: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the scores of perturbed pairs, sources in rows and targets in columns.

    Stars mark pairs whose coupling has a ``qval`` below 0.05; pairs that were not scored are gray. Rows and columns are
    in the order of ``scores``. The color scale ends at the 98 % quantile of the absolute values.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section on which :func:`sagefm.tl.perturb` was run.
    key
        The ``key_added`` of :func:`sagefm.tl.perturb`.
    value
        Signed column of ``scores``.
    n_sources
        Show the sources with the largest absolute values, at most this many; None shows all.
    n_targets
        The same for targets, among the pairs of these sources.
    frame
        Pairs to frame, each a source and a target.
    ax
        Axes to draw into.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.

    Returns
    -------
    The Axes.

    Raises
    ------
    sagefm.errors.SagefmError
        Nothing was perturbed, `value` is not a signed score, or a number is below 1.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.perturb(adata, sources=["CXCL13", "CCL21"], targets=["CXCR5", "MS4A1"])
    >>> ax = sagefm.pl.perturbation_heatmap(adata, value="coupling", frame=[("CXCL13", "CXCR5")])
    """
    result = _result(adata, key, table_key, mod)
    one_of(value, ("effect", "slope", "rho", "coupling"), name="value")
    is_pairs = isinstance(frame, Iterable) and not isinstance(frame, str | bytes | dict)
    if not is_pairs or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in frame):
        raise ArgumentError(f"frame={shown(frame)}; expected pairs, each a source and a target.")
    scores = result["scores"].drop_duplicates(["source", "target"])
    scores = _strongest(scores, "source", value, n_sources)
    scores = _strongest(scores, "target", value, n_targets)
    sources, targets = (list(scores[column].unique()) for column in ("source", "target"))
    table = scores.pivot(index="source", columns="target", values=[value, "qval"])
    values = table[value].reindex(index=sources, columns=targets).to_numpy(dtype=float)
    qval = table["qval"].reindex(index=sources, columns=targets).to_numpy(dtype=float)

    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(finite, 0.98)) if len(finite) else 0.0
    limit = limit or float(finite.max(initial=0.0)) or 1.0
    width, height = _CELL * max(len(targets), 6), _CELL * max(len(sources), 6)
    # Names stand beside and below the cells, at about 0.1 inches a letter.
    letters = [max(map(len, map(str, names)), default=0) for names in (sources, targets)]
    (panel,) = get_panels(ax, 1, (width + 0.1 * letters[0] + 1.4, height + 0.1 * letters[1] + 0.3))
    panel.set_facecolor("0.85")
    mesh = panel.pcolormesh(
        np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-limit, vmax=limit, edgecolors="white", linewidth=0.5
    )
    row, column = np.nonzero(qval < 0.05)
    pale = np.abs(values[row, column]) < 0.6 * limit
    panel.scatter(column + 0.5, row + 0.5, s=28, marker="*", c=np.where(pale, "black", "white"), linewidths=0)
    for source, target in frame:
        if source in sources and target in targets:
            corner = targets.index(target), sources.index(source)
            panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.4, clip_on=False))
    panel.set_xticks(np.arange(len(targets)) + 0.5, targets, rotation=90)
    panel.set_yticks(np.arange(len(sources)) + 0.5, sources)
    panel.tick_params(length=0)
    panel.invert_yaxis()
    panel.set(xlabel="target (center)", ylabel=f"source ({_place(result)})")
    panel.spines[:].set_visible(False)
    units = {"effect": f"\n({_unit(result, 'response')})", "coupling": "\n(log rate per sd around)"}
    label = value + units.get(value, "")
    beyond = "both" if (finite > limit).any() else "neither"
    add_colorbar(panel, mesh, label, width=min(0.12 / width, 0.06), extend=beyond)
    return panel


def _result(adata: Any, key: str, table_key: str | None, mod: str | None) -> dict[str, Any]:
    """Return what `tl.perturb` has stored."""
    stored = select_table(adata, table_key, mod).uns
    if key_name(key, name="key") not in stored:
        raise MissingKeyError(f"Found no {key!r} in adata.uns; run sagefm.tl.perturb(adata, pairs=...) first.")
    result: dict[str, Any] = stored[key]
    return result


def _pair(table: pd.DataFrame, source: str, target: str) -> pd.DataFrame:
    """Return the rows of a pair."""
    key_name(source, name="source")
    key_name(target, name="target")
    rows = table[(table["source"] == source) & (table["target"] == target)]
    if rows.empty:
        call = f"sagefm.tl.perturb(adata, sources=[{source!r}], targets=[{target!r}])"
        raise MissingKeyError(f"Found no perturbation of {target!r} by {source!r}; run {call} first.")
    return rows


def _strongest(scores: pd.DataFrame, column: str, value: str, n: int | None) -> pd.DataFrame:
    """Return the scores of the `n` sources or targets that have the largest absolute values."""
    if n is None:
        return scores
    n = whole_number(n, name=f"n_{column}s", minimum=1)
    strength = scores[value].abs().groupby(scores[column].astype(str), sort=False).max()
    return scores[scores[column].isin(strength.nlargest(n).index)]


def _place(result: dict[str, Any]) -> str:
    """Return where the sources were changed."""
    return _PLACES[result["params"].get("where", "neighborhood")]


def _unit(result: dict[str, Any], what: str) -> str:
    return str(result["params"].get(f"{what}_unit", "model units"))
