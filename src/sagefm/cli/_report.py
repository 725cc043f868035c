"""``sagefm report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm.cli._files import check_output, read_section, sections_argument
from sagefm.cli._options import (
    device_option,
    existing_file,
    model_option,
    overwrite_option,
    read_genes,
    seed_option,
    split_genes,
    split_genes_or_set,
    table_options,
)
from sagefm.cli._run import debug_option, json_option, say
from sagefm.cli._run import report as tell
from sagefm.io._find import section_name

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(short_help="A page on a section, or on several side by side, to read and send on.")
@sections_argument
@click.option(
    "-o", "--output", default="report.html", type=click.Path(path_type=Path, dir_okay=False), help="File to write."
)
@model_option
@click.option("--title", show_default="the name of the section", help="Title of the page.")
@click.option(
    "-n", "--n-domains", type=click.IntRange(min=2), show_default="chosen from the counts", help="Number of domains."
)
@click.option(
    "--genes", metavar="A,B,...", callback=split_genes, show_default="the most abundant 2,000", help="Genes to impute."
)
@click.option("--genes-file", type=existing_file, callback=read_genes, help="The same, one gene per line.")
@click.option(
    "--sources", metavar="A,B,...", callback=split_genes_or_set, show_default="the most abundant 200",
    help="Genes around the spot whose couplings are tested; or 'ligands' or 'receptors', those of liana.",
)  # fmt: skip
@click.option(
    "--targets", metavar="C,D,...", callback=split_genes_or_set, show_default="the most abundant 200",
    help="Genes at the spot.",
)  # fmt: skip
@table_options
@seed_option
@device_option
@overwrite_option
@json_option
@debug_option
@click.pass_context
def report(ctx: click.Context, sections: Sequence[Path], output: Path, overwrite: bool, **options: Any) -> None:
    """Write one HTML page on a section: what was read, depth, domains, embedding, imputed genes, couplings.

    The page says in plain words what was found and how sure it is, with maps, tables, and the calls that made it. It
    loads nothing from anywhere: send it, print it, keep it with the data. With several sections, domains are found in
    all of them together, and the page compares them. What cannot be computed of a section, the page says.

    \b
    Writes
      report.html             or what -o names; the sections are not changed
    \b
    Examples:
      sagefm report sample/outs -o sample.html
      sagefm report section.h5ad -o section.html -n 7 --title "Cortex, donor 3"
      sagefm report control/outs treated/outs -o comparison.html
    """
    genes_file = options.pop("genes_file")
    if options["genes"] is not None and genes_file is not None:
        raise click.UsageError("Pass --genes or --genes-file, not both.")
    options["genes"] = options["genes"] or genes_file
    check_output(output, overwrite=overwrite)
    say("Reading " + ", ".join(map(str, sections)), inputs=[str(path) for path in sections])
    import sagefm

    data: Any = {name: read_section(path) for name, path in zip(_names(sections), sections, strict=True)}
    sagefm.report(data, output, **options, command=_command(ctx, sections, output, options, genes_file))
    size = output.stat().st_size
    tell("page", f"{output}, {size / 1e6:.1f} MB", output=str(output), bytes=size)
    say(f"Wrote {output}: open it in a browser.", status="written")


def _names(sections: Sequence[Path]) -> list[str]:
    """Return a name for each section: its own, or with its folder where two are the same."""
    names = [section_name(path) for path in sections]
    if len(set(names)) == len(names):
        return names
    return [f"{path.resolve().parent.name}/{name}" for path, name in zip(sections, names, strict=True)]


def _command(
    ctx: click.Context, sections: Sequence[Path], output: Path, options: dict[str, Any], genes_file: Any
) -> str:
    """Return the command as it can be given again: what differs from the defaults, files by the names they were given."""
    words = ["sagefm", "report", *map(str, sections), "-o", str(output)]
    for parameter in ctx.command.params:
        value = ctx.params.get(str(parameter.name))
        source = ctx.get_parameter_source(str(parameter.name))
        is_given = source is click.core.ParameterSource.COMMANDLINE
        if not is_given or parameter.name in ("sections", "output", "overwrite", "genes_file"):
            continue
        text = ",".join(value) if isinstance(value, list | tuple) else str(value)
        words += [max(parameter.opts, key=len), text]
    if genes_file is not None:
        words += ["--genes", ",".join(genes_file)]
    return shlex.join(words)
