"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm.cli._files import sections_argument
from sagefm.cli._run import debug_option, json_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Names of the options of :data:`table_options`, as ``sagefm.tl`` takes them.
TABLE_ARGUMENTS = ("layer", "gene_key", "spatial_key", "library_key", "neighbors_key", "table_key", "mod")

existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)


def apply(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds options in the order they are given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_option = click.option(
    "-m", "--model", default="default", metavar="MODEL",
    help="Folder written by 'sagefm train', the name of a bundled model, 'organization/name' of the Hugging Face Hub, or "
    "'published' (the authors', downloaded).",
)  # fmt: skip
model_folder_option = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="MODEL_DIR", help="Folder to write."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
device_option = click.option("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
seed_option = click.option(
    "--seed", "rng", type=click.IntRange(min=0), default=0, help="The same seed gives the same result."
)
state_file_option = click.option(
    "--state-file", type=click.Path(path_type=Path, dir_okay=False),
    help="File for the state of training, written after every epoch. If it is there, training goes on from it.",
)  # fmt: skip

layer_option = click.option("--layer", show_default="X", help="Layer that holds raw counts.")
gene_key_option = click.option(
    "--gene-key", show_default="var_names", help="Column of var with gene symbols or Ensembl ids."
)
spatial_key_option = click.option("--spatial-key", default="spatial", help="Coordinates in obsm.")
library_key_option = click.option(
    "--library-key", help="Column of obs that names the section of each spot, if a file holds several."
)
table_key_option = click.option("--table-key", show_default="its only table", help="Table of a SpatialData store.")
mod_option = click.option("--mod", show_default="its only modality", help="Modality of a MuData file.")
table_options = apply(
    layer_option,
    gene_key_option,
    spatial_key_option,
    library_key_option,
    click.option("--neighbors-key", show_default="the 14 nearest spots", help="Spatial graph of yours in obsp."),
    table_key_option,
    mod_option,
)


section_output_option = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path),
    help="File to write, .h5ad or .zarr; of several inputs, a folder, which gets files of their names. A SpatialData input "
    "is written as SpatialData to .zarr, a MuData input as MuData to .h5mu; .h5ad takes the table.",
)  # fmt: skip
written_options = apply(
    click.option(
        "--lazy", is_flag=True,
        help="Leave X in the file and read it in blocks, for sections larger than memory. The output then has no X.",
    ),
    click.option(
        "--use-raw", is_flag=True,
        help="Read counts and genes of adata.raw, where X is normalized or cut to fewer genes; the output has these.",
    ),
    click.option(
        "--compression", type=click.Choice(["gzip", "lzf"]), help="Compress an .h5ad output: smaller, slower to write."
    ),
    overwrite_option,
    click.option(
        "--skip-existing", is_flag=True,
        help="Leave outputs that exist as they are, and do the rest of a run that was stopped.",
    ),
    json_option,
    debug_option,
)  # fmt: skip


def key_added_option(key: str) -> Callable[[Any], Any]:
    """Return the option of the key that results are written under, by default `key`."""
    return click.option("--key-added", default=key, help="Key to write under.")


def verb_options(key: str) -> Callable[[Any], Any]:
    """Return a decorator that adds the options of commands that apply a model, and write results under `key`."""
    return apply(
        sections_argument,
        model_option,
        section_output_option,
        table_options,
        key_added_option(key),
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            help="Spots per batch: fewer need less memory, with the same result.",
        ),
        device_option,
        written_options,
    )


def split_genes(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Return the genes of a comma-separated option."""
    return None if value is None else _listed(value.split(","))


def split_genes_or_set(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | str | None:
    """Return the genes of a comma-separated option; ``"ligands"`` and ``"receptors"`` as they are."""
    return value if value in ("ligands", "receptors") else split_genes(ctx, parameter, value)


def read_genes(_ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> list[str] | None:
    """Return the genes of a file, one on each line; empty lines and lines that begin with # are left out."""
    return None if path is None else _listed(path.read_text().splitlines())


def _listed(names: Iterable[str]) -> list[str]:
    genes = [name.strip() for name in names if name.strip() and not name.lstrip().startswith("#")]
    if not genes:
        raise click.BadParameter("it names no gene.")
    return genes
