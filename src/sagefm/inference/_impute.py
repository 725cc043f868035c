"""Imputation of a section: every gene predicted from a fold in which it was hidden.

Three steps: :class:`Plan` takes each fold's own product off the first layer, which is linear, so that the products of
all folds together cost one; :func:`fit_readout` fits the read-out to the section (:mod:`sagefm.inference._readout`);
:func:`predict` reads the folds, block by block of spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from sagefm.data._blocks import iter_blocks, take_columns, take_rows, to_memory
from sagefm.data._genes import assign_folds
from sagefm.data._input import Log1pInput
from sagefm.inference._products import neighborhood, project
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


class Plan:
    """A section with its genes in the order of their folds, so that a fold is a range of columns.

    `genes` are the vocabulary positions of the columns, `place` their positions among the requested genes that the
    section `measured`; `shown` hides and predicts nothing: from it the `unmeasured` ones are predicted. `is_pooled`
    tells that the network reads the center with the weights of its neighbors (published).
    """

    def __init__(
        self,
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
    ) -> None:
        section = inputs.section
        fold_of = assign_folds(section.genes, network.config.n_genes, n_folds, rng)
        order = np.argsort(fold_of, kind="stable")
        edges = np.searchsorted(fold_of[order], np.arange(n_folds + 1)).tolist()
        ranges = [slice(start, stop) for start, stop in pairwise(edges)]
        genes = section.genes[order]

        self.network, self.inputs = network, inputs
        self.is_pooled = isinstance(inputs, Log1pInput)
        self.counts = take_columns(section.counts, order)
        self.genes = torch.from_numpy(genes).to(device)
        self.gene_totals = torch.from_numpy(section.gene_totals[order]).to(device)[None]
        self.measured, self.unmeasured = np.intersect1d(requested, genes), np.setdiff1d(requested, genes)
        self.place = np.searchsorted(self.measured, genes)

        self.w_center, w_neighborhood, self.bias = network.first_layer(self.genes)
        weights = [w_neighborhood[:, columns] for columns in ranges]
        mean = torch.from_numpy(inputs.mean[order]).to(device)
        products = project(take_columns(inputs.values, order), weights, block_rows=block_rows)
        product = sum(products[1:], start=products[0])
        around_all = neighborhood(inputs, product, w_neighborhood @ mean) + self.bias
        center_weight = torch.from_numpy(inputs.center_weight).to(device)[:, None]

        def make_fold(columns: NDArray[np.int64], folds: list[int]) -> Fold:
            """Return a fold that predicts `columns` while `folds` are hidden."""
            hidden = torch.zeros((1, len(genes)), dtype=torch.bool, device=device)
            around, center = around_all, product
            for i in folds:
                hidden[:, ranges[i]] = True
                center = center - products[i]
                if mask == "neighborhood":
                    around = around - neighborhood(inputs, products[i], weights[i] @ mean[ranges[i]])
            return Fold(hidden, columns, around + center_weight * center if self.is_pooled else around)

        is_requested = np.isin(genes, self.measured)
        self.shown = make_fold(np.arange(0), [])
        self.folds = []
        for i, fold_columns in enumerate(ranges):
            columns = np.flatnonzero(is_requested[fold_columns]) + fold_columns.start
            if len(columns):
                self.folds.append(make_fold(columns, sorted({(i + j) % n_folds for j in range(n_hidden)})))

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


def fit_readout(plan: Plan, spot_names: pd.Index, rng: int, block_rows: int) -> Readout:
    """Return the read-out of each fold, fitted to the section's spots by name; see :mod:`sagefm.inference._readout`."""
    part, sample_rows = draw_parts(spot_names, rng), draw_sample(spot_names, rng)
    # Rows are read in order.
    sorted_rows = np.sort(sample_rows)
    counts = to_memory(take_rows(plan.counts, sorted_rows))
    sample = plan.batch(sample_rows, counts[np.searchsorted(sorted_rows, sample_rows)])
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


def predict(
    plan: Plan, readout: Readout | None, recovery: Recovery, block_rows: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]:
    """Yield rows of the table, and predictions of requested genes that the section measured, and of those it did not.

    Measured counts and predictions are added to `recovery`, whose genes are the requested measured ones, in order.
    Without a read-out only the network is used.
    """
    network = plan.network
    for rows, batch in plan.blocks(block_rows):
        measured = np.empty((len(batch.counts), len(plan.measured)), np.float32)
        unmeasured = np.empty((len(batch.counts), len(plan.unmeasured)), np.float32)
        for i, fold in enumerate(plan.folds):
            h = fold.around[rows]
            if not plan.is_pooled:
                visible, product = plan.center(fold, batch)
                h = h + product
            columns = torch.from_numpy(fold.columns).to(plan.genes.device)
            output = network.decode(network.encode(h), plan.genes[columns])
            rates = null_rates(batch.counts, plan.gene_totals, fold.hidden)
            if readout is not None:
                fitted = readout.folds[i]
                output += fitted.decoder.log_ratio(rows, fitted.features(visible, product + plan.bias))
                if not fold.hidden.all():
                    depth = rates.sum(dim=1, keepdim=True)
                    output += readout.factors.log_ratio(rows, batch.counts, depth, fold.hidden, columns)
                    output /= 2
            rates = rates[:, columns]
            measured[:, plan.place[fold.columns]] = network.prediction(output, rates).cpu().numpy()
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
            unmeasured[:] = network.prediction(network.decode(network.encode(h), genes), rates).cpu()
        recovery.add_spots(len(batch.counts))
        yield plan.inputs.section.rows[rows], measured, unmeasured


def _unmeasured_rates(network: SpotNetwork, batch: Batch, hidden: Tensor, genes: Tensor) -> Tensor:
    """Return null rates of genes that the section did not measure, from the profile of the training sections."""
    prior: Tensor | None = getattr(network, "prior", None)
    if prior is None:
        return torch.empty(0)
    depth = null_rates(batch.counts, batch.gene_totals, hidden).sum(dim=1, keepdim=True)
    return depth * prior[genes] / prior[batch.genes].sum()
