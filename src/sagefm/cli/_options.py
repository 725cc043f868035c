"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm.cli._files import sections_argument
from sagefm.cli._run import debug_option, json_option

if TYPE_CHECKING:
    from collections.abc import Callable

#: Names of the options of :func:`table_options`, as ``sagefm.tl`` takes them.
TABLE_ARGUMENTS = ("layer", "gene_key", "spatial_key", "library_key", "neighbors_key", "table_key")


def apply(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds options in the order they are given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_option = click.option(
    "-m", "--model", default="default", show_default=True, metavar="MODEL",
    help="Folder written by 'sagefm train', the name of a bundled model, 'organization/name' of the Hugging Face Hub, or "
    "'published' (the authors', downloaded).",
)  # fmt: skip
output_option = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path),
    help="File to write, .h5ad or .zarr; of several inputs, a folder, which gets files of their names. A SpatialData "
    "input is written as SpatialData to .zarr; .h5ad takes its table.",
)  # fmt: skip
skip_option = click.option(
    "--skip-existing", is_flag=True, help="Leave outputs that exist as they are: the rest of a run that was stopped."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
compression_option = click.option(
    "--compression", type=click.Choice(["gzip", "lzf"]), help="Compress an .h5ad output: smaller, slower to write."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda, cuda:1, ..."
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same result."
)

table_options = apply(
    click.option("--layer", help="Layer that holds raw counts; X if left out."),
    click.option("--gene-key", help="Column of var with gene symbols or Ensembl ids; var_names if left out."),
    click.option("--spatial-key", default="spatial", show_default=True, help="Coordinates in obsm."),
    click.option("--library-key", help="Column of obs that names the section of each spot, where a file has several."),
    click.option("--neighbors-key", help="A spatial graph of yours in obsp; the 14 nearest spots if left out."),
    click.option("--table-key", help="Table of a SpatialData store; may be left out where there is one."),
)

verb_options = apply(
    sections_argument,
    model_option,
    output_option,
    table_options,
    click.option("--key-added", help="Key to write under, in place of the one above."),
    click.option(
        "--batch-size", type=click.IntRange(min=1), help="Spots made dense at a time; same result, other memory."
    ),
    device_option,
    click.option(
        "--lazy", is_flag=True,
        help="Leave X in the file and read it in blocks, for sections larger than memory; the output is then without it.",
    ),
    compression_option,
    overwrite_option,
    skip_option,
    json_option,
    debug_option,
)  # fmt: skip


def split_genes(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Return the genes of a comma-separated option."""
    if value is None:
        return None
    genes = [gene.strip() for gene in value.split(",") if gene.strip()]
    if not genes:
        raise click.BadParameter("expected gene names, separated by commas.")
    return genes


def read_genes(path: Path) -> list[str]:
    """Return the genes of a file, one a line; empty lines and lines that begin with # are left out."""
    lines = (line.strip() for line in path.read_text().splitlines())
    genes = [line for line in lines if line and not line.startswith("#")]
    if not genes:
        raise click.BadParameter(f"{path} holds no gene.", param_hint="--genes-file")
    return genes
