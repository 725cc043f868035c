"""Imputation of a table, section by section; what ``sagefm.tl`` writes and ``SAGEFM`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm.auto import tqdm

from sagefm._arguments import as_seed, listed, whole_number
from sagefm.data._genes import to_symbols
from sagefm.errors import ArgumentError
from sagefm.inference._impute import impute_section
from sagefm.inference._output import dense_layer
from sagefm.inference._products import block_rows_of
from sagefm.metrics._recovery import Recovery

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._reader import TableReader


@dataclass(frozen=True)
class Imputation:
    """Imputed values.

    Attributes
    ----------
    layer
        Values of genes of the table (n_spots, n_vars): dense (an array, or a Dask array of the zarr array it was
        written to) with NaN for genes outside the vocabulary, or CSR with the requested columns alone.
    outside
        Values of requested genes that the table does not hold (n_spots, n_outside).
    recovery
        Recovery of each gene of the table: ``imputed``, ``r``, ``qval``, ``d2``; NaN where not imputed.
    scale
        ``"counts"`` or ``"log1p"``.
    """

    layer: Any
    outside: pd.DataFrame
    recovery: pd.DataFrame
    scale: str


def check_impute(
    reader: TableReader, checkpoint: Checkpoint, genes: Sequence[str] | None, mask: str, n_folds: int
) -> NDArray[np.int64]:
    """Return the vocabulary positions to impute, increasing; raise for arguments that cannot be used."""
    if mask not in ("center", "neighborhood"):
        raise ArgumentError(f"mask={mask!r}; expected 'center' or 'neighborhood'.")
    whole_number(n_folds, name="n_folds", minimum=2)
    if genes is None:
        return reader.match.genes
    return np.unique(checkpoint.vocabulary.positions(listed(genes, argument="genes"), argument="genes"))


def impute_table(
    reader: TableReader,
    checkpoint: Checkpoint,
    *,
    genes: Sequence[str] | None = None,
    mask: str = "center",
    n_folds: int = 4,
    rng: int | np.random.Generator = 0,
    n_hidden: int = 1,
    adapt: bool = True,
    out: str | os.PathLike[str] | None = None,
    device: torch.device,
    batch_size: int | None = None,
    progress: bool = False,
) -> Imputation:
    """Impute genes of a table; see :func:`sagefm.tl.impute`, and `n_hidden` in :func:`impute_section`."""
    if out is not None and genes is not None:
        raise ArgumentError("out= is for all genes; the columns of genes= are kept in memory.")
    rng = as_seed(rng)
    requested = check_impute(reader, checkpoint, genes, mask, n_folds)
    block_rows = block_rows_of(batch_size)
    table, match = reader.table, reader.match
    network = checkpoint.network.to(device)
    at = np.searchsorted(match.genes, requested)
    at[at == len(match.genes)] = 0
    is_measured = match.genes[at] == requested
    columns = match.columns[at[is_measured]]
    outside_genes = requested[~is_measured]

    # All genes make a layer; some, the columns that are asked for.
    shape = table.shape if genes is None else (table.n_obs, len(columns))
    places = columns if genes is None else np.arange(len(columns))
    outside = np.empty((table.n_obs, len(outside_genes)), np.float32)
    recovery = Recovery(len(columns))
    bar = tqdm(total=table.n_obs, desc="impute", unit="spot", disable=None if progress else True, leave=False)
    with bar, reader.untouched_on_error(), dense_layer(shape, out) as target:
        for section in reader.inputs(checkpoint.config):
            blocks = impute_section(
                network,
                section,
                requested,
                mask=mask,
                n_folds=n_folds,
                rng=rng,
                device=device,
                recovery=recovery,
                n_hidden=n_hidden,
                spot_names=table.obs_names[section.section.rows] if adapt else None,
                block_rows=block_rows,
            )
            for block in blocks:
                target.write(block.rows, places, block.measured)
                outside[block.rows] = block.unmeasured
                bar.update(len(block.rows))
        values = target.result()
    measured_recovery = recovery.result()
    report = pd.DataFrame({"imputed": False, "r": np.nan, "qval": np.nan, "d2": np.nan}, index=table.var_names)
    report.iloc[columns, 0] = True
    for i, name in enumerate(("r", "qval", "d2"), start=1):
        report.iloc[columns, i] = measured_recovery[name].to_numpy()
    names = [checkpoint.vocabulary.symbols[gene] for gene in outside_genes]
    return Imputation(
        values if genes is None else _as_columns(values, columns, table.n_vars),
        pd.DataFrame(outside, index=table.obs_names, columns=names),
        report,
        network.scale,
    )


def impute_frame(
    reader: TableReader, checkpoint: Checkpoint, *, genes: Sequence[str] | None = None, **arguments: Any
) -> pd.DataFrame:
    """Return the values of :func:`impute_table` as one table (n_spots, n_genes), its columns in the order of `genes`."""
    report = reader.match.report
    names = list(report["gene"][report["matched"]]) if genes is None else listed(genes, argument="genes")
    result = impute_table(reader, checkpoint, genes=names, **arguments)
    imputed = result.recovery["imputed"].to_numpy()
    values = sparse.csr_matrix(result.layer)[:, np.flatnonzero(imputed)].toarray()
    measured = pd.DataFrame(values, index=reader.table.obs_names, columns=report["gene"].to_numpy()[imputed])
    return pd.concat([measured, result.outside], axis=1)[to_symbols(pd.Index(names))].set_axis(names, axis=1)


def _as_columns(values: NDArray[np.float32], columns: NDArray[np.int64], n_vars: int) -> sparse.csr_matrix:
    """Return a CSR matrix (n_spots, n_vars) that holds `values` in `columns`."""
    order = np.argsort(columns)
    n_spots, n_columns = values.shape
    indices = np.tile(columns[order], n_spots)
    indptr = np.arange(0, n_spots * n_columns + 1, n_columns) if n_columns else np.zeros(n_spots + 1, dtype=np.int64)
    return sparse.csr_matrix((values[:, order].ravel(), indices, indptr), shape=(n_spots, n_vars))
