"""Imputation of a table, section by section; what ``sagefm.tl`` writes and ``SAGEFM`` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from sagefm._arguments import as_seed, listed, number, one_of, whole_number
from sagefm._constants import MAX_FOLDS
from sagefm._progress import ProgressBar
from sagefm.data._genes import to_symbols
from sagefm.data._input import make_input
from sagefm.data._table import untouched_on_error
from sagefm.errors import ArgumentError
from sagefm.inference._impute import Alone, SectionSpots, Stack, mean_weights, predict
from sagefm.inference._intervals import SectionIntervals, check_level
from sagefm.inference._layout import Layout
from sagefm.inference._network_reader import NetworkReader
from sagefm.inference._output import dense_layer
from sagefm.inference._products import block_rows_of
from sagefm.inference._unmeasured import Unmeasured
from sagefm.metrics._recovery import Recovery
from sagefm.metrics._trust import trust

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._genes import Vocabulary
    from sagefm.data._reader import TableReader

SCALES: Final = ("counts", "log1p")
#: What is kept of the recovery of each gene; see :meth:`sagefm.metrics.Recovery.result`.
RECOVERED: Final = ("r", "qval", "d2", "ceiling", "of_ceiling", "of_repeat")


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
        Of each gene of the table: the columns `RECOVERED` and ``trust``, missing where not imputed; and whether it was
        ``imputed``.
    weights
        ``weight`` of each ``predictor`` in each ``bin`` of expression and ``library``; None for a network alone.
    levels
        ``mean`` expected counts of requested genes that the table does not hold, and ``lower`` and ``upper``, by
        ``library`` and ``gene``; None for the published network.
    lower, upper
        Ends of the predictive intervals, CSR (n_spots, n_vars), if they were asked for.
    """

    layer: Any
    outside: pd.DataFrame
    recovery: pd.DataFrame
    weights: pd.DataFrame | None = None
    levels: pd.DataFrame | None = None
    lower: sparse.csr_matrix | None = None
    upper: sparse.csr_matrix | None = None


def impute_table(
    reader: TableReader,
    checkpoint: Checkpoint | None,
    *,
    vocabulary: Vocabulary | None = None,
    genes: Sequence[str] | None = None,
    mask: str = "center",
    n_folds: int = 4,
    rng: int | np.random.Generator = 0,
    n_hidden: int = 1,
    adapt: bool = True,
    scale: str | None = None,
    target_sum: float | None = None,
    interval: float | None = None,
    out: str | os.PathLike[str] | None = None,
    device: torch.device,
    batch_size: int | None = None,
    progress: bool = False,
) -> Imputation:
    """Impute genes of a table; see :func:`sagefm.tl.impute`.

    Without a checkpoint, `vocabulary` is the one that the table was read with.
    `n_hidden` folds are hidden at a time: the one that is predicted, and those after it. Unless told to `adapt`, and
    for the published network, which no other predictor is stacked with, the network is used as it was trained.
    """
    if out is not None and genes is not None:
        raise ArgumentError("out= is for all genes; the columns of genes= are kept in memory.")
    one_of(mask, ("center", "neighborhood"), name="mask")
    n_folds, rng = whole_number(n_folds, name="n_folds", minimum=2, maximum=MAX_FOLDS), as_seed(rng)
    if checkpoint is not None:
        vocabulary = checkpoint.vocabulary
    if vocabulary is None:
        raise ArgumentError("Without a checkpoint, pass the vocabulary that the table was read with.")
    scale, interval = imputed_scale(checkpoint, scale, target_sum), check_level(interval, is_chosen=genes is not None)
    table, match = reader.table, reader.match
    requested = match.genes
    if genes is not None:
        requested = np.unique(vocabulary.positions(listed(genes, argument="genes"), argument="genes"))
    columns = match.columns[np.isin(match.genes, requested)]
    outside_genes = np.setdiff1d(requested, match.genes)
    block_rows = block_rows_of(batch_size)
    network = None if checkpoint is None else checkpoint.network.to(device)
    symbols = [vocabulary.symbols[gene] for gene in outside_genes]

    # All genes make a layer; some, the columns that are asked for.
    shape = table.shape if genes is None else (table.n_obs, len(columns))
    targets = columns if genes is None else np.arange(len(columns))
    measured = np.intersect1d(requested, match.genes)
    outside = np.empty((table.n_obs, len(outside_genes)), np.float32)
    recovery, weights, levels = Recovery(len(columns)), [], []
    bounds = np.empty((2, table.n_obs, len(columns)), np.float32) if interval is not None else None
    bar = ProgressBar("impute", table.n_obs, "spot", progress=progress)
    layer = dense_layer(shape, out, n_written=len(columns))
    with bar, untouched_on_error(table), layer as target, torch.inference_mode():
        for section in reader.sections(table_order=True):
            layout = Layout(section, len(vocabulary), n_folds, rng)
            recovery.begin_section(section.coordinates)
            intervals = None if interval is None else SectionIntervals(layout, interval, len(columns))
            network_reader = None
            if checkpoint is not None and network is not None:
                inputs = make_input(section, checkpoint.config.input, scale=checkpoint.config.scale)
                network_reader = NetworkReader(network, inputs, layout, device, block_rows)
            spots = SectionSpots(layout, table.obs_names[section.rows], mask, rng)
            masks = spots.masks(requested, n_hidden)
            models: list[Any]
            if network_reader is not None and (network_reader.is_pooled or not adapt):
                models = [Alone(m, network_reader, everywhere=not spots.reads_neighbors) for m in masks]
            else:
                models = [Stack(spots, m, network_reader) for m in masks]
                weights += [mean_weights(models).assign(library=section.name)] if models else []
            unmeasured = None
            if network_reader is not None and len(outside_genes):
                unmeasured = Unmeasured(network_reader, outside_genes)
                levels.append(unmeasured.levels().assign(library=section.name, gene=symbols))
            places = np.searchsorted(measured, layout.genes)
            for block, predicted in predict(layout, models, spots.parts.part, block_rows):
                rows = section.rows[block]
                values = np.empty((len(rows), len(columns)), np.float32)
                for p in predicted:
                    recovery.update(p.counts, p.expected, null=p.null, genes=places[p.columns], spots=p.rows)
                    if intervals is not None:
                        intervals.add(p, places[p.columns])
                    own = np.ix_(p.rows - block.start, places[p.columns])
                    values[own] = scaled(p.expected, p.depths, scale, target_sum)
                recovery.add_spots(len(rows))
                target.write(rows, targets, values)
                if unmeasured is not None:
                    outside[rows] = scaled(*unmeasured.expected(block), scale, target_sum)
                bar.update(len(rows))
            if intervals is not None and bounds is not None:
                lower, upper, depths = intervals.result()
                for end, values in zip(bounds, (lower, upper), strict=True):
                    end[section.rows] = scaled(values, depths, scale, target_sum)
    result = target.result()
    recovered = recovery.result()
    report = recovered[[*RECOVERED]].assign(trust=trust(recovered, table.n_obs))
    report = report.set_axis(columns).reindex(range(table.n_vars))
    return Imputation(
        result if genes is None else _as_columns(result, columns, table.n_vars),
        pd.DataFrame(outside, index=table.obs_names, columns=symbols),
        report.assign(imputed=report.index.isin(columns)).set_axis(table.var_names),
        _tidy(weights, ["library", "bin", "predictor", "weight"]),
        _tidy(levels, ["library", "gene", "mean", "lower", "upper"]),
        *(() if bounds is None else (_as_columns(end, columns, table.n_vars) for end in bounds)),
    )


