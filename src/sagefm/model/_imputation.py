"""Imputation: every gene predicted from a fold in which it was hidden."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from sagefm._constants import BLOCK_ROWS
from sagefm.data._genes import assign_folds
from sagefm.data._stored import iter_blocks
from sagefm.metrics._recovery import Recovery
from sagefm.model._embedding import average, project
from sagefm.module._objective import Batch, null_rates, read_center

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from sagefm.data._section import SectionInput
    from sagefm.module._center import SpotNetwork


@dataclass(frozen=True)
class ImputedBlock:
    """Predictions for some spots.

    Attributes
    ----------
    rows
        Rows of the table (n_spots,).
    measured
        Predicted values of the requested measured genes (n_spots, n_measured).
    unmeasured
        Predicted values of the requested genes that the section did not measure (n_spots, n_unmeasured).
    """

    rows: NDArray[np.int64]
    measured: NDArray[np.float32]
    unmeasured: NDArray[np.float32]


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
    block_rows: int = BLOCK_ROWS,
) -> Iterator[ImputedBlock]:
    """Predict genes of a section, each from a fold of the genes in which it was hidden.

    The first layer is linear, so that hiding a fold takes its own product off the whole: the folds'
    products together cost one. (The default network's center is the exception: its size factor is that of
    the visible genes, so that its center is multiplied once a fold.)

    Parameters
    ----------
    network
        The network.
    inputs
        What it reads of the section.
    requested
        Positions in the vocabulary of the genes to predict (n_requested,), increasing.
    mask
        ``"center"`` hides a fold at the center; ``"neighborhood"`` at all spots of the neighborhood.
    n_folds
        Number of folds; 1/n_folds of the genes are hidden at a time.
    rng
        Seed of the folds.
    device
        Device to compute on.
    recovery
        Receives measured counts and predictions; its genes are the requested measured ones, in order.
    block_rows
        Spots predicted at a time.

    Yields
    ------
    Blocks of spots, in order.
    """
    section = inputs.section
    folds = assign_folds(section.genes, network.config.n_genes, n_folds, rng)
    # Genes are put in the order of their folds, so that a fold is a range of columns.
    order = np.argsort(folds, kind="stable")
    edges = np.searchsorted(folds[order], np.arange(n_folds + 1)).tolist()
    inputs = inputs.with_genes(order)
    section = inputs.section
    genes = torch.from_numpy(section.genes).to(device)
    w_center, w_neighborhood, bias = network.first_layer(genes)
    mean = torch.from_numpy(inputs.mean).to(device)
    gene_totals = torch.from_numpy(section.gene_totals).to(device)[None]

    measured, unmeasured = np.intersect1d(requested, section.genes), np.setdiff1d(requested, section.genes)
    output = np.searchsorted(measured, section.genes)
    is_wanted = np.isin(section.genes, measured)
    parts = project(inputs.values, [w_neighborhood[:, a:b] for a, b in pairwise(edges)], block_rows=block_rows)
    whole = parts[0].clone()
    for part in parts[1:]:
        whole += part
    center_weight = torch.from_numpy(inputs.center_weight).to(device)[:, None]
    around = _neighborhood(inputs, whole, w_neighborhood, mean)
    passes = []
    for (a, b), part in zip(pairwise(edges), parts, strict=True):
        columns = np.flatnonzero(is_wanted[a:b]) + a
        if len(columns):
            h = around
            if mask == "neighborhood":
                h = h - _neighborhood(inputs, part, w_neighborhood[:, a:b], mean[a:b])
            passes.append((slice(a, b), columns, h + center_weight * (whole - part) if network.tied else h))
    if len(unmeasured):
        # What the section did not measure is hidden already.
        passes.append((slice(0, 0), np.arange(0), around + center_weight * whole if network.tied else around))

    for rows, counts in iter_blocks(section.counts, block_rows):
        batch = Batch(
            genes=genes,
            counts=torch.from_numpy(counts.toarray()).to(device),
            # The published center is in the products already.
            values=torch.empty(0) if network.tied else torch.from_numpy(inputs.transform(counts).toarray()).to(device),
            neighborhood=torch.empty(0),
            center_weight=torch.from_numpy(inputs.center_weight[rows, None]).to(device),
            mean=mean[None],
            gene_totals=gene_totals,
            n_section=torch.tensor([[float(section.n_spots)]], device=device),
        )
        block = ImputedBlock(
            section.rows[rows],
            np.empty((len(batch.counts), len(measured)), np.float32),
            np.empty((len(batch.counts), len(unmeasured)), np.float32),
        )
        for hidden, columns, h_of_section in passes:
            is_hidden = torch.zeros((1, len(genes)), dtype=torch.bool, device=device)
            is_hidden[:, hidden] = True
            rates = null_rates(batch.counts, gene_totals, is_hidden)
            h = h_of_section[rows] + bias
            if not network.tied:
                h = h + linear(read_center(network, batch, is_hidden, rates), w_center)
            z = network.encode(h)
            if len(columns) == 0:
                absent = torch.from_numpy(unmeasured).to(device)
                block.unmeasured[:] = _decode(network, z, absent, _absent_rates(network, batch, rates, absent)).cpu()
                continue
            at = torch.from_numpy(columns).to(device)
            predicted = _decode(network, z, genes[at], rates[:, at])
            block.measured[:, output[columns]] = predicted.cpu().numpy()
            expected = torch.expm1(predicted) if network.config.input == "log1p" else predicted
            recovery.update(
                batch.counts[:, at].cpu().numpy(),
                expected.cpu().numpy(),
                null=rates[:, at].cpu().numpy(),
                genes=output[columns],
            )
        recovery.add_spots(len(batch.counts))
        yield block


def _neighborhood(inputs: SectionInput, product: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """Return ``weight v`` of some genes for every spot (n_spots, hidden), from their product ``U weight^T``."""
    shifted = torch.from_numpy(inputs.shift).to(mean.device)[:, None] * (weight @ mean)
    return average(inputs.operator, product) - shifted


def _decode(network: SpotNetwork, z: Tensor, genes: Tensor, rates: Tensor) -> Tensor:
    """Return predicted log1p counts (published) or expected counts (default) (n_spots, n_genes)."""
    output = network.decode(z, genes)
    return output if network.config.input == "log1p" else rates * output.exp()


def _absent_rates(network: SpotNetwork, batch: Batch, rates: Tensor, genes: Tensor) -> Tensor:
    """Return null rates of genes the section did not measure, from the profile of the training sections."""
    if network.config.input == "log1p":
        return torch.empty(0)
    prior: Tensor = network.prior  # type: ignore[attr-defined]
    share = prior[genes] / prior[batch.genes].sum()
    return rates.sum(dim=1, keepdim=True) * share
