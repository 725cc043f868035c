"""``sagefm embed``, ``sagefm impute`` and ``sagefm perturb``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sagefm._constants import EMBEDDING_KEY, IMPUTED_KEY, PERTURB_KEY, UNS_KEY
from sagefm.cli._each import Job, for_each
from sagefm.cli._files import replacing
from sagefm.cli._options import TABLE_ARGUMENTS, read_genes, seed_option, split_genes, verb_options
from sagefm.cli._run import report, say
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from sagefm.model import Checkpoint

#: Rows of a table that are printed.
_SHOWN = 10


@click.command(short_help="Embedding of every spot.")
@verb_options
def embed(sections: tuple[Path, ...], model: str, output: Path, key_added: str | None, **options: Any) -> None:
    """Describe every spot by a vector made from its counts and those of the 14 nearest spots.

    Spots with like vectors are alike in what they express and in what surrounds them: cluster them, map them with
    UMAP, or compare sections. Only genes that model and section share are read; the line "genes" of the summary says
    how many these are.

    \b
    Writes, in a copy of the input:
      obsm["X_sagefm"]        the vectors (spots x dimensions)
      uns["sagefm"]           model, its hash, settings, share of genes found
      obsp["sagefm_..."]      the 14 nearest spots of each spot
    \b
    Examples:
      sagefm embed section.h5ad -m model -o embedded.h5ad
      sagefm embed visium.zarr -m model -o embedded.zarr --table-key table
      sagefm embed sections/*.h5ad -m model -o embedded --skip-existing
    """
    import sagefm

    key = key_added or EMBEDDING_KEY

    def work(data: Any, table: AnnData, checkpoint: Checkpoint, _job: Job) -> None:
        sagefm.tl.embed(data, checkpoint, key_added=key, **_arguments(options))
        n_spots, n_latent = table.obsm[key].shape
        _report_run(table.uns[UNS_KEY][key])
        report("embedding", f'obsm["{key}"], {n_spots:,} spots x {n_latent} dimensions', key=key, n_latent=n_latent)

    for_each(work, sections, output, model=model, key=key, options=options)


@click.command(short_help="Genes predicted at every spot, measured or not.")
@verb_options
@click.option(
    "--genes", metavar="A,B,...", callback=split_genes, help="Genes to predict; all measured ones if left out."
)
@click.option(
    "--genes-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The same, one gene a line."
)
@click.option(
    "--mask", type=click.Choice(["center", "neighborhood"]), default="center", show_default=True,
    help="Where a gene is hidden while it is predicted: at the spot, or at its neighbors too.",
)  # fmt: skip
@click.option(
    "--folds", "n_folds", type=click.IntRange(min=2), default=4, show_default=True,
    help="1/FOLDS of the genes are hidden at a time.",
)  # fmt: skip
@seed_option
def impute(
    sections: tuple[Path, ...],
    model: str,
    output: Path,
    key_added: str | None,
    genes: list[str] | None,
    genes_file: Path | None,
    mask: Literal["center", "neighborhood"],
    n_folds: int,
    seed: int,
    **options: Any,
) -> None:
    """Predict genes at every spot from the other genes there and around it.

    A gene is never shown to itself: each is predicted while it is hidden. Values are expected counts at the spot's
    own depth. For every measured gene, r says how well the prediction follows the measured counts beyond sequencing
    depth and the section's average (1 is perfect, 0 is no better than these two), and q is its false discovery rate.
    Distrust genes with a small r, and genes that were not measured: for those there is no r. On a section that the
    model was trained on, r and q are too good.

    \b
    Writes, in a copy of the input:
      layers["sagefm_imputed"]  the predictions; with --genes, these genes alone
      obsm["sagefm_imputed"]    predictions of genes that are not in the input
      var["sagefm_imputed_r"], var["sagefm_imputed_q"]
                                how well each gene is recovered
      uns["sagefm"]             model, its hash, settings, share of genes found
    \b
    Examples:
      sagefm impute section.h5ad -m model -o imputed.h5ad
      sagefm impute section.h5ad -m model -o imputed.h5ad --genes PCP4,GFAP
    """
    import sagefm

    if genes is not None and genes_file is not None:
        raise click.UsageError("Pass --genes or --genes-file, not both.")
    wanted = read_genes(genes_file) if genes_file is not None else genes
    key = key_added or IMPUTED_KEY
    arguments: dict[str, Any] = {"genes": wanted, "mask": mask, "n_folds": n_folds, "rng": seed, "key_added": key}

    def work(data: Any, table: AnnData, checkpoint: Checkpoint, _job: Job) -> None:
        sagefm.tl.impute(data, checkpoint, **arguments, **_arguments(options))
        _report_run(table.uns[UNS_KEY][key])
        _report_imputation(table, key, wanted is not None)

    for_each(work, sections, output, model=model, key=key, options=options)


@click.command(short_help="Response of genes to a gene set in the neighborhood.")
@verb_options
@click.option(
    "--pairs", metavar="FILE",
    help="CSV or TSV with columns source and target; or 'consensus', the ligand-receptor pairs of liana.",
)  # fmt: skip
@click.option(
    "--sources", metavar="A,B,...", callback=split_genes, help="Instead of --pairs, with --targets: all combinations."
)
@click.option("--targets", metavar="C,D,...", callback=split_genes, help="See --sources.")
@click.option(
    "--table", "scores_file", type=click.Path(path_type=Path),
    help="Also write the scores to a .csv or .tsv file; of several inputs, to a folder.",
)  # fmt: skip
@click.option("--levels", type=click.IntRange(min=2), default=5, show_default=True, help="Levels a source is set to.")
@click.option(
    "--n-null",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Random genes a target is compared with.",
)
@click.option("--per-spot", is_flag=True, help='Also write the effect at every spot to obsm["sagefm_perturb"].')
@seed_option
def perturb(
    sections: tuple[Path, ...],
    model: str,
    output: Path,
    key_added: str | None,
    pairs: str | None,
    sources: list[str] | None,
    targets: list[str] | None,
    scores_file: Path | None,
    levels: int,
    n_null: int,
    per_spot: bool,
    seed: int,
    **options: Any,
) -> None:
    """Set a gene in the neighbors of every spot, and read others at the spot.

    The source is set to levels from its lowest to its highest value in the data. The effect of a pair is the change
    of the predicted target from the lowest level to the highest; z, pval and qval hold it against the effects of the
    same source on random genes of similar expression. This is what the model has learned from the data: an
    association of places, not a measured cause.

    \b
    Writes, in a copy of the input:
      uns["sagefm_perturb"]   scores (a row a pair), dose curves, settings
      obsm["sagefm_perturb"]  with --per-spot: the effect at every spot
    \b
    Examples:
      sagefm perturb section.h5ad -m model -o out.h5ad --pairs pairs.csv --table scores.csv
      sagefm perturb section.h5ad -m model -o out.h5ad --sources SST,PTN --targets SSTR2,PTPRZ1
    """
    import sagefm

    if (pairs is None) == (sources is None and targets is None) or (sources is None) != (targets is None):
        raise click.UsageError("Pass either --pairs, or both --sources and --targets.")
    table_of_pairs = _read_pairs(pairs) if pairs is not None and pairs != "consensus" else pairs
    key = key_added or PERTURB_KEY
    arguments: dict[str, Any] = {
        "sources": sources,
        "targets": targets,
        "levels": levels,
        "n_null": n_null,
        "rng": seed,
    }
    arguments |= {"pairs": table_of_pairs, "per_spot": per_spot, "key_added": key}

    def work(data: Any, table: AnnData, checkpoint: Checkpoint, job: Job) -> None:
        sagefm.tl.perturb(data, checkpoint, **arguments, **_arguments(options))
        result = table.uns[key]
        scores, params = result["scores"], result["params"]
        n_found = int((scores["qval"] < 0.05).sum())
        _report_run(params)
        text = f"{len(scores):,}, of which {n_found:,} have q < 0.05"
        report("pairs", text, key=key, n_pairs=len(scores), n_significant=n_found)
        report("effects", f"in {params['response_unit']}; the strongest by |z|:", unit=params["response_unit"])
        strongest = scores.sort_values("z", key=abs, ascending=False).head(_SHOWN)
        echo_table(strongest[["source", "target", "effect", "rho", "z", "pval", "qval"]])
        if job.table is not None:
            write_scores(scores, job.table)
            say(f"Wrote {job.table}", table=str(job.table))

    for_each(work, sections, output, table=scores_file, model=model, key=key, options=options)


def echo_table(table: pd.DataFrame) -> None:
    """Print rows under the summary, numbers with three digits."""
    text = table.to_string(index=False, float_format=lambda value: f"{value:.3g}")
    say("\n".join(f"    {line}" for line in text.splitlines()))


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Write scores as CSV or TSV, whole or not at all."""
    with replacing(path) as staged:
        scores.to_csv(staged, index=False, sep="," if path.suffix.lower() == ".csv" else "\t")


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in (*TABLE_ARGUMENTS, "batch_size", "device")}


def _report_run(params: dict[str, Any]) -> None:
    facts = {name: params[name] for name in ("model", "architecture", "checkpoint_sha256")}
    report(
        "model",
        f"{facts['model']}, {facts['architecture']} architecture, sha256 {params['checkpoint_sha256'][:12]}",
        **facts,
    )
    matched, vocabulary, coverage = (params[name] for name in ("n_genes_matched", "n_genes_vocabulary", "coverage"))
    text = f"{matched:,} of the model's {vocabulary:,} ({coverage:.0%})"
    report("genes", text, n_genes_matched=matched, n_genes_vocabulary=vocabulary, coverage=coverage)


def _report_imputation(table: AnnData, key: str, requested: bool) -> None:
    recovered = table.var[table.var[key]]
    outside = table.obsm[key].columns if key in table.obsm else []
    r, q = recovered[f"{key}_r"], recovered[f"{key}_q"]
    facts = {"key": key, "n_imputed": len(recovered), "n_outside": len(outside)}
    if requested:
        report("imputed", f"{len(recovered)} genes of the input, {len(outside)} that are not in it", **facts)
        if len(outside):
            listed = ", ".join(outside[:_SHOWN])
            report("not in the input", f"{listed}: no measured counts to hold them against", outside=list(outside))
        if len(recovered):
            shown = recovered[[f"{key}_r", f"{key}_q"]].set_axis(["r", "q"], axis=1).head(_SHOWN)
            echo_table(shown.rename_axis("gene").reset_index())
    else:
        report("imputed", f"{len(recovered):,} genes", **facts)
    if len(recovered) > 1:
        n_found = int((q < 0.05).sum())
        text = f"{r.median():.3f} (0: no better than depth and the section's average)"
        report("median r", text, median_r=float(r.median()))
        report("q < 0.05", f"{n_found:,} of {len(recovered):,} genes", n_significant=n_found)


def _read_pairs(path: str) -> pd.DataFrame:
    """Return the pairs of a CSV or TSV file."""
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise click.BadParameter(f"File {path!r} does not exist.", param_hint="--pairs")
    try:
        return pd.read_csv(file, sep="," if file.suffix.lower() == ".csv" else "\t", dtype=str, comment="#")
    except (ValueError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} cannot be read as a table: {error}") from error
