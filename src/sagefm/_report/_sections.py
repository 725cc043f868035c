"""Sections of a report: each as a table of its own, to which results are written while the user's object stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sagefm._constants import UNS_KEY
from sagefm.data._blocks import check_parts, to_memory
from sagefm.data._counts import get_counts
from sagefm.data._genes import get_gene_names
from sagefm.data._report import make_report
from sagefm.data._symbols import to_symbols
from sagefm.data._table import TableKeys, find_coordinates, find_spots, get_libraries, get_table, library_column
from sagefm.errors import ArgumentError, SagefmError
from sagefm.pl._image import find_image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.data._genes import Vocabulary
    from sagefm.data._report import Report
    from sagefm.pl._image import Image

#: Names of mitochondrial genes begin so, whatever the species.
_MITOCHONDRIAL = "MT-"


@dataclass(frozen=True)
class Section:
    """A section as it was read.

    Attributes
    ----------
    name
        What the page calls it.
    table
        A table that shares counts with the user's, and takes results.
    keys
        Where the table holds what is read of it.
    checked
        What :func:`sagefm.pp.check` found.
    symbols
        Symbol of each gene (n_genes,).
    counts
        Raw counts (n_spots, n_genes), or None if there are none.
    image
        Image of the tissue, if there is one.
    """

    name: str
    table: AnnData
    keys: TableKeys
    checked: Report
    symbols: NDArray[np.object_]
    counts: sparse.csr_matrix | None
    image: Image | None

    @cached_property
    def totals(self) -> NDArray[np.float64]:
        """Counts of each spot (n_spots,)."""
        return _row_sums(self._counts)

    @cached_property
    def n_genes(self) -> NDArray[np.float64]:
        """Genes seen in each spot (n_spots,)."""
        return _row_sums(self._counts > 0)

    @cached_property
    def mitochondrial(self) -> NDArray[np.float64] | None:
        """Share of mitochondrial counts in each spot (n_spots,), or None if no such gene is in the table."""
        genes = np.array([str(symbol).upper().startswith(_MITOCHONDRIAL) for symbol in self.symbols])
        if not genes.any():
            return None
        share: NDArray[np.float64] = _row_sums(self._counts[:, genes]) / np.maximum(self.totals, 1)
        return share

    @cached_property
    def detected(self) -> NDArray[np.float64]:
        """Share of the spots in which each gene is seen (n_genes,)."""
        return np.asarray((self._counts > 0).mean(axis=0)).ravel()

    @property
    def _counts(self) -> sparse.csr_matrix:
        if self.counts is None:
            raise ArgumentError(f"{self.name} has no raw counts.")
        return self.counts

    @property
    def coordinates(self) -> NDArray[np.float64]:
        """Coordinates of the spots (n_spots, 2)."""
        return find_coordinates(self.table, self.table, self.keys.spatial_key)


def read_sections(
    adata: Any, vocabulary: Vocabulary, keys: TableKeys, *, table_key: str | None, mod: str | None
) -> list[Section]:
    """Return the sections of an object, of several by name, or of one whose libraries are several."""
    if isinstance(adata, Mapping) and not hasattr(adata, "obs"):
        if not adata:
            raise ArgumentError("Found no section; expected at least one.")
        return [
            section
            for name, data in adata.items()
            for section in _split(data, str(name), vocabulary, keys, table_key=table_key, mod=mod)
        ]
    return _split(adata, "", vocabulary, keys, table_key=table_key, mod=mod)


def _split(
    data: Any, name: str, vocabulary: Vocabulary, keys: TableKeys, *, table_key: str | None, mod: str | None
) -> list[Section]:
    """Return a section for each library of a table."""
    table = get_table(data, table_key=table_key, mod=mod)
    check_parts(table.X)
    library_key = library_column(table, keys.library_key)
    if library_key is None:
        checked = make_report(data, vocabulary, keys, table_key=table_key, mod=mod)
        own = _copy_of(data, table, keys, slice(None))
        return [_section(name or "Section", data, table, own, np.arange(table.n_obs), keys, checked, None)]
    codes, names = get_libraries(table, library_key)
    alone = replace(keys, library_key=None)
    sections = []
    for code, library in enumerate(names):
        rows = np.flatnonzero(codes == code)
        own = _copy_of(data, table, keys, rows)
        title = library if not name or len(names) == 1 else f"{name}: {library}"
        sections.append(_section(title, data, table, own, rows, alone, make_report(own, vocabulary, alone), library))
    return sections


def _copy_of(data: Any, table: AnnData, keys: TableKeys, rows: Any) -> AnnData:
    """Return a table with the same counts, unless rows are left out, and its own lists of results."""
    part = table[rows] if not isinstance(rows, slice) else table
    if part.isbacked or not isinstance(part.obs, pd.DataFrame):
        part = part.to_memory()
    layers = {} if keys.layer is None or keys.layer not in part.layers else {keys.layer: part.layers[keys.layer]}
    written = [key for key in part.layers if key is not None and key in part.var]
    own = AnnData(
        X=part.X,
        obs=part.obs.copy(),
        var=part.var.copy(),
        obsm=dict(part.obsm),
        obsp=dict(part.obsp),
        layers=layers | {key: part.layers[key] for key in written},
        uns={key: dict(value) if key == UNS_KEY and isinstance(value, Mapping) else value for key, value in part.uns.items()},
    )  # fmt: skip
    # What is wrong with coordinates stands among the findings.
    with suppress(SagefmError):
        own.obsm[keys.spatial_key] = find_coordinates(data, table, keys.spatial_key)[rows]
    return own


def _section(
    name: str,
    data: Any,
    original: AnnData,
    table: AnnData,
    rows: NDArray[np.int64],
    keys: TableKeys,
    checked: Report,
    library: str | None,
) -> Section:
    try:
        counts = to_memory(get_counts(table, keys.layer))
    except SagefmError:
        counts = None
    try:
        symbols = to_symbols(get_gene_names(table, keys.gene_key))
    except SagefmError:
        symbols = table.var_names.to_numpy(dtype=object)
    try:
        image = find_image(data, original, rows, keys.spatial_key, library)
    except SagefmError:
        image = None
    return Section(name, table, keys, checked, symbols, counts, image)


def join(sections: list[Section]) -> Section:
    """Return all sections as one, of the genes that they share, by symbol; a single section as it is."""
    if len(sections) == 1:
        return sections[0]
    import anndata

    tables = []
    for section in sections:
        if section.counts is None:
            raise ArgumentError(f"{section.name} has no raw counts; expected them in all sections that are compared.")
        names = pd.Index(section.symbols.astype(str))
        first = ~names.duplicated()
        spots = find_spots(section.table, section.table, section.keys)
        table = AnnData(
            section.counts[:, first],
            obs=pd.DataFrame(index=section.table.obs_names.astype(str)),
            var=pd.DataFrame(index=names[first]),
            obsm={"spatial": spots.coordinates},
        )
        tables.append(table)
    joined = anndata.concat(tables, label="section", keys=[s.name for s in sections], index_unique=":", join="inner")
    if joined.n_vars == 0:
        raise ArgumentError("The sections share no gene, by symbol: they cannot be compared.")
    # In the order in which they were given.
    joined.obs["section"] = pd.Categorical(joined.obs["section"], [section.name for section in sections])
    keys = TableKeys(library_key="section")
    return Section(
        "all sections",
        joined,
        keys,
        sections[0].checked,
        joined.var_names.to_numpy(dtype=object),
        joined.X.tocsr(),
        None,
    )


def _row_sums(matrix: Any) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
