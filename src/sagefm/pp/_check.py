"""``sagefm.pp.check``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sagefm._constants import SPATIAL_KEY
from sagefm._progress import ProgressBar
from sagefm.data._report import Report, make_report
from sagefm.data._table import TableKeys

if TYPE_CHECKING:
    import os

    from sagefm.model import SAGEFM, Checkpoint


def check(
    adata: Any,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint = "default",
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    verbose: bool = True,
    progress: bool = True,
) -> Report:
    """Report what will be read of a table, what is suspicious about it, and how to repair it.

    Other functions make the same checks, and raise or warn. Nothing is written. Counts that stay in a file are read
    once, a block at a time; whether zeros are genes that were not measured is then not checked.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData.
    model
        As in :func:`sagefm.tl.embed`: its genes are looked for.
    layer
        Layer with raw counts. Default: ``X``.
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids. Default: ``var_names``.
    spatial_key
        Key of the coordinates in ``obsm`` (n_spots, 2).
    library_key
        Column of ``obs`` that names the section of each spot. Default: as in :func:`sagefm.pp.spatial_neighbors`.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.
    verbose
        Print the report.
    progress
        As in :func:`sagefm.tl.embed`.

    Returns
    -------
    A report. ``report.read`` says in words what will be read: counts, sections, coordinates, technology, genes.
    ``report.findings`` are what is odd, each with its ``severity``, a word for it (``what``), a ``message`` and, where
    there is one, the call that repairs it (``repair``); ``report.to_frame()`` gives them as a DataFrame. An "error" is
    what other functions refuse, a "warning" what they warn of, a "note" what they read as it should be, e.g. renamed
    genes. ``report.ok`` is True without errors.

    Raises
    ------
    sagefm.errors.SagefmError
        There is no such table or model. All else that is wrong is in the report.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.dlpfc()
    >>> report = sagefm.pp.check(adata)
    table         3,529 spots x 5,000 genes
    counts        adata.X, raw counts: median 948 a spot (5 to 95 %: 328 to 2,149)
    sections      one, as no library_key is given
    coordinates   adata.obsm['spatial']: nearest spot at 277 (median), hexagonal array
    technology    Visium, by the hexagonal array
    genes         4,291 of the 12,121 of the model's vocabulary (35%): 4,291 by symbol
    nothing odd

    The call that repairs something can be copied from the report:

    >>> adata.obsm["spatial"] = adata.obs[["array_row", "array_col"]].to_numpy()
    >>> report = sagefm.pp.check(adata, verbose=False)
    >>> report.to_frame().loc[0, "repair"]
    "adata.obsm['spatial'] = adata.obs[['array_col', 'array_row']].to_numpy(dtype=float) * [1.0, 3**0.5]"
    """
    from sagefm.checkpoint._resolve import resolve_model  # imports torch

    keys = TableKeys(layer=layer, gene_key=gene_key, spatial_key=spatial_key, library_key=library_key)
    with ProgressBar("checking counts, genes and coordinates", progress=progress):
        report = make_report(adata, resolve_model(model).vocabulary, keys, table_key=table_key, mod=mod)
    if verbose:
        sys.stdout.write(f"{report}\n")
    return report
