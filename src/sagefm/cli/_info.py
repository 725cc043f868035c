"""``sagefm info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sagefm.cli._files import is_section, read_section
from sagefm.cli._options import (
    gene_key_option,
    library_key_option,
    mod_option,
    model_option,
    spatial_key_option,
    table_key_option,
)
from sagefm.cli._run import debug_option, emit, json_option, report, say
from sagefm.io._find import find_kind, hest_files


@click.command(short_help="What a model folder or a section holds.")
@click.argument("targets", metavar="MODEL_OR_FILE...", nargs=-1, required=True)
@gene_key_option
@spatial_key_option
@library_key_option
@table_key_option
@mod_option
@model_option
@json_option
@debug_option
def info(targets: tuple[str, ...], **options: Any) -> None:
    """Print what model folders or sections hold. Nothing is written.

    Of a model: architecture, genes, training, validation losses, and the hash by which results name it. Of a section:
    what is read of it (counts, sections, coordinates, genes of the model), what is suspicious and the call in Python
    that repairs it, and what sagefm has already added. What other commands would refuse is marked with "!".

    \b
    Examples:
      sagefm info section.h5ad
      sagefm info default
      sagefm info --json sections/*.h5ad
    """
    for target in _sections_of(targets):
        say("", input=target)
        path = Path(target)
        if is_section(path):
            _report_section(path, options)
        elif path.suffix.lower() in (".h5ad", ".h5mu", ".zarr"):
            reason = "is neither a .h5ad file nor a zarr store" if path.exists() else "does not exist"
            raise click.BadParameter(f"{target!r} {reason}.", param_hint="MODEL_OR_FILE")
        else:
            _report_model(target)
        emit()


def _sections_of(targets: tuple[str, ...]) -> list[str]:
    """Return the targets, the sections of a folder of HEST-1k in its place."""
    return [
        name
        for target in targets
        for name in (map(str, hest_files(Path(target))) if find_kind(Path(target)) == "HEST" else [target])
    ]


def _report_section(path: Path, options: dict[str, Any]) -> None:
    from sagefm.cli._describe import report_section

    data = read_section(path)
    say(f"{path}: {type(data).__name__}", kind=type(data).__name__)
    report_section(data, **options)


def _report_model(target: str) -> None:
    from sagefm.checkpoint._hub import describe
    from sagefm.checkpoint._resolve import resolve_model
    from sagefm.cli._describe import shorten

    checkpoint = resolve_model(target)
    say(f"{target}: model", kind="model")
    for label, text in describe(checkpoint).items():
        report(label, f"{text}: {shorten(checkpoint.vocabulary.symbols)}" if label == "genes" else text)
