"""Imputation of a section: every gene predicted from a fold in which it was hidden.

Three steps: :func:`plan_imputation` takes each fold's own product off the first layer, which is linear, so that the
products of all folds together cost one; :func:`fit_readout` fits the read-out to the section
(:mod:`sagefm.inference._readout`); :func:`predict` reads the folds, block by block of spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from sagefm._constants import BLOCK_ROWS
from sagefm.data._blocks import StoredMatrix, iter_blocks, take_columns, to_memory
from sagefm.data._genes import assign_folds
from sagefm.data._input import Log1pInput
from sagefm.inference._products import average, project
from sagefm.inference._readout import FoldReadout, Readout, SectionFactors, draw_parts, draw_sample
from sagefm.module._reading import Batch, null_rates, root_center, size_factors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.data._input import SectionInput
    from sagefm.metrics._recovery import Recovery
    from sagefm.module._reading import SpotNetwork


@dataclass(frozen=True)
class ImputedBlock:
    """Rows of the table, and predictions of the requested genes that the section measured, and of those that it did not.

    Arrays are (n_spots,), (n_spots, n_measured) and (n_spots, n_unmeasured).
    """

    rows: NDArray[np.int64]
    measured: NDArray[np.float32]
    unmeasured: NDArray[np.float32]


@dataclass(frozen=True)
class Fold:
    """Genes that are predicted while they, and maybe others, are hidden.

    Attributes
    ----------
    hidden
        True for the genes that the center hides (1, n_genes).
    columns
        Genes to predict (n_columns,).
    around
        The first layer without what the center's visible genes add (n_spots, hidden); with it for the published
        network, whose center is linear in the values.
    """

    hidden: Tensor
    columns: NDArray[np.int64]
    around: Tensor


@dataclass(frozen=True)
class Plan:
    """A section with its genes in the order of their folds, so that a fold is a range of columns.

    `genes` are the vocabulary positions of the columns, `place` their positions among the requested genes that the
    section `measured`; `shown` hides and predicts nothing: from it the `unmeasured` ones are predicted.
    """

    network: SpotNetwork
    inputs: SectionInput
    counts: sparse.csr_matrix | StoredMatrix
    genes: Tensor
    gene_totals: Tensor
    folds: list[Fold]
    shown: Fold
    measured: NDArray[np.int64]
    unmeasured: NDArray[np.int64]
    place: NDArray[np.int64]
    w_center: Tensor
    bias: Tensor

    @property
    def is_pooled(self) -> bool:
        """Whether the network reads the center with the weights of its neighbors (published)."""
        return isinstance(self.inputs, Log1pInput)

    def batch(self, rows: Any, counts: sparse.csr_matrix) -> Batch:
        """Return spots as a batch: `counts` are their rows."""
        device = self.genes.device
        return Batch(
            genes=self.genes,
            counts=torch.from_numpy(counts.toarray()).to(device),
            neighborhood=torch.empty(0),
            center_weight=torch.from_numpy(self.inputs.center_weight[rows, None]).to(device),
            gene_totals=self.gene_totals,
        )

    def blocks(self, block_rows: int) -> Iterator[tuple[slice, Batch]]:
        """Yield blocks of spots, in order."""
        for rows, counts in iter_blocks(self.counts, block_rows):
            yield rows, self.batch(rows, counts)

    def center(self, fold: Fold, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return c under a fold's mask (n_spots, n_genes), and its product with the weights (n_spots, hidden)."""
        visible = root_center(batch, fold.hidden)
        return visible, linear(visible, self.w_center)


