"""``sagefm train``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm.cli._files import check_folder, read_section, sections_argument
from sagefm.cli._options import apply, device_option, overwrite_option, seed_option, table_options
from sagefm.cli._run import debug_option, json_option, report, say
from sagefm.errors import ArgumentError, GenesError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from sagefm.model import SAGEFM

_LIBRARY_KEY = "library"
_TRAINING_ARGUMENTS = ("batch_size", "validation_size", "mask_fraction", "lr", "weight_decay", "seed", "state_file")


def _split_widths(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(width) for width in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers, such as 256,64.") from None


_share = click.FloatRange(0, 1, min_open=True)
_model_options = apply(
    click.option(
        "--architecture", type=click.Choice(["center_neighborhood", "published"]), default="center_neighborhood", show_default=True,
        help="The spot and its neighborhood apart; or the five graph convolutions of SAGE-FM (arXiv 2601.15504).",
    ),
    click.option("--hidden", metavar="W,W,...", callback=_split_widths, help="Widths of the layers, the last that of the embedding."),
    click.option(
        "--likelihood", type=click.Choice(["poisson", "negative_binomial"]), default="poisson", show_default=True,
        help="Of the default architecture.",
    ),
    click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True, help="Of the default architecture."),
    click.option(
        "--vocabulary", type=click.Choice(["input", "published"]), default="input", show_default=True,
        help="Genes of the model: those of the input, or the 14,558 of the published network.",
    ),
)  # fmt: skip
_training_options = apply(
    click.option("--epochs", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many."),
    click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Spots of a step."),
    click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate; that of the architecture if left out."),
    click.option("--weight-decay", type=click.FloatRange(0), help="Weight decay; that of the architecture if left out."),
    click.option("--mask-fraction", type=_share, help="Share of a spot's genes that is hidden; that of the architecture if left out."),
    click.option(
        "--validation-size", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True,
        help="Share held out: whole sections, or square tiles of a single one.",
    ),
    click.option(
        "--patience", type=click.IntRange(min=0), default=10, show_default=True,
        help="Stop after this many epochs without a better validation loss; 0 never stops early.",
    ),
    click.option(
        "--state-file", type=click.Path(path_type=Path, dir_okay=False),
        help="File for the state of training, written after every epoch. If it is there, training goes on from it.",
    ),
)  # fmt: skip


@click.command(short_help="A model of one or several sections.")
@sections_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="MODEL_DIR", help="Folder to write."
)
@table_options
@_model_options
@_training_options
@seed_option
@device_option
@overwrite_option
@json_option
@debug_option
def train(sections: tuple[Path, ...], output: Path, overwrite: bool, **options: Any) -> None:
    """Train a model to predict hidden genes of a spot from its other genes and its neighborhood.

    Several files are several sections: the genes that all of them hold are kept, and a section is named after its
    file (with --library-key, after file and column). Whole sections are then held out for validation; of a single
    section, square tiles are. The summary's "validation D2" is the share of the deviance of held-out counts that is
    explained beyond sequencing depth and the section's average: 0 means that nothing was learned.

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
    inputs = [str(path) for path in sections]
    say("Reading " + ", ".join(inputs), inputs=inputs)
    table, setup = _read(sections, options)
    start = time.perf_counter()
    vocabulary = "published" if options["vocabulary"] == "published" else None
    model = fit(
        table,
        setup,
        network={
            "vocabulary": vocabulary,
            **{name: options[name] for name in ("architecture", "hidden", "likelihood", "dropout", "seed")},
        },
        device=options["device"],
        max_epochs=options["epochs"],
        early_stopping=options["patience"] > 0,
        patience=max(options["patience"], 1),
        **{name: options[name] for name in _TRAINING_ARGUMENTS},
    )
    seconds = time.perf_counter() - start
    model.save(output, overwrite=overwrite)
    n_spots, n_genes = table.shape
    text = f"Trained in {seconds:.0f} s on {n_spots:,} spots x {n_genes:,} genes"
    say(text, seconds=round(seconds, 3), n_spots=n_spots, n_genes=n_genes)
    report_training(model)
    say(f"Wrote {output}", output=str(output), status="written")


def fit(table: AnnData, setup: dict[str, Any], *, network: dict[str, Any], device: str, **training: Any) -> SAGEFM:
    """Return a model trained on a table, with a progress bar.

    Parameters
    ----------
    table
        Table of counts.
    setup
        Arguments of ``SAGEFM.setup_anndata``.
    network
        Arguments of ``SAGEFM``.
    device
        Device to train on.
    **training
        Arguments of ``SAGEFM.train``.
    """
    from sagefm.checkpoint._resolve import resolve_device
    from sagefm.model import SAGEFM

    resolved = resolve_device(device)
    SAGEFM.setup_anndata(table, **setup)
    model = SAGEFM(table, **network)
    model.train(
        accelerator="gpu" if resolved.type == "cuda" else resolved.type,
        devices=1 if resolved.index is None else [resolved.index],
        progress=False,
        callbacks=[progress_bar()],
        **training,
    )
    return model


