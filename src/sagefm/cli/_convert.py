"""``sagefm convert``."""

from __future__ import annotations

from pathlib import Path

import click

from sagefm.cli._options import overwrite_option
from sagefm.cli._run import debug_option


@click.command(short_help="The authors' .pt file to a model folder.")
@click.argument("file", metavar="FILE.pt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="MODEL_DIR", help="Folder to write."
)
@overwrite_option
@debug_option
def convert(file: Path, output: Path, overwrite: bool) -> None:
    """Convert a checkpoint of the SAGE-FM authors, or of their training script, to a folder that sagefm reads.

    The file is read without running any code it may hold. The authors state no license for theirs: nothing of it ships
    with sagefm, and what you convert is for you to use under their terms. "-m published" downloads, verifies and
    converts their file by itself.

    \b
    Writes MODEL_DIR with
      model.safetensors       the parameters
      config.json             architecture, genes, what the file says of its training
    \b
    Examples:
      sagefm convert HEST1k_epoch_126.pt -o published
      sagefm embed section.h5ad -m published -o embedded.h5ad
    """
    from sagefm.checkpoint._authors import convert_published

    click.echo(f"Wrote {convert_published(file, output, overwrite=overwrite)}")
