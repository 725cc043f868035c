"""``sagefm convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm.cli._files import check_folder
from sagefm.cli._options import existing_file, model_folder_option, overwrite_option
from sagefm.cli._run import debug_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="The authors' .pt file to a model folder.")
@click.argument("file", metavar="FILE.pt", type=existing_file)
@model_folder_option
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
      sagefm convert HEST1k_epoch_126.pt -o converted
      sagefm embed section.h5ad -m converted -o embedded.h5ad
    """
    check_folder(output, contents=(CONFIG_FILE, WEIGHTS_FILE), overwrite=overwrite)
    from sagefm.checkpoint._authors import convert_published

    click.echo(f"Wrote {convert_published(file, output, overwrite=overwrite)}")
