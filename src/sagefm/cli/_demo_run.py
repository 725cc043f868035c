"""What ``sagefm demo`` computes, prints and draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sagefm import datasets, metrics, pl, tl
from sagefm import report as report_page
from sagefm._constants import DOMAIN_KEY, EMBEDDING_KEY, IMPUTED_KEY, PERTURB_KEY
from sagefm.checkpoint._resolve import resolve_model
from sagefm.cli._run import report
from sagefm.cli._verbs import echo_table
from sagefm.data._h5ad import write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from sagefm.model import Checkpoint

#: Genes of one structure of the cortex, which should respond to each other: myelin, astrocytes, blood vessels,
#: neurofilaments of large neurons, and the upper layers.
_STRUCTURES = [("PLP1", "MOBP"), ("GFAP", "AQP4"), ("MGP", "MYL9"), ("NEFL", "NEFM"), ("HPCAL1", "CUX2")]
#: Ligands and their receptors.
_LIGANDS = [("PTN", "PTPRZ1"), ("APOE", "LRP1"), ("SST", "SSTR2"), ("SPP1", "CD44"), ("FGF1", "FGFR3")]
#: A marker of layer 5, neither among the highest genes nor smooth by itself.
_GENE = "PCP4"
#: Six layers, white matter, and the artifact that this section is known for; and what counts as certain.
_N_DOMAINS = 8
_CERTAIN = 0.95
#: Share of spots that imputation and controls are compared on.
_TEST_SHARE = 0.1
#: Share of spots in which a gene must be seen to count in the summary.
_DETECTED = 0.1
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


def run_demo(folder: Path, model: str, *, seed: int, device: str) -> None:
    """Run all verbs on the bundled section, print a summary, and write section, scores and picture to a folder."""
    adata = datasets.dlpfc()
    click.echo(f"Human DLPFC, 10x Visium, bundled: {adata.n_obs:,} spots x {adata.n_vars:,} genes")
    checkpoint = resolve_model(model)
    training = checkpoint.training
    click.echo(f"Model {checkpoint.name!r} ({checkpoint.config.architecture} architecture)")
    report("trained on", f"{training.get('n_spots', 0):,} spots of {training.get('n_sections', 0)} sections")
    report("genes", f"{len(checkpoint.vocabulary):,}; sha256 {checkpoint.sha256[:12]}")

    tl.embed(adata, checkpoint, device=device)
    click.echo("Embedded every spot")
    report("dimensions", f'{adata.obsm[EMBEDDING_KEY].shape[1]}, in obsm["{EMBEDDING_KEY}"]')

    tl.domains(adata, _N_DOMAINS, rng=seed)
    is_certain = adata.obs[f"{DOMAIN_KEY}_probability"] > _CERTAIN
    click.echo("Divided the tissue into domains, without the model")
    report("domains", f'{_N_DOMAINS}, as asked, in obs["{DOMAIN_KEY}"]')
    report("certain", f"{is_certain.mean():.0%} of spots (probability above {_CERTAIN})")

    tl.impute(adata, checkpoint, device=device)
    recovered = _report_imputation(adata, seed)
    scores = _perturb(adata, checkpoint, device=device)

    _draw(adata, scores, recovered.loc[_GENE, "r"]).savefig(folder / "demo.png", dpi=140, pil_kwargs={"optimize": True})
    adata.uns[PERTURB_KEY]["scores"].to_csv(folder / "perturbation.csv", index=False)
    write_h5ad(adata, folder / "dlpfc.h5ad")
    report_page(adata, folder / "report.html", checkpoint, title="Human cortex (DLPFC)", rng=seed, device=device)


def _report_imputation(adata: AnnData, seed: int) -> pd.DataFrame:
    """Print how hidden genes are recovered, beside controls on the same spots; return it by gene."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    test, train = (np.sort(rows) for rows in np.split(order, [round(_TEST_SHARE * adata.n_obs)]))
    weak = metrics.controls(adata, predictors=["pca"], train=train, test=test, ridge=1.0)
    recovered = metrics.controls(adata, train=train, test=test, predicted=IMPUTED_KEY)
    detected = np.asarray((adata.X > 0).mean(axis=0)).ravel() >= _DETECTED
    median = {name: table["r"][detected].median() for name, table in recovered.items()}
    pca = max(median["pca"], weak["pca"]["r"][detected].median())
    qval = recovered["predicted"]["qval"][detected]
    click.echo(
        f"Imputed every gene while it was hidden: median r on {len(test)} spots, "
        f"{detected.sum():,} genes seen in {_DETECTED:.0%} of spots"
    )
    report("this model", f"{median['predicted']:.3f}; q < 0.05 for {int((qval < 0.05).sum()):,} of {len(qval):,} genes")
    report("section's average", "0 (by construction: r is over depth and the section's average)")
    report("mean of 14 neighbors", f"{median['neighborhood']:.3f}")
    report("20 PCs, linear", f"{pca:.3f} (of the other spots; the better of two settings)")
    return recovered["predicted"]


def _perturb(adata: AnnData, checkpoint: Checkpoint, *, device: str) -> pd.DataFrame:
    """Score the ten pairs and all other combinations of their genes; print and return the scores of the ten."""
    kinds = {**dict.fromkeys(_STRUCTURES, "same structure"), **dict.fromkeys(_LIGANDS, "ligand-receptor")}
    sources, targets = zip(*kinds, strict=True)
    combinations = pd.MultiIndex.from_product([sources, targets], names=["source", "target"]).to_frame(index=False)
    tl.perturb(adata, checkpoint, pairs=combinations, device=device)
    scores = adata.uns[PERTURB_KEY]["scores"]
    pairs = zip(scores["source"], scores["target"], strict=True)
    scores.insert(2, "kind", [kinds.get(pair, "unmatched") for pair in pairs])
    chosen = scores[scores["kind"] != "unmatched"]
    click.echo("Perturbed ten genes in the neighborhood, read ten at the center (log rate ratio; q of 100 couplings)")
    for kind, group in chosen.groupby("kind", sort=False):
        report(str(kind), f"{int((group['qval'] < 0.05).sum())} of {len(group)} pairs with q < 0.05")
    echo_table(chosen[["source", "target", "kind", "effect", "coupling", "qval"]])
    return chosen


def _draw(adata: AnnData, scores: pd.DataFrame, r: float) -> Figure:
    """Return a figure of embedding, domains, an imputed gene with its recovery `r`, and the perturbations `scores`."""
    strongest = scores.loc[scores["effect"].abs().idxmax()]
    with mpl.rc_context(_STYLE):
        engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.02, hspace=0.02)
        figure = Figure(figsize=(14.4, 8.8), layout=engine)
        axes = figure.subplots(2, 3, width_ratios=(1.1, 1.1, 1))
        pl.embedding(adata, ax=axes[0, 0], title="Embedding: like colors, like spots", size=_SPOT)
        axes[0, 0].set_anchor("E")  # as panels with a color bar: tissues of a column stand above each other
        pl.domains(adata, ax=axes[0, 1], title="Domains, of the counts alone")
        pl.perturbation(adata, strongest["source"], strongest["target"], ax=axes[0, 2])
        pl.imputation(adata, _GENE, axes=axes[1, :2], size=_SPOT)
        axes[1, 1].set_title(f"{_GENE}, imputed (r = {r:.2f} on held-out spots)")
        pl.perturbation_heatmap(adata, frame=zip(scores["source"], scores["target"], strict=True), ax=axes[1, 2])
        axes[1, 2].set_title("Ten genes on ten; framed: chosen pairs")
    return figure
