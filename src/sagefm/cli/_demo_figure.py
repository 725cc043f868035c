"""The picture of ``sagefm demo``."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from sagefm import pl
from sagefm.pl._tissue import draw_spots, get_section

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

#: A marker of layer 5, neither among the highest genes nor smooth by itself.
GENE = "PCP4"
_DPI = 140
#: Diameter at which touching circles of a hexagonal array leave no gaps: 2 / sqrt(3).
_SPOT = 1.155
#: Qualitative colors of like lightness, told apart side by side.
_PALETTE = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#1f5f5b", "#c9a2e8",
    "#b3364a", "#e3c29b", "#5fd3f3", "#7a8f2a", "#2f3e6e", "#d45fbf", "#c7d84b", "#8a5a00", "#9c6b4e", "#9498a0",
)  # fmt: skip
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
}


def draw(adata: AnnData, path: Path, *, source: str, target: str, r: float) -> None:
    """Draw embedding, clusters, an imputed gene, and perturbations of a section, and save the figure.

    Parameters
    ----------
    adata
        Section on which all verbs were run.
    path
        File to write.
    source, target
        Pair whose dose curve is shown.
    r
        Recovery of the imputed gene on held-out spots.
    """
    with mpl.rc_context(_STYLE):
        engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.02, hspace=0.02)
        figure = Figure(figsize=(14.4, 8.8), layout=engine)
        axes = figure.subplots(2, 3, width_ratios=(1.1, 1.1, 1))
        pl.embedding(adata, ax=axes[0, 0], title="Embedding: like colors, like spots", size=_SPOT)
        _draw_clusters(adata, axes[0, 1])
        for panel in axes[0, :2]:
            panel.set_anchor("E")  # as panels with a color bar: tissues of a column stand above each other
        pl.perturbation(adata, source, target, ax=axes[0, 2])
        pl.imputation(adata, GENE, axes=axes[1, :2], size=_SPOT)
        axes[1, 1].set_title(f"{GENE}, imputed (r = {r:.2f} on held-out spots)")
        pl.perturbation_heatmap(adata, value="z", ax=axes[1, 2])
        axes[1, 2].set_title("Ten genes on ten; framed: chosen pairs")
        _frame_diagonal(axes[1, 2])
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Save with 64 levels a color channel: thousands of spots with blended edges take half the bytes."""
    from PIL import Image

    with io.BytesIO() as buffer:
        figure.savefig(buffer, dpi=_DPI, format="png")
        image = Image.open(buffer).convert("RGB")
    image.point([min(round(level / 4) * 4, 255) for level in range(256)] * 3).save(
        path, dpi=(_DPI, _DPI), optimize=True
    )


def _draw_clusters(adata: AnnData, ax: Axes) -> None:
    section = get_section(adata, spatial_key="spatial")
    clusters = adata.obs["leiden"].cat
    colors = [_PALETTE[i % len(_PALETTE)] for i in range(len(clusters.categories))]
    draw_spots(ax, section, colors=[colors[code] for code in clusters.codes.iloc[section.rows]], size=_SPOT)
    ax.set_title("Leiden clusters of the embedding")
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=7, color=color, label=name)
        for color, name in zip(colors, clusters.categories, strict=True)
    ]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handletextpad=0.1)
    adata.uns["leiden_colors"] = colors


def _frame_diagonal(ax: Axes) -> None:
    for i in range(len(ax.get_xticks())):
        ax.add_patch(Rectangle((i, i), 1, 1, fill=False, edgecolor="black", linewidth=1.4, clip_on=False))
