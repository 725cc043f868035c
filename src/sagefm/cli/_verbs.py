"""``sagefm embed``, ``sagefm impute`` and ``sagefm perturb``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import EMBEDDING_KEY, IMPUTED_KEY, PERTURB_KEY, UNS_KEY
from sagefm._replacing import replacing
from sagefm.cli._each import Job, for_each
from sagefm.cli._options import existing_file, read_genes, seed_option, split_genes, verb_options
from sagefm.cli._run import report, say
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Rows of a table that are printed.
_SHOWN = 10


@click.command(short_help="Embedding of every spot.")
@verb_options(EMBEDDING_KEY)
def embed(**options: Any) -> None:
    """Describe every spot by a vector made from its counts and those of the 14 nearest spots.

    Spots with similar vectors are alike in what they express and in what surrounds them: cluster them, map them with
    UMAP, or compare sections. Only genes that model and section share are read; the line "genes" of the summary says
    how many these are.

    \b
    Writes, in a copy of the input:
      obsm["X_sagefm"]        the vectors (spots x dimensions)
      uns["sagefm"]           model, its hash, settings, share of genes found
      obsp["sagefm_..."]      the 14 nearest spots of each spot
    \b
    Examples:
      sagefm embed section.h5ad -o embedded.h5ad
      sagefm embed visium.zarr -o embedded.zarr --table-key table
      sagefm embed sections/*.h5ad -o embedded --skip-existing
      sagefm embed section.h5ad -m my_model -o embedded.h5ad
    """
    for_each("embed", _report_embedding, **options)


@click.command(short_help="Genes predicted at every spot, measured or not.")
@verb_options(IMPUTED_KEY)
@click.option(
    "--genes", metavar="A,B,...", callback=split_genes, show_default="all measured genes", help="Genes to predict."
)
@click.option("--genes-file", type=existing_file, callback=read_genes, help="The same, one gene per line.")
@click.option(
    "--mask", type=click.Choice(["center", "neighborhood"]), default="center",
    help="Where a gene is hidden while it is predicted: at the spot, or at its neighbors too.",
)  # fmt: skip
@click.option(
    "--scale",
    type=click.Choice(["counts", "log1p"]),
    show_default="that of the model, counts",
    help="Write expected counts, or log(1 + expected counts).",
)
@click.option(
    "--target-sum", type=click.FloatRange(min=0, min_open=True), metavar="N", show_default="each spot's own depth",
    help="Bring all spots to N counts, e.g. 10000.",
)  # fmt: skip
@click.option(
    "--folds", "n_folds", type=click.IntRange(min=2), default=4, help="1/FOLDS of the genes are hidden at a time."
)
@seed_option
def impute(genes: list[str] | None, genes_file: list[str] | None, **options: Any) -> None:
    """Predict genes at every spot from the other genes there and around it.

    A gene is never shown to itself: each is predicted while it is hidden. The model and predictors that are fitted to
    the section are combined by what they are worth on it; -m none leaves the model out. Values are expected counts at
    the spot's own depth. For every measured gene, r says how well the prediction follows the measured counts beyond sequencing
    depth and the section's average (1 is perfect, 0 is no better than these two), and q is its false discovery rate.
    Distrust genes with a small r, and genes that were not measured: for those there is no r. On a section that the
    model was trained on, r and q are too good.

    \b
    Writes, in a copy of the input:
      layers["sagefm_imputed"]  the predictions; with --genes, only these genes
      obsm["sagefm_imputed"]    predictions of genes that are not in the input
      var["sagefm_imputed_r"], var["sagefm_imputed_q"], var["sagefm_imputed_trust"]
                                how well each gene is recovered, and how far to trust it
      uns["sagefm"]             model, its hash, settings, share of genes found, weights of the predictors
    \b
    Examples:
      sagefm impute section.h5ad -o imputed.h5ad
      sagefm impute section.h5ad -o imputed.h5ad --scale log1p --target-sum 10000
      sagefm impute section.h5ad -o imputed.h5ad --genes PCP4,GFAP
    """
    if genes is not None and genes_file is not None:
        raise click.UsageError("Pass --genes or --genes-file, not both.")
    genes = genes or genes_file
    layer = lambda table: 4 * table.n_obs * table.n_vars if genes is None else 0
    report_imputation = partial(_report_imputation, requested=genes is not None)
    for_each("impute", report_imputation, genes=genes, n_bytes=layer, **options)


def _read_pairs(ctx: click.Context, parameter: click.Parameter, value: str | None) -> pd.DataFrame | str | None:
    """Return the pairs of a CSV or TSV file; ``"consensus"`` and None as they are."""
    if value is None or value == "consensus":
        return value
    import pandas as pd

    path = Path(str(existing_file.convert(value, parameter, ctx)))
    try:
        return pd.read_csv(path, sep=_separator(path), dtype=str, comment="#")
    except (ValueError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} cannot be read as a table: {error}") from error


def _read_levels(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int | list[float] | str:
    """Return a number of levels, the levels of a comma-separated list, or the name of a set of levels."""
    if value == "knockout":
        return value
    try:
        return [float(level) for level in value.split(",")] if "," in value else int(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r}; expected a number of levels, numbers like 0.1,0.9, or knockout."
        ) from error


@click.command(short_help="Response of genes to a gene set in the neighborhood.")
@verb_options(PERTURB_KEY)
@click.option(
    "--pairs", metavar="FILE", callback=_read_pairs,
    help="CSV or TSV with columns source and target; or 'consensus', the ligand-receptor pairs of liana.",
)  # fmt: skip
@click.option(
    "--sources", metavar="A,B,...", callback=split_genes, help="Instead of --pairs, with --targets: all combinations."
)
@click.option("--targets", metavar="C,D,...", callback=split_genes, help="See --sources.")
@click.option(
    "--table", type=click.Path(path_type=Path),
    help="Also write the scores to a .csv or .tsv file; of several inputs, to a folder.",
)  # fmt: skip
@click.option(
    "--where", type=click.Choice(["neighborhood", "center", "both"]), default="neighborhood",
    help="Where a source is changed: in the neighbors of a spot, in the spot's own counts, or in both.",
)  # fmt: skip
@click.option(
    "--levels", metavar="N|A,B,...|knockout", callback=_read_levels, default="5",
    help="Number of levels of a source, or quantiles or factors, as --scale says; knockout stands for the factors 1,0.",
)  # fmt: skip
@click.option(
    "--scale", type=click.Choice(["range", "quantile", "fold"]), default="range",
    help="range: evenly spaced from a source's lowest to its highest value in the data. quantile: quantiles of its "
    "values. fold: factors of its counts at each spot.",
)  # fmt: skip
@click.option("--groupby", metavar="COLUMN", help="Also average the effects over the groups of a column of obs.")
@click.option("--per-spot", is_flag=True, help='Also write the effect at every spot to obsm["sagefm_perturb"].')
def perturb(**options: Any) -> None:
    """Set a gene in the neighbors of every spot, and read others at the spot.

    The source is set to levels from its lowest to its highest value in the data. The effect of a pair is the change
    of the predicted target from the first level to the last. This is what the model has learned from the data: an
    association of places, not a measured cause. The coupling is measured on the section itself: the change of the
    target's log rate with the source in the neighbors, given the other genes; pval and qval test it. Sources and targets
    may be complexes of subunits joined by "_".

    \b
    Writes, in a copy of the input:
      uns["sagefm_perturb"]   scores (one row per pair), dose curves, effects by
                              group with --groupby, settings
      obsm["sagefm_perturb"]  with --per-spot: the effect at every spot
    \b
    Examples:
      sagefm perturb section.h5ad -o perturbed.h5ad --sources SST,PTN --targets SSTR2,PTPRZ1
      sagefm perturb section.h5ad -o perturbed.h5ad --pairs pairs.csv --table scores.csv
      sagefm perturb section.h5ad -o perturbed.h5ad --pairs pairs.csv --levels knockout --groupby domain
    """
    passed = {name for name in ("pairs", "sources", "targets") if options[name] is not None}
    if passed not in ({"pairs"}, {"sources", "targets"}):
        raise click.UsageError("Pass either --pairs, or both --sources and --targets.")
    for_each("perturb", _report_perturbation, **options)


def echo_table(table: pd.DataFrame) -> None:
    """Print rows under the summary, numbers with three digits."""
    text = table.to_string(index=False, float_format=lambda value: f"{value:.3g}")
    say("\n".join(f"    {line}" for line in text.splitlines()))


def _separator(path: Path) -> str:
    return "," if path.suffix.lower() == ".csv" else "\t"


def _report_run(params: dict[str, Any]) -> None:
    """Print which model answered, and how many of its genes the section has."""
    if "checkpoint_sha256" not in params:
        n_genes = params["n_genes_matched"]
        report("model", "none: predictors of the section alone", model=None)
        report("genes", f"{n_genes:,} of the input", n_genes_matched=n_genes)
        return
    names = ("model", "architecture", "checkpoint_sha256", "n_genes_matched", "n_genes_vocabulary", "coverage")
    facts = {name: params[name] for name in names}
    model = "{model}, {architecture} architecture, sha256 {checkpoint_sha256:.12}".format(**facts)
    genes = "{n_genes_matched:,} of the model's {n_genes_vocabulary:,} ({coverage:.0%})".format(**facts)
    report("model", model, **facts)
    report("genes", genes, **facts)


def _report_embedding(table: AnnData, key: str, _job: Job) -> None:
    n_spots, n_latent = table.obsm[key].shape
    _report_run(table.uns[UNS_KEY][key])
    report("embedding", f'obsm["{key}"], {n_spots:,} spots x {n_latent} dimensions', key=key, n_latent=n_latent)


def _report_imputation(table: AnnData, key: str, _job: Job, *, requested: bool) -> None:
    """Print how well genes are recovered; where genes were requested, gene by gene."""
    _report_run(table.uns[UNS_KEY][key])
    recovery = table.var.loc[table.var[key], [f"{key}_r", f"{key}_q", f"{key}_trust"]].set_axis(
        ["r", "q", "trust"], axis=1
    )
    outside = list(table.obsm[key].columns) if key in table.obsm else []
    n_imputed = len(recovery)
    text = f"{n_imputed:,} genes" + f" of the input, {len(outside)} that are not in it" * requested
    report("imputed", text, key=key, n_imputed=n_imputed, n_outside=len(outside))
    if outside:
        listed = ", ".join(outside[:_SHOWN])
        report("not in the input", f"{listed}: no measured counts to compare them with", outside=outside)
    if requested and n_imputed:
        echo_table(recovery.head(_SHOWN).rename_axis("gene").reset_index())
    if n_imputed > 1:
        n_significant, median = int((recovery["q"] < 0.05).sum()), float(recovery["r"].median())
        report("median r", f"{median:.3f} (0: no better than depth and the section's average)", median_r=median)
        report("q < 0.05", f"{n_significant:,} of {n_imputed:,} genes", n_significant=n_significant)


def _report_perturbation(table: AnnData, key: str, job: Job) -> None:
    """Print the strongest pairs, and write the scores of all to the table of the job."""
    scores, params = table.uns[key]["scores"], table.uns[key]["params"]
    n_significant, unit = int((scores["qval"] < 0.05).sum()), params["response_unit"]
    _report_run(params)
    text = f"{len(scores):,}, of which {n_significant:,} have q < 0.05"
    report("pairs", text, key=key, n_pairs=len(scores), n_significant=n_significant)
    report("effects", f"in {unit}; the most significant couplings first:", unit=unit)
    columns = ["source", "target", "effect", "rho", "coupling", "pval", "qval"]
    echo_table(scores.sort_values("pval", kind="stable").head(_SHOWN)[columns])
    if job.table is not None:
        with replacing(job.table) as staged:
            scores.to_csv(staged, index=False, sep=_separator(job.table))
        say(f"Wrote {job.table}", table=str(job.table))