def plan_imputation(
    network: SpotNetwork,
    inputs: SectionInput,
    requested: NDArray[np.int64],
    *,
    mask: str,
    n_folds: int,
    n_hidden: int,
    rng: int,
    device: torch.device,
    block_rows: int,
) -> Plan:
    """Return the folds of a section with their first layers; the arguments are those of :func:`impute_section`."""
    section = inputs.section
    fold_of = assign_folds(section.genes, network.config.n_genes, n_folds, rng)
    order = np.argsort(fold_of, kind="stable")
    edges = np.searchsorted(fold_of[order], np.arange(n_folds + 1)).tolist()
    ranges = [slice(start, stop) for start, stop in pairwise(edges)]
    sorted_genes = section.genes[order]
    genes = torch.from_numpy(sorted_genes).to(device)
    w_center, w_neighborhood, bias = network.first_layer(genes)
    mean = torch.from_numpy(inputs.mean[order]).to(device)
    parts = project(
        take_columns(inputs.values, order), [w_neighborhood[:, columns] for columns in ranges], block_rows=block_rows
    )
    whole = parts[0].clone()
    for part in parts[1:]:
        whole += part
    around_all = _neighborhood(inputs, whole, w_neighborhood, mean) + bias
    is_pooled = isinstance(inputs, Log1pInput)
    weight = torch.from_numpy(inputs.center_weight).to(device)[:, None]

    def make_fold(columns: NDArray[np.int64], folds: list[int]) -> Fold:
        """Return a fold that predicts `columns` while `folds` are hidden."""
        hidden = torch.zeros((1, len(genes)), dtype=torch.bool, device=device)
        around, center = around_all, whole
        for i in folds:
            hidden[:, ranges[i]] = True
            center = center - parts[i]
            if mask == "neighborhood":
                around = around - _neighborhood(inputs, parts[i], w_neighborhood[:, ranges[i]], mean[ranges[i]])
        return Fold(hidden, columns, around + weight * center if is_pooled else around)

    measured, unmeasured = np.intersect1d(requested, sorted_genes), np.setdiff1d(requested, sorted_genes)
    is_requested = np.isin(sorted_genes, measured)
    folds = []
    for i, fold_columns in enumerate(ranges):
        columns = np.flatnonzero(is_requested[fold_columns]) + fold_columns.start
        if len(columns):
            folds.append(make_fold(columns, sorted({(i + j) % n_folds for j in range(n_hidden)})))
    return Plan(
        network=network,
        inputs=inputs,
        counts=take_columns(section.counts, order),
        genes=genes,
        gene_totals=torch.from_numpy(section.gene_totals[order]).to(device)[None],
        folds=folds,
        shown=make_fold(np.arange(0), []),
        measured=measured,
        unmeasured=unmeasured,
        place=np.searchsorted(measured, sorted_genes),
        w_center=w_center,
        bias=bias,
    )


def fit_readout(plan: Plan, spot_names: pd.Index, rng: int, block_rows: int) -> Readout:
    """Return the read-out of each fold, fitted to the section's spots by name; see :mod:`sagefm.inference._readout`."""
    part, sample_rows = draw_parts(spot_names, rng), draw_sample(spot_names, rng)
    # Rows are read in order.
    sorted_rows = np.sort(sample_rows)
    counts = plan.counts
    counts = counts.with_rows(sorted_rows) if isinstance(counts, StoredMatrix) else counts[sorted_rows]
    sample = plan.batch(sample_rows, to_memory(counts)[np.searchsorted(sorted_rows, sample_rows)])
    readout = Readout(
        SectionFactors(part, sample_rows, sample.counts, rng),
        [
            FoldReadout.of(plan.network, root_center(sample, fold.hidden), part, len(fold.columns))
            for fold in plan.folds
        ],
    )
    for rows, batch in plan.blocks(block_rows):
        for fold, fitted in zip(plan.folds, readout.folds, strict=True):
            visible, product = plan.center(fold, batch)
            columns = torch.from_numpy(fold.columns).to(plan.genes.device)
            fitted.add(
                rows,
                fitted.features(visible, product + plan.bias),
                batch.counts[:, columns],
                size_factors(batch.counts, plan.gene_totals, fold.hidden),
                plan.genes[columns],
            )
    return readout


