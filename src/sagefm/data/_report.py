"""What will be read of a table, and what is odd about it; for :func:`sagefm.pp.check` and ``sagefm info``."""

from __future__ import annotations

import ast
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from sagefm._text import plain
from sagefm.data._blocks import iter_blocks
from sagefm.data._check_places import bin_width
from sagefm.data._counts import get_counts
from sagefm.data._findings import Finding
from sagefm.data._genes import match_genes
from sagefm.data._graph import check_places, with_library_key
from sagefm.data._reader import check_counts, check_genes
from sagefm.data._table import find_spots, get_table
from sagefm.errors import SagefmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from sagefm.data._genes import GeneMatch, Vocabulary
    from sagefm.data._table import Spots, TableKeys

_ORDER = ("error", "warning", "note")
#: Names of sections that are listed before "...".
_LISTED = 5


@dataclass(frozen=True)
class Report:
    """What will be read of a table, and what is odd about it.

    Attributes
    ----------
    read
        What will be read, in words, by topic: ``"table"``, ``"counts"``, ``"sections"``, ``"coordinates"``,
        ``"technology"``, ``"genes"``. A topic that cannot be read is missing, and among the findings.
    findings
        What is odd: first errors, which other functions raise, then warnings, then notes.
    """

    read: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing will be refused."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_frame(self) -> pd.DataFrame:
        """Return the findings as a table: ``severity``, ``what``, ``message``, ``repair``."""
        columns = ["severity", "what", "message", "repair"]
        return pd.DataFrame(
            [[getattr(finding, name) for name in columns] for finding in self.findings], columns=columns
        )

    def __str__(self) -> str:
        lines = [f"{topic:<14}{text}" for topic, text in self.read.items()]
        for finding in self.findings:
            text = textwrap.fill(finding.message, 106, break_long_words=False, break_on_hyphens=False)
            lines.append(f"{finding.severity:<14}" + textwrap.indent(text, " " * 14).strip())
            lines += [" " * 14 + finding.repair] if finding.repair else []
        return plain("\n".join([*lines, *([] if self.findings else ["nothing odd"])]))


def make_report(
    data: Any, vocabulary: Vocabulary, keys: TableKeys, *, table_key: str | None = None, mod: str | None = None
) -> Report:
    """Return what will be read of AnnData, SpatialData or MuData, to which nothing is written."""
    table = get_table(data, table_key=table_key, mod=mod)
    read = {"table": f"{table.n_obs:,} spots x {table.n_vars:,} genes"}
    findings: list[Finding] = []
    spots = match = counts = None
    with _as_finding("coordinates", findings):
        keys = with_library_key(table, keys)
        spots = find_spots(data, table, keys)
    with _as_finding("genes", findings):
        match = match_genes(table, vocabulary, keys.gene_key)
    with _as_finding("counts", findings):
        counts = get_counts(table, keys.layer)
        totals = np.concatenate([np.asarray(block.sum(axis=1)).ravel() for _, block in iter_blocks(counts)])
        where = "adata.X" if keys.layer is None else f"adata.layers[{keys.layer!r}]"
        low, median, high = np.quantile(totals, [0.05, 0.5, 0.95])
        read["counts"] = f"{where}, raw counts: median {median:,.0f} a spot (5 to 95 %: {low:,.0f} to {high:,.0f})"
    if spots is not None:
        findings += check_places(table, keys, spots)
        read |= _describe_spots(table, keys, spots)
    if match is not None:
        read["genes"] = _describe_genes(match, len(vocabulary))
        findings += check_genes(table, keys, match, vocabulary)
    if spots is not None and counts is not None:
        findings += check_counts(table, keys, spots, counts, match)[1]
    return Report(read, tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity))))


@contextmanager
def _as_finding(what: str, findings: list[Finding]) -> Iterator[None]:
    """Add an error that the block raises to the findings; of its message, a call at the end is the repair."""
    try:
        yield
    except SagefmError as error:
        message, _, repair = str(error).rpartition(": ")
        if not message or not _is_code(repair):
            message, repair = str(error), ""
        findings.append(Finding(what, "error", message, repair, type(error)))


def _is_code(text: str) -> bool:
    """Tell whether a text is a call or an assignment in Python."""
    try:
        (statement,) = ast.parse(text).body
    except (SyntaxError, ValueError):
        return False
    return isinstance(statement, ast.Assign) or isinstance(getattr(statement, "value", None), ast.Call)


def _describe_spots(table: AnnData, keys: TableKeys, spots: Spots) -> dict[str, str]:
    """Return sections, coordinates and the technology that they look like, in words."""
    sizes = np.bincount(spots.libraries, minlength=len(spots.names)).tolist()
    named = [f"{name} ({size:,} spots)" for name, size in zip(spots.names, sizes, strict=True)][:_LISTED]
    sections = "one, as no library_key is given"
    if len(spots.names) > 1 or keys.library_key is not None:
        dots = ", ..." if len(spots.names) > _LISTED else ""
        sections = f"{len(spots.names):,} of adata.obs[{keys.library_key!r}]: {', '.join(named)}{dots}"
    where = f"adata.obsm[{keys.spatial_key!r}]" if keys.spatial_key in table.obsm else "centroids of shapes"
    first = spots.libraries == 0
    if first.sum() < 2:
        return {"sections": sections, "coordinates": where}
    array, pitch = _array(spots.coordinates[first])
    if array == "no array" and {"array_row", "array_col"} <= set(table.obs):
        array = "square array"  # as of small pieces, with hardly an inner spot
    technology = {
        "hexagonal array": "Visium, by the hexagonal array",
        "square array": "Spatial Transcriptomics, DynamicST or bins, by the square array",
        "no array": "cells or beads, as there is no array",
    }[array]
    width, what = bin_width(table, spots.names[0], np.flatnonzero(first), pitch)
    if width is not None:
        technology = f"{technology}; {what}"
    return {
        "sections": sections,
        "coordinates": f"{where}: nearest spot at {pitch:.4g} (median), {array}",
        "technology": technology,
    }


def _array(coordinates: NDArray[np.float64]) -> tuple[str, float]:
    """Return the kind of array that spots (n_spots, 2) are on, and the distance of neighbors on it."""
    k = min(7, len(coordinates) - 1)
    distances = cKDTree(coordinates).query(coordinates, k=k + 1)[0][:, 1:]
    pitch = float(np.median(distances[:, 0]))
    if k < 6 or pitch == 0:
        return "no array", pitch
    # Distances of the first to the sixth spot in pitches: of an inner spot, six at one pitch, or four.
    rings = np.median(distances, axis=0) / pitch
    if rings[5] < 1.15:
        return "hexagonal array", pitch
    return ("square array" if rings[3] < 1.25 and rings[4] > 1.35 else "no array"), pitch


def _describe_genes(match: GeneMatch, n_vocabulary: int) -> str:
    used = match.report[match.report["matched"]]["via"]
    ways = {
        "symbol": "symbol",
        "ensembl": "Ensembl id",
        "previous": "earlier or later symbol",
        "spelling": "changed name",
    }
    by = ", ".join(f"{(used == via).sum():,} by {text}" for via, text in ways.items() if (used == via).any())
    n_double = int(match.report["duplicate"].sum())
    double = f"; {n_double:,} columns left out as duplicates" if n_double else ""
    return f"{len(used):,} of the {n_vocabulary:,} of the model's vocabulary ({match.coverage:.0%}): {by}{double}"
