"""``sagefm pretrain``."""

from __future__ import annotations

import fnmatch
import json
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm.cli._files import check_folder
from sagefm.cli._options import device_option, overwrite_option
from sagefm.cli._run import debug_option, json_option, leave_to_first, report, say
from sagefm.cli._train import progress_bar
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from sagefm.datasets import Corpus


def _read_recipe(_ctx: click.Context, _parameter: click.Parameter, value: str) -> dict[str, Any]:
    bundled = files("sagefm.checkpoint") / "recipes" / f"{value}.json"
    try:
        text = bundled.read_text() if bundled.is_file() else Path(value).read_text()
        recipe = json.loads(text)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{value!r} is neither a bundled recipe nor a JSON file: {error}") from None
    if not isinstance(recipe, dict):
        raise click.BadParameter(f"{value!r} holds {type(recipe).__name__}; expected the arguments of a recipe.")
    return recipe


@click.command(short_help="A model of a folder of sections.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="MODEL_DIR", help="Folder to write."
)
@click.option(
    "--config", "recipe", default="default", show_default=True, metavar="RECIPE", callback=_read_recipe,
    help="JSON file of arguments of sagefm.model.pretrain, or 'default': the recipe of the bundled model.",
)  # fmt: skip
@click.option(
    "--metadata", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Table of the sections (CSV); the one of the folder if left out.",
)  # fmt: skip
@click.option("--donor-key", metavar="COLUMN", help="Column of the table that names the donor of each section.")
@click.option(
    "--exclude", multiple=True, metavar="NAME",
    help="Sections, or with --donor-key donors, to leave out; * stands for anything. May be given several times.",
)  # fmt: skip
@click.option("--layer", help="Layer that holds raw counts; X if left out.")
@click.option("--gene-key", help="Column of var with gene symbols or Ensembl ids; var_names if left out.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes through the spots; those of the recipe if left out.")
@click.option("--in-memory", type=click.IntRange(min=1), help="Sections mixed at a time; all, read once, if left out.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Processes or GPUs (DDP).")
@click.option(
    "--state-file", type=click.Path(path_type=Path, dir_okay=False),
    help="File for the state of training, written after every epoch. If it is there, training goes on from it.",
)  # fmt: skip
@click.option("--half", is_flag=True, help="Store the parameters in half precision, half the size.")
@device_option
@overwrite_option
@json_option
@debug_option
def pretrain(folder: Path, output: Path, overwrite: bool, recipe: dict[str, Any], **options: Any) -> None:
    """Train a model on all sections of a folder, such as a download of HEST-1k, each with its own genes.

    The vocabulary is that of named genes which are detected in sections of several donors. Training goes on from
    --state-file if it was stopped.

    \b
    Writes MODEL_DIR with
      model.safetensors       the parameters
      config.json             genes, architecture, settings, the hash of each section, losses by epoch
    \b
    Examples:
      sagefm pretrain sections -o model --state-file model.state
      sagefm pretrain hest --metadata HEST_v1_1_0.csv --donor-key patient --in-memory 32 --devices 8 -o model
    """
    check_folder(output, contents=(CONFIG_FILE, WEIGHTS_FILE), overwrite=overwrite)
    if options["devices"] > 1:
        leave_to_first()
    corpus = _read_corpus(folder, options)
    from sagefm import model
    from sagefm.checkpoint._resolve import resolve_device

    start = time.perf_counter()
    arguments = dict(recipe)
    if isinstance(arguments.get("vocabulary"), dict):
        arguments["vocabulary"] = corpus.expressed_genes(by=options["donor_key"], **arguments["vocabulary"])
        n_genes = len(arguments["vocabulary"])
        report("genes", f"{n_genes:,}", n_genes=n_genes)
    if options["epochs"] is not None:
        arguments["max_epochs"] = options["epochs"]
    if options["devices"] > 1:
        arguments |= {"devices": options["devices"], "strategy": "ddp"}
    device = resolve_device(options["device"])
    try:
        trained = model.pretrain(
            corpus,
            accelerator="gpu" if device.type == "cuda" else device.type,
            sections_in_memory=options["in_memory"],
            state_file=options["state_file"],
            callbacks=[progress_bar()],
            **arguments,
        )
    except TypeError as error:
        raise ArgumentError(f"The recipe has an argument that sagefm.model.pretrain does not take: {error}") from error
    trained.save(output, overwrite=overwrite, half=options["half"])
    seconds = time.perf_counter() - start
    report("trained", f"{seconds:.0f} s", seconds=round(seconds, 3))
    say(f"Wrote {output}", output=str(output), status="written")


def _read_corpus(folder: Path, options: dict[str, Any]) -> Corpus:
    from sagefm.datasets import Corpus

    corpus = Corpus.from_folder(folder, options["metadata"], layer=options["layer"], gene_key=options["gene_key"])
    key = options["donor_key"]
    if key is not None and key not in corpus.metadata:
        raise ArgumentError(f"--donor-key {key}: the table has the columns {list(corpus.metadata.columns)}.")
    donors = corpus.metadata[key].astype(str) if key else [""] * len(corpus.names)
    excluded = [
        any(fnmatch.fnmatchcase(value, pattern) for value in pair for pattern in options["exclude"])
        for pair in zip(corpus.names, donors, strict=True)
    ]
    if all(excluded):
        raise ArgumentError("--exclude leaves no section.")
    corpus = corpus.subset([not out for out in excluded])
    report("sections", f"{len(corpus.names)} of {len(excluded)}", sections=list(corpus.names))
    return corpus
