"""``sagefm network``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import NETWORK_KEY
from sagefm._replacing import replacing
from sagefm.cli._each import Job, for_each
from sagefm.cli._files import sections_argument
from sagefm.cli._options import (
    device_option,
    key_added_option,
    section_output_option,
    split_genes_or_set,
    table_options,
    written_options,
)
from sagefm.cli._run import report, say
from sagefm.cli._verbs import echo_table

if TYPE_CHECKING:
    from anndata import AnnData

#: Couplings that are printed.
_SHOWN = 10
_COLUMNS = ["source", "target", "effect", "se", "z", "pval", "qval", "detectable_effect"]


@click.command(short_help="Couplings between genes at a spot and genes around it.")
@sections_argument
@click.option(
    "--sources", metavar="A,B,...", callback=split_genes_or_set, show_default="all genes seen in 5 % of the spots",
    help="Genes around the spot; complexes as subunits joined by '_'; or 'ligands' or 'receptors', those of liana.",
)  # fmt: skip
@click.option(
    "--targets",
    metavar="C,D,...",
    callback=split_genes_or_set,
    show_default="all genes seen in 5 % of the spots",
    help="Genes at the spot.",
)
@section_output_option
@click.option(
    "--table", type=click.Path(path_type=Path),
    help="Also write the couplings to a .csv or .tsv file; of several inputs, to a folder.",
)  # fmt: skip
@click.option(
    "--null", type=click.Choice(["rotation"]),
    help="Also turn and mirror the tissue of the sources, to see whether p-values are right where nothing is coupled.",
)  # fmt: skip
@click.option("--fields", is_flag=True, help="Also write the residuals that are compared, for sagefm.pl.coupling.")
@click.option(
    "-m", "--model", metavar="MODEL", show_default="the section alone",
    help="Take expected counts from this model, named as for 'sagefm impute'.",
)  # fmt: skip
@click.option(
    "--n-components", type=click.IntRange(min=0), default=20, help="Adjust for at most this many principal components."
)
@click.option("--donor-key", show_default="each library", help="Column of obs that names the donor of each library.")
@table_options
@key_added_option(NETWORK_KEY)
@device_option
@written_options
def network(**options: Any) -> None:
    """Test which genes at a spot go with which genes in the spots around it.

    A coupling is what is left of the association between neighbors when depth, cell types, domains and everything that
    both genes share at one spot are taken off. It is no proof that one gene acts on another, and has no direction. The
    effect is the change of the target's log rate for one standard deviation of the source around; one below the
    detectable effect would mostly be missed. Few pairs, chosen beforehand, are found more easily than all of them.

    \b
    Writes, in a copy of the input:
      uns["sagefm_network"]   edges (one row per pair), settings; with --null, the
                              share of small p-values on turned tissue
      obsm["sagefm_network_around"], obsm["sagefm_network_center"]
                              with --fields: residuals of sources and targets
    \b
    Examples:
      sagefm network section.h5ad -o network.h5ad --sources SST,PTN --targets SSTR2,PTPRZ1 --table edges.csv
      sagefm network section.h5ad -o network.h5ad --sources ligands --targets receptors
      sagefm network sections/*.h5ad -o networks --table edges --null rotation
    """
    for_each("regulatory_network", _report_network, **options)


def _report_network(table: AnnData, key: str, job: Job) -> None:
    """Print the strongest couplings, and write all of them to the table of the job."""
    result = table.uns[key]
    edges, params = result["edges"], result["params"]
    shown = edges[edges["library"] == "combined"] if "library" in edges else edges
    n_significant = int((shown["qval"] < 0.05).sum())
    text = f"{params['n_pairs']:,}, of which {n_significant:,} have q < 0.05"
    report("pairs", text, key=key, n_pairs=int(params["n_pairs"]), n_significant=n_significant)
    if "null" in result:
        null = result["null"]
        turned, observed = null.loc[null["level"] == 0.05, ["turned", "observed"]].mean()
        text = f"{turned:.1%} of the pairs on turned tissue, {observed:.1%} as observed"
        report("p < 0.05", text, turned=float(turned), observed=float(observed))
    if len(shown):
        report("effects", f"{params['effect_unit']}; the most significant:", unit=params["effect_unit"])
        echo_table(shown[_COLUMNS].head(_SHOWN))
    if job.table is not None:
        with replacing(job.table) as staged:
            edges.to_csv(staged, index=False, sep="," if job.table.suffix.lower() == ".csv" else "\t")
        say(f"Wrote {job.table}", table=str(job.table))
