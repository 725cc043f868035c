"""Rows that are no tissue, and sections that were joined without a column that tells them apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from sagefm._constants import N_SPOTS
from sagefm.data._findings import Finding, listed
from sagefm.data._table import get_column, spatial_libraries
from sagefm.errors import CoordinatesError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from sagefm.data._table import Spots, TableKeys

#: Spots of the arrays of Visium (6.5 and 11 mm).
_ARRAY_SPOTS = (4_992, 14_336)
#: Share of spots, of barcodes or array positions that are there twice.
_MIN_REPEATED = 0.01
#: What names a spot within its section: barcodes of Visium, places of Visium HD and of Spatial Transcriptomics.
_BARCODES: Final = [
    re.compile(pattern) for pattern in (r"[ACGT]{12,}", r"s_\d{3}um_\d{5}_\d{5}", r"(?<![\d.])\d{1,3}x\d{1,3}(?![\d.])")
]
#: Columns of ``obs`` that name sections, if they have several values.
_SECTION_COLUMN: Final = re.compile(
    r"^(orig\.ident|(library|lib|sample|section|slide|slice|batch|donor|patient|subject|specimen|dataset|capture_?area)"
    r"([_. ]?(id|name|key|no|number))?)$",
    re.IGNORECASE,
)


def find_background(table: AnnData) -> Iterator[Finding]:
    """Yield a finding where rows of a table are no tissue."""
    for key in ("in_tissue", "tissue"):
        if key in table.obs:
            values = get_column(table, key, argument="key").astype(str).str.lower().str.removesuffix(".0")
            outside = values.isin(["0", "false"]).to_numpy()
            if outside.any() and (~outside).any() and values.isin(["0", "1", "true", "false", "nan", "none"]).all():
                yield Finding(
                    "background",
                    "error",
                    f"{outside.sum():,} of {len(outside):,} rows are no tissue: adata.obs[{key!r}] is {values[outside].iloc[0]}. "
                    f"They would be read as spots, in the profile of the section and in neighborhoods. Leave them out",
                    f"adata = adata[{_inside(table, key)}].copy()",
                    CoordinatesError,
                )
            return


def _inside(table: AnnData, key: str) -> str:
    column = get_column(table, key, argument="key")
    if pd.api.types.is_bool_dtype(column):
        return f"adata.obs[{key!r}]"
    values = column.astype(str)
    outside = sorted(set(values[values.str.lower().str.removesuffix(".0").isin(["0", "false"])]))
    return f"~adata.obs[{key!r}].astype(str).isin({outside})"


def find_whole_array(table: AnnData, totals: NDArray[np.floating]) -> Iterator[Finding]:
    """Yield a finding where all spots of an array are there, many with hardly a count, and nothing tells tissue."""
    n_low = int((totals < 0.05 * np.median(totals)).sum())
    if table.n_obs in _ARRAY_SPOTS and n_low >= 0.05 * table.n_obs and not {"in_tissue", "tissue"} & set(table.obs):
        yield Finding(
            "whole array",
            "warning",
            f"The table holds all {table.n_obs:,} spots of a Visium array, {n_low:,} of them with less than a twentieth of "
            f"the usual counts: rows that are no tissue? Read the filtered matrix of Space Ranger, or leave them out",
            f"scanpy.pp.filter_cells(adata, min_counts={int(0.05 * np.median(totals)) + 1})",
        )


def find_joined(table: AnnData, keys: TableKeys, spots: Spots) -> Iterator[Finding]:
    """Yield a finding where a table, or a library that it names, holds several sections."""
    identities = _identities(table, spots)
    repeats = _repeats(identities, spots.libraries)
    libraries = set(spatial_libraries(table))
    columns = {} if len(spots.names) > 1 else _section_columns(table, any(repeats.values()) or len(libraries) > 1)
    named = [key for key, values in columns.items() if len(set(values) & libraries) > 1]
    apart = [key for key, values in columns.items() if not any(_repeats(identities, _codes(values)).values())]
    what = [f"{n:,} of {table.n_obs:,} {kind} repeat an earlier one" for kind, n in repeats.items() if n]
    if len(libraries) > 1 and named:
        what.append(f"adata.uns['spatial'] names {len(libraries)} libraries, {listed(sorted(libraries))}")
    n_places = repeats.pop("coordinates") if apart else repeats.pop("coordinates") * 0
    is_sure = bool(named) or max(n_places, *repeats.values()) > max(1, _MIN_REPEATED * table.n_obs)
    column = next((key for key in named if key in apart), apart[0] if apart else None)
    if len(spots.names) > 1:
        if is_sure:
            yield Finding(
                "joined sections",
                "warning",
                f"Libraries of library_key={keys.library_key!r} hold several sections: {'; '.join(what)}. Spots of one would "
                f"be neighbors of spots of another. Pass a column that tells all sections apart, library_key=...",
            )
    elif column is not None and (is_sure or _SECTION_COLUMN.match(column)):
        message = f"adata.obs[{column!r}] has {columns[column].nunique()} values, and all spots are read as one section. If these are sections, pass"
        if is_sure:
            message = (
                f"The table holds several sections: {'; '.join(what)}; adata.obs[{column!r}] tells "
                f"{columns[column].nunique()} of them apart. Read as one, spots of one would be neighbors of spots of another. Pass"
            )
        yield Finding(
            "joined sections",
            "error" if is_sure else "warning",
            f"{message} library_key={column!r}, here and to other functions, or store it with the graph",
            f"sagefm.pp.spatial_neighbors(adata, library_key={column!r})",
            CoordinatesError,
        )
    elif not is_sure and len(libraries) > 1 and not _names_any(table, libraries):
        yield Finding(
            "joined sections",
            "warning",
            f"adata.uns['spatial'] names {len(libraries)} libraries, {listed(sorted(libraries))}, and no column of adata.obs "
            f"tells which spot is of which: all are read as one section. If they are of several, join the sections anew, with "
            f"a column, and pass library_key='section'",
            "adata = anndata.concat({'a': first, 'b': second}, label='section', index_unique='-')",
        )
    elif is_sure:
        repair = _section_from_names(table, identities)
        how = "Make one of what stands beside the barcodes" if repair else "Join the sections anew, with one"
        yield Finding(
            "joined sections",
            "error",
            f"The table holds several sections: {'; '.join(what)}, and no column of adata.obs tells them apart. Read as one, "
            f"spots of one would be neighbors of spots of another. {how}, and pass library_key='section'",
            repair or "adata = anndata.concat({'a': first, 'b': second}, label='section', index_unique='-')",
            CoordinatesError,
        )


def _names_any(table: AnnData, libraries: set[str]) -> bool:
    """Tell whether a column of ``obs`` names any of the libraries, as one that was cut to one section does."""
    return any(libraries & set(map(str, _column(table, key).unique())) for key in _column_names(table))


def _column_names(table: AnnData) -> list[Any]:
    """Return the names of columns of ``obs`` that are there once."""
    return list(table.obs.columns[~table.obs.columns.duplicated(keep=False)])


def _column(table: AnnData, key: str) -> pd.Series:
    """Return a column of ``obs``, objects as text: lists, say, cannot be compared."""
    column = get_column(table, key, argument="key")
    return column.map(str, na_action="ignore") if column.dtype == object else column


def _codes(values: pd.Series) -> NDArray[np.int64]:
    return np.asarray(pd.factorize(values)[0], dtype=np.int64)


def _identities(table: AnnData, spots: Spots) -> dict[str, pd.DataFrame]:
    """Return what is different for each spot of a section: coordinates, barcodes and array positions."""
    names = pd.Series(table.obs_names.astype(str))
    identities = {"coordinates": pd.DataFrame(spots.coordinates)}
    for pattern in _BARCODES:
        barcodes = names.str.extract(f"({pattern.pattern})", expand=False)
        if barcodes.notna().mean() > 0.9:
            identities["barcodes"] = barcodes.to_frame()
            break
    else:
        identities["names of spots"] = names.to_frame()
    if {"array_row", "array_col"} <= set(table.obs):
        array = {key: get_column(table, key, argument="key").to_numpy() for key in ("array_row", "array_col")}
        identities["array positions"] = (
            pd.DataFrame(array).apply(pd.to_numeric, errors="coerce").replace(np.inf, np.nan)
        )
    return identities


def _repeats(identities: dict[str, pd.DataFrame], libraries: NDArray[np.int64]) -> dict[str, int]:
    """Return how many coordinates, barcodes and array positions a spot before them in the same library has."""
    of_library = {kind: frame.assign(library=libraries).dropna() for kind, frame in identities.items()}
    return {kind: int(frame.duplicated().sum()) for kind, frame in of_library.items()}


def _section_columns(table: AnnData, all_names: bool) -> dict[str, pd.Series]:
    """Return columns of ``obs`` that may name sections: those of a usual name, and then others, from few values up."""
    columns = {}
    for key in _column_names(table):
        if not all_names and not _SECTION_COLUMN.match(str(key)):
            continue
        values = _column(table, key)
        is_number = pd.api.types.is_float_dtype(values) or pd.api.types.is_bool_dtype(values)
        if not is_number and 2 <= values.nunique() <= table.n_obs / N_SPOTS and values.notna().all():
            columns[str(key)] = values.astype(str).reset_index(drop=True)
    return dict(sorted(columns.items(), key=lambda item: (not _SECTION_COLUMN.match(item[0]), item[1].nunique())))


def _section_from_names(table: AnnData, identities: dict[str, pd.DataFrame]) -> str:
    """Return the call that makes a column of what names sections beside the barcodes, if names have it."""
    names = pd.Series(table.obs_names.astype(str))
    for pattern in _BARCODES:
        rest = names.str.replace(pattern.pattern, "", regex=True)
        is_column = 1 < rest.nunique() <= len(rest) / N_SPOTS
        if is_column and not any(_repeats(identities, _codes(rest)).values()):
            return f"adata.obs['section'] = adata.obs_names.str.replace({pattern.pattern!r}, '', regex=True)"
    return ""
