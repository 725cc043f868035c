"""Imputation of a table, section by section; what ``sagefm.tl`` writes and ``SAGEFM`` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm.auto import tqdm

from sagefm._arguments import as_seed, listed, whole_number
from sagefm.data._genes import to_symbols
from sagefm.data._table import untouched_on_error
from sagefm.errors import ArgumentError
from sagefm.inference._impute import Plan, fit_readout, predict
from sagefm.inference._output import dense_layer
from sagefm.inference._products import block_rows_of
from sagefm.metrics._recovery import Recovery

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._reader import TableReader


class Imputation(NamedTuple):
    """Imputed values, and how well the measured genes are recovered.

    Attributes
    ----------
    layer
        Values of genes of the table (n_spots, n_vars): dense (an array, or a Dask array of the zarr array it was
        written to) with NaN for genes outside the vocabulary, or CSR with the requested columns alone.
    outside
        Values of requested genes that the table does not hold (n_spots, n_outside).
    recovery
        ``r``, ``qval``, ``d2`` of each gene of the table, NaN where not imputed; and whether it was ``imputed``.
    """

    layer: Any
    outside: pd.DataFrame
    recovery: pd.DataFrame


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
    """Impute genes of a table; see :func:`sagefm.tl.impute`.

    `n_hidden` folds are hidden at a time: the one that is predicted, and those after it. Unless told not to `adapt`,
    the read-out is fitted to each section (center_neighborhood).
    """
    if out is not None and genes is not None:
        raise ArgumentError("out= is for all genes; the columns of genes= are kept in memory.")
    if mask not in ("center", "neighborhood"):
        raise ArgumentError(f"mask={mask!r}; expected 'center' or 'neighborhood'.")
    n_folds, rng = whole_number(n_folds, name="n_folds", minimum=2), as_seed(rng)
    table, match = reader.table, reader.match
    requested = match.genes
    if genes is not None:
        requested = np.unique(checkpoint.vocabulary.positions(listed(genes, argument="genes"), argument="genes"))
    columns = match.columns[np.isin(match.genes, requested)]
    outside_genes = np.setdiff1d(requested, match.genes)
    block_rows = block_rows_of(batch_size)
    network = checkpoint.network.to(device)

    # All genes make a layer; some, the columns that are asked for.
    shape = table.shape if genes is None else (table.n_obs, len(columns))
    places = columns if genes is None else np.arange(len(columns))
    outside = np.empty((table.n_obs, len(outside_genes)), np.float32)
    recovery = Recovery(len(columns))
    bar = tqdm(total=table.n_obs, desc="impute", unit="spot", disable=None if progress else True, leave=False)
    layer = dense_layer(shape, out, n_written=len(columns))
    with bar, untouched_on_error(table), layer as target, torch.inference_mode():
        for inputs in reader.inputs(checkpoint.config):
            plan = Plan(
                network,
                inputs,
                requested,
                mask=mask,
                n_folds=n_folds,
                n_hidden=n_hidden,
                rng=rng,
                device=device,
                block_rows=block_rows,
            )
            readout = None
            if adapt and not plan.is_pooled:
                readout = fit_readout(plan, table.obs_names[inputs.section.rows], rng, block_rows)
            for rows, measured, unmeasured in predict(plan, readout, recovery, block_rows):
                target.write(rows, places, measured)
                outside[rows] = unmeasured
                bar.update(len(rows))
    values = target.result()
    report = recovery.result()[["r", "qval", "d2"]].set_axis(columns).reindex(range(table.n_vars))
    return Imputation(
        values if genes is None else _as_columns(values, columns, table.n_vars),
        pd.DataFrame(
            outside, index=table.obs_names, columns=[checkpoint.vocabulary.symbols[gene] for gene in outside_genes]
        ),
        report.assign(imputed=report.index.isin(columns)).set_axis(table.var_names),
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
    parts = values[:, order].ravel(), np.tile(columns[order], n_spots), np.arange(n_spots + 1) * n_columns
    return sparse.csr_matrix(parts, shape=(n_spots, n_vars))