def predict(plan: Plan, readout: Readout | None, recovery: Recovery, block_rows: int) -> Iterator[ImputedBlock]:
    """Yield predictions, block by block of spots, and add them to `recovery`."""
    network = plan.network
    for rows, batch in plan.blocks(block_rows):
        block = ImputedBlock(
            plan.inputs.section.rows[rows],
            np.empty((len(batch.counts), len(plan.measured)), np.float32),
            np.empty((len(batch.counts), len(plan.unmeasured)), np.float32),
        )
        for i, fold in enumerate(plan.folds):
            h = fold.around[rows]
            if not plan.is_pooled:
                visible, product = plan.center(fold, batch)
                h = h + product
            columns = torch.from_numpy(fold.columns).to(plan.genes.device)
            output = network.decode(network.encode(h), plan.genes[columns])
            rates = null_rates(batch.counts, plan.gene_totals, fold.hidden)
            if readout is not None:
                output += readout.folds[i].log_ratio(rows, readout.folds[i].features(visible, product + plan.bias))
                if not fold.hidden.all():
                    depth = rates.sum(dim=1, keepdim=True)
                    output += readout.factors.log_ratio(rows, batch.counts, depth, fold.hidden, columns)
                    output /= 2
            rates = rates[:, columns]
            block.measured[:, plan.place[fold.columns]] = network.prediction(output, rates).cpu().numpy()
            recovery.update(
                batch.counts[:, columns].cpu().numpy(),
                network.expected_counts(output, rates).cpu().numpy(),
                null=rates.cpu().numpy(),
                genes=plan.place[fold.columns],
            )
        if len(plan.unmeasured):
            h = plan.shown.around[rows]
            if not plan.is_pooled:
                h = h + plan.center(plan.shown, batch)[1]
            genes = torch.from_numpy(plan.unmeasured).to(plan.genes.device)
            rates = _unmeasured_rates(network, batch, plan.shown.hidden, genes)
            block.unmeasured[:] = network.prediction(network.decode(network.encode(h), genes), rates).cpu()
        recovery.add_spots(len(batch.counts))
        yield block


@torch.inference_mode()
def impute_section(
    network: SpotNetwork,
    inputs: SectionInput,
    requested: NDArray[np.int64],
    *,
    mask: str,
    n_folds: int,
    rng: int,
    device: torch.device,
    recovery: Recovery,
    n_hidden: int = 1,
    spot_names: pd.Index | None = None,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[ImputedBlock]:
    """Predict genes of a section, each from a fold of the genes in which it was hidden, block by block of spots.

    Parameters
    ----------
    network
        The network.
    inputs
        What it reads of the section.
    requested
        Positions in the vocabulary of the genes to predict (n_requested,), increasing.
    mask, n_folds, rng
        As in :func:`sagefm.tl.impute`.
    device
        Device to compute on.
    recovery
        Receives measured counts and predictions; its genes are the requested measured ones, in order.
    n_hidden
        Folds that are hidden at a time: the one that is predicted, and those after it.
    spot_names
        Names of the spots (n_spots,), by which they are split to fit the read-out to the section
        (center_neighborhood); without them only the network is used.
    block_rows
        Spots predicted at a time.
    """
    plan = plan_imputation(
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
    readout = None if spot_names is None or plan.is_pooled else fit_readout(plan, spot_names, rng, block_rows)
    yield from predict(plan, readout, recovery, block_rows)


def _neighborhood(inputs: SectionInput, product: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """Return ``weight v`` of some genes for every spot (n_spots, hidden), from their product ``U weight^T``."""
    shifted = torch.from_numpy(inputs.shift).to(mean.device)[:, None] * (weight @ mean)
    return average(inputs.operator, product) - shifted


def _unmeasured_rates(network: SpotNetwork, batch: Batch, hidden: Tensor, genes: Tensor) -> Tensor:
    """Return null rates of genes that the section did not measure, from the profile of the training sections."""
    prior: Tensor | None = getattr(network, "prior", None)
    if prior is None:
        return torch.empty(0)
    depth = null_rates(batch.counts, batch.gene_totals, hidden).sum(dim=1, keepdim=True)
    return depth * prior[genes] / prior[batch.genes].sum()
