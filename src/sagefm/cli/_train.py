"""``sagefm train``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm._replacing import try_file
from sagefm.cli._files import as_stores, check_folder, read_section, sections_argument
from sagefm.cli._options import (
    TABLE_ARGUMENTS,
    apply,
    device_option,
    model_folder_option,
    overwrite_option,
    seed_option,
    state_file_option,
    table_options,
)
from sagefm.cli._run import debug_option, json_option, report, say
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from sagefm.datasets import Corpus

_NETWORK = ("architecture", "hidden", "likelihood", "dropout", "vocabulary")


def _split_widths(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(width) for width in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers, such as 256,64.") from None


_model_options = apply(
    click.option(
        "--architecture", type=click.Choice(["center_neighborhood", "published"]), default="center_neighborhood",
        help="The spot and its neighborhood apart; or the five graph convolutions of SAGE-FM (arXiv 2601.15504).",
    ),
    click.option("--hidden", metavar="W,W,...", callback=_split_widths, help="Widths of the layers, the last that of the embedding."),
    click.option(
        "--likelihood", type=click.Choice(["poisson", "negative_binomial"]), default="poisson",
        help="Of the architecture center_neighborhood.",
    ),
    click.option(
        "--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.5,
        help="Of the architecture center_neighborhood.",
    ),
    click.option(
        "--vocabulary", type=click.Choice(["input", "published"]), default="input",
        callback=lambda _ctx, _parameter, value: None if value == "input" else value,
        help="Genes of the model: those of the input, or the 14,558 of the published network.",
    ),
)  # fmt: skip
_training_options = apply(
    click.option("--epochs", "max_epochs", type=click.IntRange(min=1), default=100, help="At most this many."),
    click.option("--batch-size", type=click.IntRange(min=1), default=256, help="Spots of a step."),
    click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate.", show_default="the architecture's"),
    click.option("--weight-decay", type=click.FloatRange(0), help="Weight decay.", show_default="the architecture's"),
    click.option(
        "--mask-fraction", type=click.FloatRange(0, 1, min_open=True), show_default="the architecture's",
        help="Share of a spot's genes that is hidden.",
    ),
    click.option(
        "--validation-size", type=click.FloatRange(0, 1, max_open=True), default=0.1,
        help="Share held out: whole sections, or square tiles of a single one.",
    ),
    click.option(
        "--patience", type=click.IntRange(min=0), default=10,
        help="Stop after this many epochs without a better validation loss; 0 never stops early.",
    ),
    state_file_option,
)  # fmt: skip


@click.command(short_help="A model of one or several sections.")
@sections_argument
@model_folder_option
@table_options
@_model_options
@_training_options
@seed_option
@device_option
@overwrite_option
@json_option
@debug_option
def train(sections: tuple[Path, ...], output: Path, device: str, overwrite: bool, **options: Any) -> None:
    """Train a model to predict hidden genes of a spot from its other genes and its neighborhood.

    Several files are several sections, each named after its file (with --library-key, after file and column) and with
    its own genes: those of the model are the genes that at least half of the files measured. Whole sections are then
    held out for validation; of a single section, square tiles are. The summary's "validation D2" is the share of the
    deviance of held-out counts that is explained beyond sequencing depth and the section's average: 0 means that
    nothing was learned.

    \b
    Writes MODEL_DIR with
      model.safetensors       the parameters
      config.json             genes, architecture, settings, losses by epoch
    \b
    Examples:
      sagefm train section.h5ad -o model
      sagefm train donor1.h5ad donor2.h5ad donor3.h5ad -o model --layer counts --epochs 50
    """
    check_folder(output, contents=(CONFIG_FILE, WEIGHTS_FILE), overwrite=overwrite)
    if options["state_file"] is not None:
        try_file(options["state_file"])
    inputs = [str(path) for path in sections]
    say("Reading " + ", ".join(inputs), inputs=inputs)
    from sagefm.model import SAGEFM, pretrain

    start = time.perf_counter()
    keys = {name: options.pop(name) for name in TABLE_ARGUMENTS}
    network = {name: options.pop(name) for name in _NETWORK}
    training = {**options, **trainer_arguments(device), "early_stopping": options["patience"] > 0}
    if len(sections) == 1:
        model = SAGEFM(_read_table(sections[0], **keys), **network, rng=options["rng"])
        model.train(**training)
    else:
        with as_stores(sections, mod=keys.pop("mod")) as stores:
            model = pretrain(_read_corpus(stores, **keys), **network, **training)
    seconds = time.perf_counter() - start
    model.save(output, overwrite=overwrite)
    checkpoint = model.to_checkpoint()
    facts = {"n_spots": checkpoint.training["n_spots"], "n_genes": len(checkpoint.vocabulary)}
    text = "Trained in {:.0f} s on {n_spots:,} spots x {n_genes:,} genes".format(seconds, **facts)
    say(text, seconds=round(seconds, 3), **facts)
    _report_training(checkpoint.training, checkpoint.history)
    say(f"Wrote {output}", output=str(output), status="written")


def _read_table(path: Path, table_key: str | None, mod: str | None, **keys: Any) -> AnnData:
    """Return the table of a file, set up for training."""
    from sagefm.data._table import coordinates_in_table, get_table
    from sagefm.model import SAGEFM

    data = read_section(path)
    table = get_table(data, table_key=table_key, mod=mod)
    with coordinates_in_table(data, table, keys["spatial_key"]):
        SAGEFM.setup_anndata(table, **keys)
    return table


def _read_corpus(paths: Sequence[Path], neighbors_key: str | None, **keys: Any) -> Corpus:
    """Return several files as a corpus."""
    from sagefm.datasets import Corpus

    if neighbors_key is not None:
        raise click.UsageError("--neighbors-key takes a single input: in several files, the 14 nearest spots are read.")
    corpus = Corpus(paths, **keys)
    report("genes", f"{len(corpus.vocabulary()):,} measured in at least half of the {len(corpus)} files")
    return corpus


def trainer_arguments(device: str, n_devices: int = 1) -> dict[str, Any]:
    """Return what Lightning's Trainer is told to train on a device, or on several of its kind."""
    from sagefm.checkpoint._resolve import resolve_device

    resolved = resolve_device(device)
    accelerator = "gpu" if resolved.type == "cuda" else resolved.type
    if n_devices == 1:
        return {"accelerator": accelerator, "devices": 1 if resolved.index is None else [resolved.index]}
    if resolved.index is not None:
        raise ArgumentError(
            f"--device {device} is one device, and --devices {n_devices}: pass --device {resolved.type}."
        )
    return {"accelerator": accelerator, "devices": n_devices, "strategy": "ddp"}


def _report_training(training: dict[str, Any], history: dict[str, list[float]]) -> None:
    """Print the result of training, beside what a model that learned nothing gets."""
    best = training["best_epoch"]
    stopped = " (stopped early)" if training["epochs"] < training["max_epochs"] else ""
    report("epochs", f"{training['epochs']}{stopped}", epochs=training["epochs"], best_epoch=best)
    train_loss = history["train_loss"][-1 if best is None else best]
    if best is None:
        report("training loss", f"{train_loss:.4f}; nothing was held out for validation", train_loss=train_loss)
        return
    names = [name for name in training["validation_sections"] if name]
    where = ", ".join(names) or "tiles of the section"
    loss, d2 = history["validation_loss"][best], history["validation_d2"][best]
    report("best epoch", f"{best}, counted from 0; its parameters are kept")
    report("training loss", f"{train_loss:.4f}", train_loss=train_loss)
    report("validation loss", f"{loss:.4f}, on held-out {where}", validation_loss=loss, validation_sections=names)
    text = f"{d2:.4f} (deviance explained over the section's average; 0 = learned nothing)"
    report("validation D2", text, validation_d2=d2)