def imputed_scale(checkpoint: Checkpoint | None, scale: str | None, target_sum: float | None) -> str:
    """Return the scale of imputed values: that of the network, if none is given."""
    if target_sum is not None:
        number(target_sum, name="target_sum", is_valid=lambda x: x > 0, expected="a number above 0, e.g. 1e4")
    if scale is not None:
        one_of(scale, SCALES, name="scale")
    return scale or ("counts" if checkpoint is None else checkpoint.network.scale)


def scaled(
    expected: NDArray[np.float32], depths: NDArray[np.float32], scale: str, target_sum: float | None
) -> NDArray[np.float32]:
    """Return expected counts at the spots' own depths, or in `target_sum` counts, as they are or as log1p."""
    values = expected if target_sum is None else expected * (np.float32(target_sum) / depths)
    return np.log1p(values) if scale == "log1p" else values


def impute_frame(
    reader: TableReader,
    checkpoint: Checkpoint,
    *,
    genes: Sequence[str] | None = None,
    **arguments: Any,
) -> pd.DataFrame:
    """Return the values of :func:`impute_table` as one table (n_spots, n_genes), its columns in the order of `genes`."""
    report = reader.match.report
    names = list(report["gene"][report["matched"]]) if genes is None else listed(genes, argument="genes")
    result = impute_table(reader, checkpoint, genes=names, **arguments)
    imputed = result.recovery["imputed"].to_numpy()
    values = sparse.csr_matrix(result.layer)[:, np.flatnonzero(imputed)].toarray()
    measured = pd.DataFrame(values, index=reader.table.obs_names, columns=report["gene"].to_numpy()[imputed])
    return pd.concat([measured, result.outside], axis=1)[to_symbols(pd.Index(names))].set_axis(names, axis=1)


def _tidy(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame | None:
    """Return the tables of the libraries as one, if there are any."""
    return pd.concat(tables, ignore_index=True)[columns] if tables else None


def _as_columns(values: NDArray[np.float32], columns: NDArray[np.int64], n_vars: int) -> sparse.csr_matrix:
    """Return a CSR matrix (n_spots, n_vars) that holds `values` in `columns`."""
    order = np.argsort(columns)
    n_spots, n_columns = values.shape
    parts = values[:, order].ravel(), np.tile(columns[order], n_spots), np.arange(n_spots + 1) * n_columns
    return sparse.csr_matrix(parts, shape=(n_spots, n_vars))
