"""``sagefm info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sagefm._constants import UNS_KEY
from sagefm.cli._files import is_section, read_section
from sagefm.cli._options import gene_key_option, library_key_option, spatial_key_option, table_key_option
from sagefm.cli._run import debug_option, emit, json_option, report, say
from sagefm.errors import CountsError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

#: Names that are listed before "...".
_LISTED = 8


@click.command(short_help="What a model folder or a section holds.")
@click.argument("targets", metavar="MODEL_OR_FILE...", nargs=-1, required=True)
@gene_key_option
@spatial_key_option
@library_key_option
@table_key_option
@json_option
@debug_option
def info(targets: tuple[str, ...], **options: Any) -> None:
    """Print what model folders or sections hold. Nothing is written.

    Of a model: architecture, genes, training, validation losses, and the hash by which results name it. Of a section:
    spots and genes, whether X and layers are raw counts, coordinates, libraries, how many genes are in the published
    vocabulary, and what sagefm has already added. What other commands would refuse is marked with "!".

    \b
    Examples:
      sagefm info section.h5ad
      sagefm info default
      sagefm info --json sections/*.h5ad
    """
    for target in targets:
        say("", input=target)
        _describe(target, options)
        emit()


def _describe(target: str, options: dict[str, Any]) -> None:
    """Print what a section or a model holds."""
    path = Path(target)
    if is_section(path):
        data = read_section(path)
        say(f"{target}: {type(data).__name__}", kind=type(data).__name__)
        _describe_data(data, options)
    elif path.suffix.lower() in (".h5ad", ".zarr"):
        reason = "is neither a .h5ad file nor a zarr store" if path.exists() else "does not exist"
        raise click.BadParameter(f"{target!r} {reason}.", param_hint="MODEL_OR_FILE")
    else:
        _describe_model(target)


def _describe_model(target: str) -> None:
    from sagefm.checkpoint._hub import describe
    from sagefm.checkpoint._resolve import resolve_model

    checkpoint = resolve_model(target)
    say(f"{target}: model", kind="model")
    for label, text in describe(checkpoint).items():
        report(label, f"{text}: {_list(checkpoint.vocabulary.symbols)}" if label == "genes" else text)


def _describe_data(data: Any, options: dict[str, Any]) -> None:
    from sagefm.data._table import get_table

    if hasattr(data, "tables"):
        elements = [f"{name} ({kind})" for kind, name, _ in data.gen_elements()]
        report("elements", _list(elements))
        if options["table_key"] is None and len(data.tables) > 1:
            report("tables", f"{_list(list(data.tables))}; pass --table-key to look into one")
            return
    table = get_table(data, table_key=options["table_key"])
    n_spots, n_genes = table.shape
    report("table", f"{n_spots:,} spots x {n_genes:,} genes", n_spots=n_spots, n_genes=n_genes)
    report("X", _try(lambda: _counts(table, None)))
    for layer in [name for name in table.layers if name is not None]:
        report(f'layers["{layer}"]', _layer(table, layer))
    report("coordinates", _try(lambda: _coordinates(data, table, options["spatial_key"])))
    report("libraries", _try(lambda: _libraries(table, options["library_key"])))
    report("genes", _try(lambda: _genes(table, options["gene_key"])))
    results = _results(table)
    for line in results or ["nothing yet"]:
        report("written by sagefm", line, written=results)


def _try(describe: Callable[[], str]) -> str:
    """Return a description, or what is wrong."""
    try:
        return describe()
    except SagefmError as error:
        return f"! {error}"


def _counts(table: AnnData, layer: str | None) -> str:
    import numpy as np

    from sagefm.data._blocks import iter_blocks
    from sagefm.data._counts import get_counts

    blocks = iter_blocks(get_counts(table, layer))
    totals = np.concatenate([np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() for _, block in blocks])
    text = f"raw counts, median {np.median(totals):,.0f} a spot"
    n_empty = int((totals == 0).sum())
    return f"{text}; ! {n_empty} spots have none" if n_empty else text


def _layer(table: AnnData, layer: str) -> str:
    """Return what a layer holds; layers hold many things, and that one is no counts is no fault."""
    if layer in _runs(table):
        return "predictions of sagefm"
    try:
        return _counts(table, layer)
    except CountsError:
        return "no raw counts"


def _coordinates(data: Any, table: AnnData, spatial_key: str) -> str:
    import numpy as np
    from scipy.spatial import cKDTree

    from sagefm.data._table import find_coordinates

    coordinates = find_coordinates(data, table, spatial_key)
    where = f'obsm["{spatial_key}"]' if spatial_key in table.obsm else "shapes"
    if len(coordinates) < 2:
        return f"{where}, 1 spot"
    distances = cKDTree(coordinates).query(coordinates, k=2)[0][:, 1]
    text = f"{where}, nearest spot at {np.median(distances):.4g} (median)"
    n_shared = int((distances == 0).sum())
    return f"{text}; {n_shared} spots share a place: several sections? --library-key" if n_shared else text


def _libraries(table: AnnData, library_key: str | None) -> str:
    import numpy as np

    from sagefm.data._table import get_libraries

    codes, names = get_libraries(table, library_key)
    if names == [""]:
        columns = _list(table.obs.columns) or "none"
        return f"one; of several, name the column of obs with --library-key (columns: {columns})"
    sizes = np.bincount(codes)
    return f"{len(names)}: {_list([f'{name} ({size:,} spots)' for name, size in zip(names, sizes, strict=True)])}"


def _genes(table: AnnData, gene_key: str | None) -> str:
    from sagefm.data._genes import get_gene_names, published_vocabulary, to_symbols

    names = get_gene_names(table, gene_key)
    vocabulary = published_vocabulary().position
    known = len(set(to_symbols(names)) & set(vocabulary))
    return f"{_list(names, 3)}; {known:,} of the published vocabulary's {len(vocabulary):,}"


def _runs(table: AnnData) -> dict[str, dict[str, Any]]:
    """Return what the verbs have noted of their runs, by key; `uns` may hold anything under any key."""
    runs = table.uns.get(UNS_KEY)
    if not isinstance(runs, dict):
        return {}
    return {key: run for key, run in runs.items() if isinstance(run, dict) and "checkpoint_sha256" in run}


def _results(table: AnnData) -> list[str]:
    """Return a line for each result that the verbs have left."""
    lines = []
    for key, run in _runs(table).items():
        places = [f'{name}["{key}"]' for name in ("obsm", "layers", "var") if key in getattr(table, name)]
        places = places or [f'uns["{UNS_KEY}"]["{key}"]']
        lines.append(f"{', '.join(places)}, {_model(run)}")
    for key, entry in table.uns.items():
        if isinstance(entry, dict) and {"scores", "curves", "params"} <= set(entry):
            lines.append(f'uns["{key}"], {len(entry["scores"]):,} pairs, {_model(entry["params"])}')
    return lines


def _model(run: dict[str, Any]) -> str:
    return f"model {run.get('model')}, sha256 {str(run.get('checkpoint_sha256', ''))[:12]}"


def _list(names: Any, n: int = _LISTED) -> str:
    return ", ".join(map(str, names[:n])) + (", ..." if len(names) > n else "")
