"""``sagefm domains``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import DOMAIN_KEY
from sagefm.cli._each import Job, for_each
from sagefm.cli._files import sections_argument
from sagefm.cli._options import (
    key_added_option,
    section_output_option,
    seed_option,
    table_options,
    written_options,
)
from sagefm.cli._run import report

if TYPE_CHECKING:
    from anndata import AnnData


@click.command(short_help="Domains of the tissue, without a model.")
@sections_argument
@section_output_option
@table_options
@key_added_option(DOMAIN_KEY)
@written_options
@click.option(
    "-n", "--n-domains", type=click.IntRange(min=2), show_default="chosen from the counts", help="Number of domains."
)
@click.option("--use-rep", help="Embedding in obsm to use instead of the counts, e.g. X_sagefm.")
@seed_option
def domains(**options: Any) -> None:
    """Divide the tissue into domains: regions in which spots are alike.

    Components of the counts are smoothed over the tissue, each as much as it is smooth by itself, and clustered. There
    is nothing to tune, and no model: genes may be of any species. Of several sections in one file (--library-key), a
    domain has the same name in all.

    
    Writes, in a copy of the input:
      obs["sagefm_domain"]              the domain of every spot; "0" is the largest
      obs["sagefm_domain_probability"]  how probable it is
      obsm["X_sagefm_domains"]          the smoothed components
      uns["sagefm_domain"]              how far each component is smoothed, settings
    
    Examples:
      sagefm domains section.h5ad -o domains.h5ad
      sagefm domains section.h5ad -o domains.h5ad -n 7
    """
    for_each("domains", _report_domains, **options)


def _report_domains(table: AnnData, key: str, _job: Job) -> None:
    """Print the domains and their sizes."""
    sizes = table.obs[key].value_counts(sort=False)
    params, probability = table.uns[key]["params"], table.obs[f"{key}_probability"]
    how = "chosen from the counts" if params["is_chosen"] else "as asked"
    report("domains", f'{len(sizes)}, {how}, in obs["{key}"]', key=key, n_domains=len(sizes))
    report("spots", ", ".join(f"{size:,}" for size in sizes), sizes=sizes.tolist())
    report("certain", f"{(probability > 0.95).mean():.0%} of spots (probability above 0.95)")
    report("components", f'obsm["{params["basis"]}"]', basis=params["basis"])
