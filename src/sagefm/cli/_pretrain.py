"""``sagefm pretrain``."""

from __future__ import annotations

import fnmatch
import inspect
import json
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm._replacing import try_file
from sagefm.cli._files import as_stores, check_folder, is_section
from sagefm.cli._options import (
    device_option,
    existing_file,
    gene_key_option,
    layer_option,
    model_folder_option,
    overwrite_option,
    state_file_option,
)
from sagefm.cli._run import debug_option, json_option, leave_to_first, report, say
from sagefm.cli._train import trainer_arguments
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from sagefm.datasets import Corpus

#: Arguments of ``sagefm.model.pretrain`` that say where a model is trained, not how.
_OPTIONS = {
    "accelerator": "--device",
    "devices": "--devices",
    "sections_in_memory": "--in-memory",
    "state_file": "--state-file",
}
_positive = click.IntRange(min=1)


def _read_recipe(_ctx: click.Context, _parameter: click.Parameter, value: str) -> dict[str, Any]:
    bundled = files("sagefm.checkpoint") / "recipes" / f"{value}.json"
    try:
        recipe = json.loads((bundled if bundled.is_file() else Path(value)).read_text())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{value!r} is neither a bundled recipe nor a JSON file: {error}") from None
    if not isinstance(recipe, dict):
        raise click.BadParameter(f"{value!r} holds {type(recipe).__name__}; expected the arguments of a recipe.")
    return recipe


@click.command(short_help="A model of a folder of sections.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@model_folder_option
@click.option(
    "--config", "recipe", default="default", metavar="RECIPE", callback=_read_recipe,
    help="JSON file of arguments of sagefm.model.pretrain, or 'default': the recipe of the bundled model.",
)  # fmt: skip
@click.option("--metadata", type=existing_file, show_default="that of the folder", help="Table of the sections (CSV).")
@click.option("--donor-key", metavar="COLUMN", help="Column of the table that names the donor of each section.")
@click.option(
    "--exclude", multiple=True, metavar="NAME",
    help="Sections, or with --donor-key donors, to leave out; * stands for anything. May be given several times.",
)  # fmt: skip
@layer_option
@gene_key_option
@click.option("--epochs", "max_epochs", type=_positive, show_default="the recipe's", help="Passes through the spots.")
@click.option(
    "--in-memory", "sections_in_memory", type=_positive, show_default="all, read once", help="Sections mixed at a time."
)
@click.option("--devices", type=_positive, default=1, help="Processes or GPUs (DDP).")
@state_file_option
@click.option("--half", is_flag=True, help="Store the parameters in half precision, half the size.")
@device_option
@overwrite_option
@json_option
@debug_option
def pretrain(folder: Path, output: Path, overwrite: bool, recipe: dict[str, Any], **options: Any) -> None:
    """Train a model on all sections of a folder, such as a download of HEST-1k, each with its own genes.

    Sections are what other commands take: .h5ad, .zarr, folders of Space Ranger, ... Those that are neither .h5ad nor
    .zarr are written to a temporary folder first. The vocabulary is that of named genes which are detected in sections
    of several donors. Training goes on from --state-file if it was stopped.

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
    if options["state_file"] is not None:
        try_file(options["state_file"])
    if options["devices"] > 1:
        leave_to_first()
    from sagefm import model

    # Before any section is read.
    _check_names(recipe)
    start = time.perf_counter()
    with as_stores(_find_sections(folder), mod=None) as stores:
        corpus = _read_corpus(folder, stores, options)
        arguments = recipe | trainer_arguments(options["device"], options["devices"])
        arguments |= {name: options[name] for name in ("sections_in_memory", "state_file")}
        if options["max_epochs"] is not None:
            arguments["max_epochs"] = options["max_epochs"]
        if isinstance(vocabulary := arguments.get("vocabulary"), dict):
            arguments["vocabulary"] = corpus.expressed_genes(by=options["donor_key"], **vocabulary)
            report("genes", f"{len(arguments['vocabulary']):,}", n_genes=len(arguments["vocabulary"]))
        trained = model.pretrain(corpus, **arguments)
    trained.save(output, overwrite=overwrite, half=options["half"])
    seconds = round(time.perf_counter() - start, 3)
    report("trained", f"{seconds:.0f} s", seconds=seconds)
    say(f"Wrote {output}", output=str(output), status="written")


def _check_names(recipe: dict[str, Any]) -> None:
    """Raise for names that are no arguments of ``sagefm.model.pretrain``, or are options of the command."""
    from sagefm.model import pretrain
    from sagefm.training._config import SETTINGS
    from sagefm.training._fit import check_trainer_arguments

    for name in _OPTIONS.keys() & recipe.keys():
        raise ArgumentError(f"The recipe has {name}, which is an option of the command: pass {_OPTIONS[name]}.")
    vocabulary = recipe.get("vocabulary")
    if isinstance(vocabulary, dict) and vocabulary.keys() - {"min_detected", "min_groups"}:
        raise ArgumentError(f"The recipe has vocabulary={vocabulary}; expected min_detected and min_groups in it.")
    parameters = inspect.signature(pretrain).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    check_trainer_arguments(recipe.keys() - own - SETTINGS)


def _find_sections(folder: Path) -> list[Path]:
    """Return the sections in a folder, or in its folder ``st``, as in HEST-1k."""
    from sagefm.data._files import sections_folder

    if is_section(folder):
        raise ArgumentError(
            f"{folder} is one section; expected a folder of several. Pass {str(folder.resolve().parent)!r}, or train on "
            f"this one: sagefm train {folder}"
        )
    inside = sections_folder(folder)
    sections = [path for path in sorted(inside.iterdir()) if not path.name.startswith(".") and is_section(path)]
    if not sections:
        raise ArgumentError(f"{inside} holds no section; expected .h5ad, .zarr or folders of Space Ranger in it.")
    return sections


def _read_corpus(folder: Path, stores: list[Path], options: dict[str, Any]) -> Corpus:
    """Return the sections of a folder that are not excluded."""
    from sagefm.data._files import find_metadata
    from sagefm.datasets import Corpus

    metadata = find_metadata(folder, options["metadata"], None)
    corpus = Corpus(stores, metadata, layer=options["layer"], gene_key=options["gene_key"])
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
