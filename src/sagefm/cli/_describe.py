"""What a section holds, for ``sagefm info``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from sagefm._constants import UNS_KEY
from sagefm.cli._run import report
from sagefm.data._blocks import iter_blocks
from sagefm.data._counts import get_counts
from sagefm.data._genes import get_gene_names, published_vocabulary
from sagefm.data._symbols import to_symbols
from sagefm.data._table import find_coordinates, get_libraries, get_table
from sagefm.errors import CountsError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anndata import AnnData

#: Names that are listed before "...".
_LISTED = 8


def report_section(
    data: Any, *, gene_key: str | None, spatial_key: str, library_key: str | None, table_key: str | None
) -> None:
    """Report counts, coordinates, libraries, genes and results; what other commands would refuse begins with "!"."""
    if hasattr(data, "tables"):
        report("elements", shorten(f"{name} ({kind})" for kind, name, _ in data.gen_elements()))
        if table_key is None and len(data.tables) > 1:
            report("tables", f"{shorten(data.tables)}; pass --table-key to look into one")
            return
    table = get_table(data, table_key=table_key)
    report("table", f"{table.n_obs:,} spots x {table.n_vars:,} genes", n_spots=table.n_obs, n_genes=table.n_vars)
    report("X", _try(_counts, table))
    for layer in table.layers:
        if layer is not None:
            report(f'layers["{layer}"]', _layer(table, layer))
    report("coordinates", _try(_coordinates, data, table, spatial_key))
    report("libraries", _try(_libraries, table, library_key))
    report("genes", _try(_genes, table, gene_key))
    results = _results(table)
    for line in results or ["nothing yet"]:
        report("written by sagefm", line, written=results)


def shorten(names: Iterable[Any], n: int = _LISTED) -> str:
    """Return the first names as a list in words."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:n]) + (", ..." if len(listed) > n else "")


def _try(describe: Callable[..., str], *arguments: Any) -> str:
    """Return a description, or what is wrong."""
    try:
        return describe(*arguments)
    except SagefmError as error:
        return f"! {error}"


def _counts(table: AnnData, layer: str | None = None) -> str:
    blocks = iter_blocks(get_counts(table, layer))
    totals = np.concatenate([np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() for _, block in blocks])
    text = f"raw counts, median {np.median(totals):,.0f} a spot"
    n_empty = int((totals == 0).sum())
    return f"{text}; ! {n_empty} spots have none" if n_empty else text


def _layer(table: AnnData, layer: str) -> str:
    if isinstance(_written(table).get(layer), Mapping):
        return "predictions of sagefm"
    try:
        return _counts(table, layer)
    except CountsError:
        # Layers hold many things: this is no fault.
        return "no raw counts"


def _coordinates(data: Any, table: AnnData, spatial_key: str) -> str:
    coordinates = find_coordinates(data, table, spatial_key)
    where = f'obsm["{spatial_key}"]' if spatial_key in table.obsm else "shapes"
    if len(coordinates) < 2:
        return f"{where}, 1 spot"
    distances = cKDTree(coordinates).query(coordinates, k=2)[0][:, 1]
    text = f"{where}, nearest spot at {np.median(distances):.4g} (median)"
    n_shared = int((distances == 0).sum())
    return f"{text}; {n_shared} spots share a place: several sections? --library-key" if n_shared else text


def _libraries(table: AnnData, library_key: str | None) -> str:
    codes, names = get_libraries(table, library_key)
    if names == [""]:
        columns = shorten(table.obs.columns) or "none"
        return f"one; of several, name the column of obs with --library-key (columns: {columns})"
    sizes = np.bincount(codes)
    return f"{len(names)}: {shorten(f'{name} ({size:,} spots)' for name, size in zip(names, sizes, strict=True))}"


def _genes(table: AnnData, gene_key: str | None) -> str:
    names, vocabulary = get_gene_names(table, gene_key), published_vocabulary().position
    known = len(set(to_symbols(names)) & set(vocabulary))
    return f"{shorten(names, 3)}; {known:,} of the published vocabulary's {len(vocabulary):,}"


def _written(table: AnnData) -> Mapping[Any, Any]:
    """Return what the verbs have recorded; an entry of another program may be anything."""
    entries = table.uns.get(UNS_KEY)
    return entries if isinstance(entries, Mapping) else {}


def _results(table: AnnData) -> list[str]:
    """Return a line for each result of a verb."""
    lines = []
    for key, params in _written(table).items():
        if isinstance(params, Mapping) and "checkpoint_sha256" in params:
            places = [f'{name}["{key}"]' for name in ("obsm", "layers", "var") if key in getattr(table, name)]
            lines.append(_result(", ".join(places) or f'uns["{UNS_KEY}"]["{key}"]', params))
    for key, entry in table.uns.items():
        is_result = isinstance(entry, Mapping) and {"scores", "curves", "params"} <= set(entry)
        if is_result and isinstance(entry["params"], Mapping):
            lines.append(_result(f'uns["{key}"], {len(entry["scores"]):,} pairs', entry["params"]))
        if isinstance(entry, Mapping) and {"edges", "params"} <= set(entry):
            lines.append(f'uns["{key}"], {len(entry["edges"]):,} couplings')
    return lines


def _result(where: str, params: Mapping[Any, Any]) -> str:
    return f"{where}, model {params.get('model')}, sha256 {str(params.get('checkpoint_sha256'))[:12]}"
