"""``sagefm demo``: the whole job on the bundled section."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sagefm._constants import EMBEDDING_KEY, IMPUTED_KEY, PERTURB_KEY
from sagefm.cli._files import check_folder, replacing
from sagefm.cli._options import device_option, model_option, overwrite_option, seed_option
from sagefm.cli._run import debug_option, report
from sagefm.cli._verbs import echo_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from sagefm.model import Checkpoint

_CONTENTS = ("demo.png", "dlpfc.h5ad", "perturbation.csv")
#: Genes of one structure of the cortex, which should respond to each other: myelin, astrocytes, blood vessels,
#: neurofilaments of large neurons, and the upper layers.
_STRUCTURES = [("PLP1", "MOBP"), ("GFAP", "AQP4"), ("MGP", "MYL9"), ("NEFL", "NEFM"), ("HPCAL1", "CUX2")]
#: Ligands and their receptors.
_LIGANDS = [("PTN", "PTPRZ1"), ("APOE", "LRP1"), ("SST", "SSTR2"), ("SPP1", "CD44"), ("FGF1", "FGFR3")]
#: Share of spots on which the model is compared with controls.
_TEST_SHARE = 0.1
#: Share of spots in which a gene must be detected to count in the summary.
_DETECTED = 0.1


@click.command(short_help="The whole job on a section that ships with the package.")
@click.option(
    "-o", "--output", default="sagefm_demo", metavar="DIR", type=click.Path(path_type=Path),
    help="Folder to write.",
)  # fmt: skip
@model_option
@seed_option
@device_option
@overwrite_option
@debug_option
def demo(output: Path, model: str, seed: int, device: str, overwrite: bool) -> None:
    """Embed, cluster, impute and perturb a bundled section of human cortex, and draw the results.

    The section is 10x Visium of dorsolateral prefrontal cortex, 3,529 spots and 5,000 genes, of a donor that the
    bundled model was not trained on. The demo takes less than a minute on two cores, and no network. Every figure of
    the summary stands beside what needs no such model: the section's average, the mean of the neighbors, principal
    components, random genes.

    \b
    Writes DIR with
      dlpfc.h5ad              the section with everything that was added to it
      perturbation.csv        scores of ten chosen pairs and of all their combinations
      demo.png                the picture
    \b
    Examples:
      sagefm demo
      sagefm demo -o results/demo -m my_model --overwrite
    """
    check_folder(output, contents=_CONTENTS, overwrite=overwrite)
    start = time.perf_counter()
    import sagefm
    from sagefm.checkpoint._resolve import resolve_model
    from sagefm.cli._demo_figure import GENE, draw

    adata = sagefm.datasets.dlpfc()
    click.echo(f"Human DLPFC, 10x Visium, bundled: {adata.n_obs:,} spots x {adata.n_vars:,} genes")
    with replacing(output) as folder:
        folder.mkdir()
        checkpoint = resolve_model(model)
        _report_model(checkpoint)
        sagefm.tl.embed(adata, checkpoint, device=device)
        _cluster(adata, seed)
        sagefm.tl.impute(adata, checkpoint, device=device)
        recovered = _report_imputation(adata, seed)
        pairs = _perturb(adata, checkpoint, device, seed)

        adata.uns[PERTURB_KEY]["scores"].to_csv(folder / "perturbation.csv", index=False)
        strongest = pairs.loc[pairs["z"].abs().idxmax()]
        draw(
            adata,
            folder / "demo.png",
            pair=(strongest["source"], strongest["target"]),
            chosen=[*_STRUCTURES, *_LIGANDS],
            r=recovered.loc[GENE, "r"],
        )
        adata.write_h5ad(folder / "dlpfc.h5ad")
    click.echo(f"Wrote {output} in {time.perf_counter() - start:.0f} s")
    report("dlpfc.h5ad", f'obsm["{EMBEDDING_KEY}"], obs["leiden"], layers["{IMPUTED_KEY}"], uns["{PERTURB_KEY}"]')
    report("perturbation.csv", "effects of 100 pairs beside those on random genes")
    report("demo.png", "embedding, clusters, a gene measured and imputed, perturbations")


def _report_model(checkpoint: Checkpoint) -> None:
    training = checkpoint.training
    click.echo(f"Model {checkpoint.name!r} ({checkpoint.config.architecture} architecture)")
    report("trained on", f"{training.get('n_spots', 0):,} spots of {training.get('n_sections', 0)} sections")
    report("genes", f"{len(checkpoint.vocabulary):,}; sha256 {checkpoint.sha256[:12]}")


def _cluster(adata: AnnData, seed: int) -> None:
    """Add clusters of the embedding, and print how many they are."""
    import scanpy as sc

    sc.pp.neighbors(adata, use_rep=EMBEDDING_KEY, random_state=seed)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    click.echo("Embedded and clustered")
    report("dimensions", f'{adata.obsm[EMBEDDING_KEY].shape[1]}, in obsm["{EMBEDDING_KEY}"]')
    report("clusters", f'{adata.obs["leiden"].nunique()} by Leiden, in obs["leiden"]')


def _report_imputation(adata: AnnData, seed: int) -> pd.DataFrame:
    """Print how hidden genes are recovered, beside controls on the same spots; return it by gene."""
    import numpy as np

    from sagefm.metrics import controls

    order = np.random.default_rng(seed).permutation(adata.n_obs)
    test, train = np.split(order, [round(_TEST_SHARE * adata.n_obs)])
    train, test = np.sort(train), np.sort(test)
    weak = controls(adata, train=train, test=test, ridge=1.0)
    found = controls(adata, train=train, test=test, predicted=IMPUTED_KEY)
    detected = np.asarray((adata.X > 0).mean(axis=0)).ravel() >= _DETECTED
    median = {name: table["r"][detected].median() for name, table in found.items()}
    qval = found["predicted"]["qval"][detected]
    click.echo(
        f"Imputed every gene while it was hidden: median r on {len(test)} spots, "
        f"{detected.sum():,} genes seen in {_DETECTED:.0%} of spots"
    )
    report("this model", f"{median['predicted']:.3f}; q < 0.05 for {int((qval < 0.05).sum()):,} of {len(qval):,} genes")
    report("section's average", "0 (by construction: r is over depth and the section's average)")
    report("mean of 14 neighbors", f"{median['neighborhood']:.3f}")
    report(
        "20 PCs, linear",
        f"{max(median['pca'], weak['pca']['r'][detected].median()):.3f} (of the other spots; the better of two settings)",
    )
    return found["predicted"]


def _perturb(adata: AnnData, checkpoint: Checkpoint, device: str, seed: int) -> pd.DataFrame:
    """Score the ten pairs and all other combinations of their genes; print and return the scores of the ten."""
    import pandas as pd

    import sagefm

    kinds = {**dict.fromkeys(_STRUCTURES, "same structure"), **dict.fromkeys(_LIGANDS, "ligand-receptor")}
    sources, targets = zip(*kinds, strict=True)
    combinations = pd.MultiIndex.from_product([sources, targets], names=["source", "target"]).to_frame(index=False)
    sagefm.tl.perturb(adata, checkpoint, pairs=combinations, n_null=400, rng=seed, device=device)
    scores = adata.uns[PERTURB_KEY]["scores"]
    pairs = zip(scores["source"], scores["target"], strict=True)
    scores.insert(2, "kind", [kinds.get(pair, "unmatched") for pair in pairs])
    chosen = scores[scores["kind"] != "unmatched"]
    click.echo("Perturbed ten genes in the neighborhood, read ten at the center (log rate ratio; q over 100 pairs)")
    for kind, group in chosen.groupby("kind", sort=False):
        report(str(kind), f"{int((group['qval'] < 0.05).sum())} of {len(group)} pairs with q < 0.05")
    echo_table(chosen[["source", "target", "kind", "effect", "z", "qval"]])
    return chosen
