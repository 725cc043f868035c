"""``sagefm demo``: the whole job on the bundled section."""

from __future__ import annotations

import time
from pathlib import Path

import click

from sagefm._constants import DOMAIN_KEY, EMBEDDING_KEY, IMPUTED_KEY, PERTURB_KEY
from sagefm._replacing import replacing
from sagefm.cli._files import check_folder
from sagefm.cli._options import device_option, model_option, overwrite_option, seed_option
from sagefm.cli._run import debug_option, report

#: The files, and what each holds.
_CONTENTS = {
    "dlpfc.h5ad": f'obsm["{EMBEDDING_KEY}"], obs["{DOMAIN_KEY}"], layers["{IMPUTED_KEY}"], uns["{PERTURB_KEY}"]',
    "perturbation.csv": "effects and couplings of 100 pairs",
    "report.html": "the page of sagefm report: open it in a browser",
    "demo.png": "embedding, domains, a gene measured and imputed, perturbations",
}


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
def demo(output: Path, model: str, rng: int, device: str, overwrite: bool) -> None:
    """Embed a bundled section of human cortex, find its domains, impute and perturb it, and draw the results.

    The section is 10x Visium of dorsolateral prefrontal cortex, 3,529 spots and 5,000 genes, of a donor that the
    bundled model was not trained on. The demo takes about a minute on two cores, and no network. Every figure of
    the summary stands beside what needs no such model: the section's average, the mean of the neighbors, principal
    components.

    \b
    Writes DIR with
      dlpfc.h5ad              the section with everything that was added to it
      perturbation.csv        scores of ten chosen pairs and of all their combinations
      demo.png                the picture
      report.html             the page of sagefm report on the section: open it in a browser
    \b
    Examples:
      sagefm demo
      sagefm demo -o results/demo -m my_model --overwrite
    """
    check_folder(output, contents=tuple(_CONTENTS), overwrite=overwrite)
    start = time.perf_counter()
    from sagefm.cli._demo_run import run_demo

    with replacing(output) as folder:
        folder.mkdir()
        run_demo(folder, model, seed=rng, device=device)
    click.echo(f"Wrote {output} in {time.perf_counter() - start:.0f} s")
    for name, content in _CONTENTS.items():
        report(name, content)
