"""A verb on one file or on many: where results go, what is there already, what failed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from sagefm.cli._files import check_output, is_zarr, read_section, without_counts, write_section
from sagefm.cli._run import begin, emit, is_debugging, say
from sagefm.errors import ArgumentError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData

    from sagefm.model import Checkpoint

#: Suffixes of outputs; a file in a folder of outputs has that of its input, or the first.
SECTION_SUFFIXES, TABLE_SUFFIXES = (".zarr", ".h5ad"), (".csv", ".tsv")


@dataclass(frozen=True)
class Job:
    """A section and the files that are made of it; it is done when `output` is there, which is written last."""

    section: Path
    output: Path
    table: Path | None = None


def for_each(
    work: Callable[[Any, AnnData, Checkpoint, Job], None],
    sections: Sequence[Path],
    output: Path,
    table: Path | None = None,
    *,
    model: str,
    key: str,
    options: dict[str, Any],
) -> None:
    """Read, work on and write one section after the other; those that cannot be done do not stop the others.

    Parameters
    ----------
    work
        Takes the object that was read, its table, the model and the job; adds to the table and reports.
    sections
        Inputs.
    output, table
        As given: files, or folders of files.
    model
        Name or folder.
    key
        Layer that is written where counts are not (``--lazy``).
    options
        Of the command.

    Raises
    ------
    SagefmError
        The section, or one of several, cannot be used or written.
    """
    from sagefm.checkpoint._resolve import resolve_model

    existing = {name: options[name] for name in ("overwrite", "skip_existing")}
    jobs = _plan(sections, output, table, **existing)
    checkpoint = resolve_model(model)
    failed = []
    for job in jobs:
        begin(input=str(job.section), output=str(job.output))
        start = time.perf_counter()
        try:
            if options["skip_existing"] and job.output.exists():
                say(f"{job.section}: {job.output} exists, skipped", status="skipped")
            else:
                _run_one(job, checkpoint, key, options, work)
                say(f"Wrote {job.output}", status="written", seconds=round(time.perf_counter() - start, 3))
        except SagefmError as error:
            say("", status="failed", error=str(error))
            if len(jobs) == 1 or is_debugging():
                raise
            click.echo(f"Error: {job.section}: {error}", err=True)
            failed.append(str(job.section))
        finally:
            emit()
    if failed:
        raise SagefmError(
            f"{len(failed)} of {len(jobs)} sections failed, for the reasons above: {', '.join(failed)}. "
            f"The others are written; --skip-existing leaves them as they are when the command is given again."
        )


def _run_one(job: Job, checkpoint: Checkpoint, key: str, options: dict[str, Any], work: Callable[..., None]) -> None:
    from sagefm.data._table import get_table

    lazy = options["lazy"]
    if lazy and job.output.resolve() == job.section.resolve():
        raise ArgumentError(
            f"{job.output} is the input, and --lazy writes no counts: they would be lost. Choose another path."
        )
    data = read_section(job.section, lazy=lazy)
    table = get_table(data, table_key=options["table_key"])
    n_spots, n_genes = table.shape
    say(f"{job.section}: {n_spots:,} spots x {n_genes:,} genes", n_spots=n_spots, n_genes=n_genes)
    work(data, table, checkpoint, job)
    if lazy and data is table:
        data = table = without_counts(table, key)
    write_section(data, job.output, table=table, compression=options["compression"])


def _plan(
    sections: Sequence[Path], output: Path, table: Path | None, *, overwrite: bool, skip_existing: bool
) -> list[Job]:
    """Return what is to be done; nothing is computed before it is known that every output may be written.

    Raises
    ------
    click.UsageError
        Several inputs and an output that is no folder, two of one name, options that exclude each other.
    OutputExistsError
        An output exists and may not be overwritten.
    """
    if overwrite and skip_existing:
        raise click.UsageError("Pass --overwrite or --skip-existing, not both.")
    outputs = _places(sections, output, SECTION_SUFFIXES, "--output")
    tables = [None] * len(sections) if table is None else _places(sections, table, TABLE_SUFFIXES, "--table")
    jobs = [Job(*files) for files in zip(sections, outputs, tables, strict=True)]
    if skip_existing and any(job.output.resolve() == job.section.resolve() for job in jobs):
        raise click.UsageError("With --skip-existing, -o must not be where the inputs are: all would be skipped.")
    for job in jobs:
        if not (skip_existing and job.output.exists()):
            check_output(job.output, overwrite=overwrite)
            # A run that was stopped may have left the table of a section that is not done.
            check_output(job.table, overwrite=overwrite or skip_existing)
    return jobs


def _places(sections: Sequence[Path], path: Path, suffixes: tuple[str, ...], option: str) -> list[Path]:
    """Return where the result of each section goes: `path`, or a file in this folder, named after the section."""
    is_file = path.suffix.lower() in suffixes
    if is_file and len(sections) == 1:
        return [path]
    if is_file:
        raise click.BadParameter(
            f"{str(path)!r} is one file; {len(sections)} inputs need a folder, which gets a file of each.",
            param_hint=option,
        )
    if is_zarr(path) or path.is_file() or (len(sections) == 1 and path.suffix and not path.is_dir()):
        ends = " or ".join(suffixes)
        raise click.BadParameter(f"{str(path)!r} does not end with {ends}, and is no folder.", param_hint=option)
    names = [
        section.name if section.suffix.lower() in suffixes else f"{section.stem}{suffixes[0]}" for section in sections
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise click.BadParameter(
            f"several inputs would be written to {path / twice[0]}: give inputs of one name one by one.",
            param_hint=option,
        )
    return [path / name for name in names]
