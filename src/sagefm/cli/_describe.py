"""What a section holds, for ``sagefm info``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sagefm._constants import UNS_KEY
from sagefm._progress import ProgressBar
from sagefm.cli._run import report, say
from sagefm.data._blocks import iter_blocks
from sagefm.data._counts import get_counts
from sagefm.data._report import make_report
from sagefm.data._table import TableKeys, get_table
from sagefm.errors import CountsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

#: Names that are listed before "...".
_LISTED = 8
#: Fields of findings in a summary as JSON.
_SHOWN = ("severity", "what", "message", "repair")


def report_section(
    data: Any,
    model: str,
    *,
    gene_key: str | None,
    spatial_key: str,
    library_key: str | None,
    table_key: str | None,
    mod: str | None,
) -> None:
    """Report what is read of a section, what is odd about it (:func:`sagefm.pp.check`), and results that it holds."""
    from sagefm.checkpoint._resolve import resolve_model  # imports torch

    if hasattr(data, "tables"):
        report("elements", shorten(f"{name} ({kind})" for kind, name, _ in data.gen_elements()))
        if table_key is None and len(data.tables) > 1:
            report("tables", f"{shorten(data.tables)}; pass --table-key to look into one")
            return
    if hasattr(data, "mod"):
        report("modalities", shorten(data.mod))
        if mod is None and len(data.mod) > 1:
            report("", "pass --mod to look into one")
            return
    table = get_table(data, table_key=table_key, mod=mod)
    keys = TableKeys(gene_key=gene_key, spatial_key=spatial_key, library_key=library_key)
    with ProgressBar("checking counts, genes and coordinates"):
        checked = make_report(data, resolve_model(model).vocabulary, keys, table_key=table_key, mod=mod)
    say("", n_spots=table.n_obs, n_genes=table.n_vars)
    for topic, text in checked.read.items():
        report(topic, text)
    for layer in table.layers:
        if layer is not None:
            report(f'layers["{layer}"]', _layer(table, layer))
    columns = shorten(table.obs.columns) or "none"
    report("columns of obs", f"{columns} (of several sections, name the column with --library-key)")
    findings = [{name: getattr(finding, name) for name in _SHOWN} for finding in checked.findings]
    for finding in checked.findings:
        mark = "! " if finding.severity == "error" else ""
        report(finding.severity, f"{mark}{finding}", findings=findings)
    results = _results(table)
    for line in results or ["nothing yet"]:
        report("written by sagefm", line, written=results)


def shorten(names: Iterable[Any], n: int = _LISTED) -> str:
    """Return the first names as a list in words."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:n]) + (", ..." if len(listed) > n else "")


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
        # One of another program may have the same names.
        if not isinstance(entry, Mapping) or not isinstance(entry.get("params"), Mapping):
            continue
        if "curves" in entry and hasattr(entry.get("scores"), "columns"):
            lines.append(_result(f'uns["{key}"], {len(entry["scores"]):,} pairs', entry["params"]))
        if hasattr(entry.get("edges"), "columns"):
            lines.append(f'uns["{key}"], {len(entry["edges"]):,} couplings')
    return lines


def _result(where: str, params: Mapping[Any, Any]) -> str:
    return f"{where}, model {params.get('model')}, sha256 {str(params.get('checkpoint_sha256'))[:12]}"
