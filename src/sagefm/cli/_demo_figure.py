"""The picture of ``sagefm demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sagefm import pl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

#: A marker of layer 5, neither among the highest genes nor smooth by itself.
GENE = "PCP4"
#: Diameter at which touching circles of a hexagonal array leave no gaps: 2 / sqrt(3).
_SPOT = 1.155
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
}


def draw(adata: AnnData, path: Path, *, pair: tuple[str, str], chosen: Sequence[tuple[str, str]], r: float) -> None:
    """Draw embedding, clusters, an imputed gene, and perturbations of a section, and save the figure.

    Parameters
    ----------
    adata
        Section on which all verbs were run.
    path
        File to write.
    pair
        Source and target whose dose curve is shown.
    chosen
        Pairs that are framed in the heatmap.
    r
        Recovery of the imputed gene on held-out spots.
    """
    with mpl.rc_context(_STYLE):
        engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.02, hspace=0.02)
        figure = Figure(figsize=(14.4, 8.8), layout=engine)
        axes = figure.subplots(2, 3, width_ratios=(1.1, 1.1, 1))
        pl.embedding(adata, ax=axes[0, 0], title="Embedding: like colors, like spots", size=_SPOT)
        pl.embedding(adata, color="leiden", ax=axes[0, 1], title="Leiden clusters of the embedding", size=_SPOT)
        for panel in axes[0, :2]:
            panel.set_anchor("E")  # as panels with a color bar: tissues of a column stand above each other
        pl.perturbation(adata, *pair, ax=axes[0, 2])
        pl.imputation(adata, GENE, axes=axes[1, :2], size=_SPOT)
        axes[1, 1].set_title(f"{GENE}, imputed (r = {r:.2f} on held-out spots)")
        pl.perturbation_heatmap(adata, value="z", frame=chosen, ax=axes[1, 2])
        axes[1, 2].set_title("Ten genes on ten; framed: chosen pairs")
        figure.savefig(path, dpi=140, pil_kwargs={"optimize": True})
