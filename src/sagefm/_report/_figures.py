"""Figures of a report: drawn by matplotlib, and written as SVG that takes the colors of the page."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, replace
from html import escape
from io import StringIO
from itertools import cycle
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sagefm import pl
from sagefm._constants import DOMAIN_KEY, EMBEDDING_KEY
from sagefm.data._table import find_spots
from sagefm.pl._embedding import MISSING, PALETTE
from sagefm.pl._tissue import Section as Spots
from sagefm.pl._tissue import draw_spots, select_section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from sagefm._report._sections import Section

#: Inches: the width of a panel; and the diameter of spots that leave no gaps, in distances of neighbors.
_WIDTH, _SPOT = 3.1, 1.155
#: Stands for the color of the page's text, which depends on the theme.
_TEXT = "#010203"
#: The one color of the page.
ACCENT = "#0f766e"
_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "sagefm",
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.dpi": 72,
}
_DPI = 180
#: Of effects; light enough for a dark page, and dark enough for a light one.
_POSITIVE, _NEGATIVE = "#d1495b", "#3a86c8"
_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Picture:
    """An SVG, its title, and what it shows in words, for those who cannot see it."""

    svg: str
    title: str
    alt: str


def colors_of(domains: pd.Series, stored: Sequence[str] = ()) -> dict[str, str]:
    """Return the color of each domain: those of scanpy, if they were stored, or of :func:`sagefm.pl.domains`."""
    names = [str(name) for name in domains.cat.categories]
    palette = stored if len(stored) >= len(names) else PALETTE
    return {name: to_hex(palette[i % len(palette)]) for i, name in enumerate(names)}


def spots_of(section: Section) -> Spots:
    """Return the spots of a section, to draw them."""
    return select_section(section.table, section.table, section.keys, None)


def draw_values(
    section: Section, values: NDArray[Any], title: str, alt: str, *, cmap: str = "viridis", unit: str = ""
) -> Picture:
    """Return numbers on tissue, with a color bar below."""

    def draw(ax: Axes) -> None:
        spots = draw_spots(ax, spots_of(section), values=values, cmap=cmap, size=_SPOT)
        bar = ax.figure.colorbar(
            spots, cax=ax.inset_axes((0.1, -0.07, 0.8, 0.035)), orientation="horizontal", label=unit
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=2)
        bar.locator = mpl.ticker.MaxNLocator(4)
        bar.update_ticks()

    return _picture(draw, title, alt, height=_height(section) + 0.45)


def draw_tissue(section: Section) -> Picture:
    """Return the image of the tissue."""
    spots = replace_image(spots_of(section), section)

    def draw(ax: Axes) -> None:
        circles = draw_spots(ax, spots, colors="none", size=_SPOT)
        circles.set_edgecolor("none")

    return _picture(draw, "Tissue", f"Image of the tissue of {section.name}.", height=_height(section) + 0.45)


def replace_image(spots: Spots, section: Section) -> Spots:
    """Return spots that are drawn on the image of their section."""
    return spots._replace(image=section.image)


def draw_domains(section: Section, colors: dict[str, str], title: str = "Domains") -> Picture:
    """Return domains on tissue with their borders."""

    def draw(ax: Axes) -> None:
        section.table.uns[f"{DOMAIN_KEY}_colors"] = list(colors.values())
        keys = section.keys
        pl.domains(section.table, spatial_key=keys.spatial_key, ax=ax, legend=False, title="", size=_SPOT)

    sizes = section.table.obs[DOMAIN_KEY].value_counts(normalize=True, sort=False)
    shares = ", ".join(f"domain {name} {share:.0%}" for name, share in sizes.items() if share)
    return _picture(
        draw, title, f"Map of the domains of {section.name}: {shares} of the spots.", height=_height(section)
    )


def draw_embedding(section: Section) -> Picture:
    """Return embeddings as colors on tissue."""
    alt = f"Embeddings of {section.name} as colors on tissue: spots of like color are alike."
    draw = lambda ax: pl.embedding(
        section.table, spatial_key=section.keys.spatial_key, basis=EMBEDDING_KEY, ax=ax, title="", size=_SPOT
    )
    return _picture(draw, "Embedding on tissue", alt, height=_height(section))


def draw_scatter(xy: NDArray[np.float64], labels: pd.Series, colors: dict[str, str], title: str, alt: str) -> Picture:
    """Return the map of embeddings, colored by categories."""

    def draw(ax: Axes) -> None:
        shown = [colors.get(str(label), to_hex(MISSING)) for label in labels]
        order = np.random.default_rng(0).permutation(len(xy))
        ax.scatter(xy[order, 0], xy[order, 1], s=7, c=np.array(shown)[order], linewidths=0, rasterized=True)
        ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        ax.spines[:].set_visible(False)
        ax.margins(0.03)

    return _picture(draw, title, alt, height=_WIDTH * 0.95)


def draw_histogram(
    values: dict[str, NDArray[np.float64]],
    title: str,
    alt: str,
    *,
    label: str,
    colors: Sequence[str],
    log: bool = False,
) -> Picture:
    """Return histograms of numbers, of several sections over each other."""

    def draw(ax: Axes) -> None:
        pooled = np.concatenate([numbers[np.isfinite(numbers)] for numbers in values.values()])
        low, high = np.quantile(pooled, [0, 0.999])
        edges = np.geomspace(max(low, 1), max(high, 2), 41).tolist() if log else np.linspace(low, high, 41).tolist()
        for (name, numbers), color in zip(values.items(), cycle(colors), strict=False):
            weights = np.full(len(numbers), 1 / max(len(numbers), 1)) if len(values) > 1 else None
            kind = {"histtype": "step", "linewidth": 1.4} if len(values) > 1 else {"linewidth": 0}
            ax.hist(np.clip(numbers, edges[0], edges[-1]), edges, color=color, weights=weights, label=name, **kind)
        ax.set(xlabel=label, ylabel="share of spots" if len(values) > 1 else "", xscale="log" if log else "linear")
        ax.tick_params(length=3)

    return _picture(draw, title, alt, height=2.2, is_equal=False)


def draw_shares(shares: pd.DataFrame, colors: dict[str, str], alt: str) -> Picture:
    """Return bars of the shares of domains (columns) of sections (rows)."""

    def draw(ax: Axes) -> None:
        start = np.zeros(len(shares))
        for name in shares:
            ax.barh(np.arange(len(shares)), shares[name], left=start, color=colors[str(name)], height=0.72)
            start += shares[name].to_numpy()
        ax.set_yticks(np.arange(len(shares)), [_short(name) for name in shares.index])
        ax.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5), xlabel="share of spots")
        ax.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    return _picture(draw, "Shares of domains", alt, width=5.2, height=0.7 + 0.34 * len(shares), is_equal=False)


def draw_dots(means: pd.DataFrame, shares: pd.DataFrame, alt: str) -> Picture:
    """Return markers (rows) of domains (columns): color for the scaled mean, size for the share of spots that show them."""

    def draw(ax: Axes) -> None:
        y, x = np.mgrid[: len(means), : means.shape[1]]
        dots = ax.scatter(
            x.ravel(), y.ravel(), s=4 + 95 * shares.to_numpy().ravel(), c=means.to_numpy().ravel(), cmap="viridis", vmin=0, vmax=1,
            linewidths=0,
        )  # fmt: skip
        ax.set_yticks(np.arange(len(means)), means.index, fontstyle="italic")
        ax.set_xticks(np.arange(means.shape[1]), means.columns)
        ax.set(xlabel="domain", xlim=(-0.6, means.shape[1] - 0.4), ylim=(len(means) - 0.4, -0.6))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        bar = ax.figure.colorbar(dots, ax=ax, fraction=0.04, pad=0.03, aspect=30, label="mean, of the highest domain")
        bar.outline.set_visible(False)

    return _picture(draw, "Markers of domains", alt, width=5.2, height=0.8 + 0.23 * len(means), is_equal=False)


def draw_effects(edges: pd.DataFrame, alt: str) -> Picture:
    """Return effects of couplings with their intervals, and the smallest effect that each pair would have shown."""

    def draw(ax: Axes) -> None:
        place = np.arange(len(edges))
        for y, pair in zip(place, edges.itertuples(), strict=True):
            ax.plot(
                [-pair.detectable_effect, pair.detectable_effect],
                [y, y],
                color=_TEXT,
                alpha=0.16,
                linewidth=8,
                solid_capstyle="butt",
            )
        shown = np.where(edges["effect"] > 0, _POSITIVE, _NEGATIVE)
        half = _TWO_SIDED_95 * edges["se"]
        ax.hlines(place, edges["effect"] - half, edges["effect"] + half, color=shown, linewidth=1.4)
        is_sure = (edges["qval"] < 0.05).to_numpy()
        ax.scatter(
            edges["effect"],
            place,
            s=26,
            c=np.where(is_sure, shown, "none"),
            edgecolors=list(shown),
            linewidths=1.3,
            zorder=3,
        )
        ax.axvline(0, color=_TEXT, linewidth=0.6)
        ax.set_yticks(place, [f"{pair.source} – {pair.target}" for pair in edges.itertuples()], fontstyle="italic")
        ax.set(ylim=(len(edges) - 0.4, -0.6), xlabel="effect on the log rate, per standard deviation around")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    return _picture(draw, "Strongest couplings", alt, width=5.2, height=0.7 + 0.3 * len(edges), is_equal=False)


def _short(name: object, n: int = 24) -> str:
    text = str(name)
    return text if len(text) <= n else f"{text[: n - 1]}…"


def _height(section: Section) -> float:
    """Return the inches that a panel of the tissue is high."""
    spots = find_spots(section.table, section.table, replace(section.keys, library_key=None)).coordinates
    width, height = np.ptp(spots, axis=0)
    return _WIDTH * float(np.clip(height / width if width else 1, 0.35, 1.8))


def _picture(
    draw: Callable[[Axes], Any], title: str, alt: str, *, height: float, width: float = _WIDTH, is_equal: bool = True
) -> Picture:
    """Return a panel as SVG."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.subplots()
        draw(ax)
        if is_equal:
            ax.set_title("")
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, dpi=_DPI, metadata={"Date": None, "Creator": None})
    return Picture(_for_page(file.getvalue(), alt), title, alt)


def _for_page(svg: str, alt: str) -> str:
    """Return an SVG as a part of a page: named for screen readers, in the page's color, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace(_TEXT, "currentColor")
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    prefix = f"f{zlib.crc32(svg.encode())}-"
    svg = re.sub(r' id="([\w.-]+)"', lambda match: f' id="{prefix}{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{prefix}", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    box = size[0] if size else ""
    return re.sub(
        r"<svg[^>]*>",
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box} role="img" aria-label="{escape(alt)}">',
        svg,
        count=1,
    )
