"""A function of ``sagefm.tl`` on one file or on many: where results go, what exists already, what failed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

import sagefm
from sagefm._replacing import try_output
from sagefm.cli._files import check_format, check_output, read_section, without_counts, write_section
from sagefm.cli._run import current_run, emit, explain, say
from sagefm.errors import ArgumentError, SagefmError
from sagefm.io._find import is_zarr, section_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData

    #: Prints the result in a table, by its key.
    Report = Callable[[AnnData, str, "Job"], None]

#: Suffixes of outputs; a file in a folder of outputs has that of its input, or the first.
SECTION_SUFFIXES, TABLE_SUFFIXES = (".h5ad", ".zarr", ".h5mu"), (".csv", ".tsv")


@dataclass(frozen=True)
class Job:
    """A section and the files that are made from it; it is done when `output` is there, which is written last."""

    section: Path
    output: Path
    table: Path | None = None


#: Of a verb that can do without a model.
NO_MODEL: Final = "none"


def for_each(
    verb: str,
    report: Report,
    *,
    sections: Sequence[Path],
    model: str | None = None,
    output: Path,
    table: Path | None = None,
    overwrite: bool,
    skip_existing: bool,
    lazy: bool,
    n_bytes: Callable[[AnnData], int] = lambda _: 0,
    **options: Any,
) -> None:
    """Run a function of ``sagefm.tl`` on one section after the other; those that fail do not stop the others.

    `n_bytes` is the size of what it adds to a table, where that is known.
    """
    jobs = _plan(sections, output, table, overwrite=overwrite, skip_existing=skip_existing, lazy=lazy)
    function = getattr(sagefm.tl, verb)
    if model is not None:
        from sagefm.checkpoint._resolve import resolve_model

        function = partial(function, model=None if model == NO_MODEL else resolve_model(model))
    failed = []
    for job in jobs:
        say("", input=str(job.section), output=str(job.output))
        start = time.perf_counter()
        try:
            if skip_existing and job.output.exists():
                say(f"{job.section}: {job.output} exists, skipped", status="skipped")
            else:
                _run_job(job, function, report, n_bytes, lazy=lazy, **options)
                say(f"Wrote {job.output}", status="written", seconds=round(time.perf_counter() - start, 3))
        except Warning:
            # An error in the tests alone.
            raise
        # Of any kind: one bad file is no reason to leave the others undone.
        except Exception as error:
            say("", status="failed", error=explain(error))
            if len(jobs) == 1 or current_run().debug:
                raise
            click.echo(f"Error: {job.section}: {explain(error)}", err=True)
            failed.append(str(job.section))
        finally:
            emit()
    if failed:
        raise SagefmError(
            f"{len(failed)} of {len(jobs)} sections failed, for the reasons above: {', '.join(failed)}. "
            f"The others are written; --skip-existing leaves them as they are when the command is given again."
        )


def _run_job(
    job: Job,
    function: Callable[..., None],
    report: Report,
    n_bytes: Callable[[AnnData], int],
    *,
    lazy: bool,
    use_raw: bool,
    compression: str | None,
    **arguments: Any,
) -> None:
    """Read a section, run a function of ``sagefm.tl`` with its arguments, print and write the result."""
    from sagefm.data._table import get_table

    data = read_section(job.section, lazy=lazy)
    if use_raw:
        if getattr(data, "raw", None) is None:
            raise ArgumentError(f"{job.section} has no adata.raw: leave --use-raw out, or name a layer with --layer.")
        data = data.raw.to_adata()
    table = get_table(data, table_key=arguments["table_key"], mod=arguments["mod"])
    say(f"{job.section}: {table.n_obs:,} spots x {table.n_vars:,} genes", n_spots=table.n_obs, n_genes=table.n_vars)
    if job.output.suffix.lower() == ".h5ad" and compression is None:
        # Elsewhere it is compressed, to a size that only the end shows.
        try_output(job.output, n_bytes=n_bytes(table))
    function(data, **arguments)
    report(table, arguments["key_added"], job)
    if lazy and data is table:
        data = table = without_counts(table, arguments["key_added"])
    write_section(data, job.output, table=table, compression=compression)


def _plan(
    sections: Sequence[Path], output: Path, table: Path | None, *, overwrite: bool, skip_existing: bool, lazy: bool
) -> list[Job]:
    """Return what is to be done; raise before anything is computed if an output may not be written."""
    if overwrite and skip_existing:
        raise click.UsageError("Pass --overwrite or --skip-existing, not both.")
    outputs = _places(sections, output, SECTION_SUFFIXES, "--output")
    tables = [None] * len(sections) if table is None else _places(sections, table, TABLE_SUFFIXES, "--table")
    jobs = [Job(*files) for files in zip(sections, outputs, tables, strict=True)]
    in_place = [job.output for job in jobs if job.output.resolve() == job.section.resolve()]
    if in_place and skip_existing:
        raise click.UsageError("With --skip-existing, -o must not be where the inputs are: all would be skipped.")
    if in_place and lazy:
        raise ArgumentError(
            f"{in_place[0]} is the input, and --lazy writes no counts: they would be lost. Choose another path."
        )
    for job in jobs:
        if skip_existing and job.output.exists():
            continue
        check_format(job.section, job.output)
        check_output(job.output, overwrite=overwrite)
        if job.table is not None:
            # A run that was stopped may have left the table of a section that is not done.
            check_output(job.table, overwrite=overwrite or skip_existing)
    return jobs


def _places(sections: Sequence[Path], path: Path, suffixes: tuple[str, ...], option: str) -> list[Path]:
    """Return where the result of each section goes: `path`, or a file in this folder, named after the section."""
    problem = partial(click.BadParameter, param_hint=option)
    if path.suffix.lower() in suffixes:
        if len(sections) == 1:
            return [path]
        raise problem(f"{str(path)!r} is one file; {len(sections)} inputs need a folder, which gets a file of each.")
    if is_zarr(path) or path.is_file() or (len(sections) == 1 and path.suffix and not path.is_dir()):
        raise problem(f"{str(path)!r} does not end with {' or '.join(suffixes)}, and is no folder.")
    names = [_file_name(file, suffixes) for file in sections]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise problem(f"several inputs would be written to {path / repeated[0]}: give inputs of one name one by one.")
    return [path / name for name in names]


def _file_name(section: Path, suffixes: tuple[str, ...]) -> str:
    """Return the name of a result: that of the section, with its suffix or, of a folder, the first."""
    if section.suffix.lower() in suffixes:
        return section.name
    # A zarr store may be without its suffix.
    suffix = ".zarr" if ".zarr" in suffixes and is_zarr(section) else suffixes[0]
    return f"{section_name(section)}{suffix}"