def report_training(model: SAGEFM) -> None:
    """Print what came of training, beside what a model that learned nothing gets."""
    checkpoint = model.to_checkpoint()
    training, history = checkpoint.training, checkpoint.history
    best = training["best_epoch"]
    stopped = " (stopped early)" if training["epochs"] < training["max_epochs"] else ""
    report("epochs", f"{training['epochs']}{stopped}", epochs=training["epochs"], best_epoch=best)
    train_loss = history["train_loss"][-1 if best is None else best]
    if best is None:
        report("training loss", f"{train_loss:.4f}; nothing was held out for validation", train_loss=train_loss)
        return
    names = [name for name in training["validation_sections"] if name]
    where = f"held-out {', '.join(names)}" if names else "held-out tiles of the section"
    loss, d2 = history["validation_loss"][best], history["validation_d2"][best]
    report("best epoch", f"{best}, counted from 0; its parameters are kept")
    report("training loss", f"{train_loss:.4f}", train_loss=train_loss)
    report("validation loss", f"{loss:.4f}, on {where}", validation_loss=loss, validation_sections=names)
    text = f"{d2:.4f} (deviance explained over the section's average; 0 = learned nothing)"
    report("validation D2", text, validation_d2=d2)


def _read(paths: Sequence[Path], options: dict[str, Any]) -> tuple[AnnData, dict[str, Any]]:
    """Return one table of all sections, and the arguments of ``SAGEFM.setup_anndata`` for it."""
    from sagefm.data._table import find_coordinates, get_table

    names = ("layer", "gene_key", "spatial_key", "library_key", "neighbors_key")
    setup = {name: options[name] for name in names}
    if len(paths) == 1:
        data = read_section(paths[0])
        table = get_table(data, table_key=options["table_key"])
        table.obsm[options["spatial_key"]] = find_coordinates(data, table, options["spatial_key"])
        return table, setup
    if options["neighbors_key"] is not None:
        raise click.UsageError("--neighbors-key takes a single input: graphs of several files are not joined.")
    return join_sections(paths, table_key=options["table_key"], **setup), {"library_key": _LIBRARY_KEY}


def join_sections(
    paths: Sequence[Path],
    *,
    layer: str | None,
    gene_key: str | None,
    spatial_key: str,
    library_key: str | None,
    neighbors_key: str | None = None,
    table_key: str | None = None,
) -> AnnData:
    """Return counts, coordinates and libraries of several files as one table of the genes that all of them hold.

    Raises
    ------
    SagefmError
        What is wrong with a file, named; no gene is in all of them.
    """
    import anndata
    import pandas as pd

    from sagefm.data._blocks import to_memory
    from sagefm.data._counts import get_counts
    from sagefm.data._genes import get_gene_names, to_symbols
    from sagefm.data._table import find_coordinates, get_libraries, get_table

    stems = [path.stem for path in paths]
    titles = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    if len(set(titles)) < len(titles):
        raise ArgumentError("A file was given twice; expected each section once.")
    tables = {}
    for path, title in zip(paths, titles, strict=True):
        try:
            data = read_section(path)
            table = get_table(data, table_key=table_key)
            genes = pd.Index(to_symbols(get_gene_names(table, gene_key)).astype(str))
            codes, libraries = get_libraries(table, library_key)
            is_first = ~genes.duplicated()
            # Names of spots are rarely unique over files, and nothing else of `obs` is needed.
            tables[title] = anndata.AnnData(
                to_memory(get_counts(table, layer))[:, is_first],
                obs=pd.DataFrame(
                    {_LIBRARY_KEY: [f"{title}/{libraries[code]}".rstrip("/") for code in codes]},
                    index=[f"{name}-{title}" for name in table.obs_names],
                ),
                var=pd.DataFrame(index=genes[is_first]),
                obsm={"spatial": find_coordinates(data, table, spatial_key)},
            )
        except SagefmError as error:
            raise type(error)(f"{path}: {error}") from error
    joined = anndata.concat(tables.values(), join="inner")
    if joined.n_vars == 0:
        raise GenesError(
            "No gene is in all of the files. Expected the same kind of gene names in each: pass --gene-key, "
            "the column of var with symbols or Ensembl ids."
        )
    largest = max(table.n_vars for table in tables.values())
    report("genes", f"{joined.n_vars:,} in all {len(tables)} files (the largest has {largest:,})")
    return joined


def progress_bar() -> Any:
    """Return a Lightning callback that counts batches, on a terminal."""
    from lightning.pytorch.callbacks import Callback
    from tqdm import tqdm

    class Bar(Callback):
        """One bar for the whole of training; Lightning's own starts anew with each epoch."""

        bar: Any = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            total = trainer.max_epochs * trainer.num_training_batches
            self.bar = tqdm(total=total, desc="train", unit="batch", disable=None, leave=False)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.bar.update()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            metrics = trainer.callback_metrics
            loss = metrics.get("validation_loss", metrics.get("train_loss"))
            self.bar.set_postfix(epoch=trainer.current_epoch, loss="" if loss is None else f"{float(loss):.4f}")

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if self.bar is not None:
                self.bar.close()

    return Bar()
