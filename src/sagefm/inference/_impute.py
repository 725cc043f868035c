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
from sagefm.data._blocks import StoredMatrix, iter_blocks, to_memory
from sagefm.data._genes import assign_folds
from sagefm.inference._products import average, project
from sagefm.inference._readout import SectionDecoder, SectionFactors, section_components
from sagefm.metrics._recovery import Recovery
from sagefm.module._reading import Batch, null_rates, read_center, size_factors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.data._input import SectionInput
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


@dataclass(frozen=True)
class Pass:
    """A fold of the genes, predicted while it, and maybe others, are hidden.

    Attributes
    ----------
    hidden
        True for the genes that the center hides (1, n_genes).
    columns
        Genes to predict (n_columns,).
    around
        Part of the first layer that the center's visible genes do not change (n_spots, hidden).
    components
        Principal components of the visible center in the section (n_components, n_genes).
    decoder
        Read-out of the section, where one is fitted, on the embedding of the center and the components' scores.
    """

    hidden: Tensor
    columns: NDArray[np.int64]
    around: Tensor
    components: Tensor
    decoder: SectionDecoder | None = None


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
    """Predict genes of a section, each from a fold of the genes in which it was hidden.

    With the read-out fitted to the section, an expected count is the geometric mean of the network's and of a factor
    model's of the section, see :mod:`sagefm.inference._readout`; where a center shows nothing, it is the network's alone.

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
    n_hidden
        Folds that are hidden at a time: the one that is predicted, and those after it. Where it is all of them, the
        size factor is that of all counts.
    spot_names
        Names of the spots (n_spots,), from which parts are drawn to fit the read-out to the section (default network),
        see :class:`~sagefm.inference._readout.SectionDecoder`; it is not fitted if left out.
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
    place = np.searchsorted(measured, section.genes)
    is_wanted = np.isin(section.genes, measured)
    ranges = [slice(a, b) for a, b in pairwise(edges)]
    parts = project(inputs.values, [w_neighborhood[:, columns] for columns in ranges], block_rows=block_rows)
    whole = parts[0].clone()
    for part in parts[1:]:
        whole += part
    center_weight = torch.from_numpy(inputs.center_weight).to(device)[:, None]
    around = _neighborhood(inputs, whole, w_neighborhood, mean) + bias
    of_spots = None if spot_names is None or network.tied else SectionDecoder.draw_parts(spot_names, rng)
    no_components = torch.empty((0, len(genes)), device=device)

    def read(rows: slice | NDArray[np.int64], counts: sparse.csr_matrix) -> Batch:
        return Batch(
            genes=genes,
            counts=torch.from_numpy(counts.toarray()).to(device),
            values=torch.empty(0),
            neighborhood=torch.empty(0),
            center_weight=torch.from_numpy(inputs.center_weight[rows, None]).to(device),
            gene_totals=gene_totals,
        )

    if of_spots is not None:
        some = SectionDecoder.draw_spots(spot_names, rng)
        ordered = np.sort(some)
        chosen = (
            section.counts.with_rows(ordered) if isinstance(section.counts, StoredMatrix) else section.counts[ordered]
        )
        sample = read(some, to_memory(chosen)[np.searchsorted(ordered, some)])
        factors = SectionFactors(of_spots, some, sample.counts, rng)
    passes = []
    for fold, fold_columns in enumerate(ranges):
        columns = np.flatnonzero(is_wanted[fold_columns]) + fold_columns.start
        if len(columns) == 0:
            continue
        hidden = torch.zeros((1, len(genes)), dtype=torch.bool, device=device)
        h, center = around, whole
        for i in sorted({(fold + j) % n_folds for j in range(n_hidden)}):
            hidden[:, ranges[i]] = True
            center = center - parts[i]
            if mask == "neighborhood":
                h = h - _neighborhood(inputs, parts[i], w_neighborhood[:, ranges[i]], mean[ranges[i]])
        decoder, components = None, no_components
        if of_spots is not None:
            components = section_components(read_center(network, sample, hidden))
            widths = (network.config.hidden[-1], len(components))
            decoder = SectionDecoder(of_spots, widths, len(columns), device)
        passes.append(Pass(hidden, columns, h + center_weight * center if network.tied else h, components, decoder))
    if len(unmeasured):
        # What the section did not measure is hidden already.
        none = torch.zeros((1, len(genes)), dtype=torch.bool, device=device)
        passes.append(
            Pass(none, np.arange(0), around + center_weight * whole if network.tied else around, no_components)
        )

    def hidden_for_size(hidden: Tensor) -> Tensor:
        # A center that shows nothing still has a depth.
        return torch.zeros_like(hidden) if bool(hidden.all()) else hidden

    def known_of(one: Pass, visible: Tensor, product: Tensor) -> Tensor:
        """Return y of a center: its embedding without a neighborhood, and its scores."""
        return torch.cat([network.encode(product + bias), linear(visible, one.components)], dim=1)

    if of_spots is not None:
        for rows, counts in iter_blocks(section.counts, block_rows):
            batch = read(rows, counts)
            for one in passes:
                if one.decoder is not None:
                    visible = read_center(network, batch, one.hidden)
                    y = known_of(one, visible, linear(visible, w_center))
                    at = torch.from_numpy(one.columns).to(device)
                    sizes = size_factors(batch.counts, gene_totals, hidden_for_size(one.hidden))
                    ratio = network.decode(y[:, : network.config.hidden[-1]], genes[at]).exp_()
                    one.decoder.add(rows, y, batch.counts[:, at], sizes, ratio)

    for rows, counts in iter_blocks(section.counts, block_rows):
        batch = read(rows, counts)
        block = ImputedBlock(
            section.rows[rows],
            np.empty((len(batch.counts), len(measured)), np.float32),
            np.empty((len(batch.counts), len(unmeasured)), np.float32),
        )
        for one in passes:
            rates = null_rates(batch.counts, gene_totals, hidden_for_size(one.hidden))
            h = one.around[rows]
            if not network.tied:
                visible = read_center(network, batch, one.hidden)
                center = linear(visible, w_center)
                h = h + center
            z = network.encode(h)
            if len(one.columns) == 0:
                absent = torch.from_numpy(unmeasured).to(device)
                rates = _absent_rates(network, batch, rates, absent)
                block.unmeasured[:] = _expected(network, network.decode(z, absent), rates).cpu()
                continue
            at = torch.from_numpy(one.columns).to(device)
            output = network.decode(z, genes[at])
            if one.decoder is not None:
                output += one.decoder.log_ratio(rows, known_of(one, visible, center))
                if not one.hidden.all():
                    depth = rates.sum(dim=1, keepdim=True)
                    output += factors.log_ratio(rows, batch.counts, depth, one.hidden, at)
                    output /= 2
            predicted = _expected(network, output, rates[:, at])
            block.measured[:, place[one.columns]] = predicted.cpu().numpy()
            expected = torch.expm1(predicted) if network.config.input == "log1p" else predicted
            recovery.update(
                batch.counts[:, at].cpu().numpy(),
                expected.cpu().numpy(),
                null=rates[:, at].cpu().numpy(),
                genes=place[one.columns],
            )
        recovery.add_spots(len(batch.counts))
        yield block


def _neighborhood(inputs: SectionInput, product: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """Return ``weight v`` of some genes for every spot (n_spots, hidden), from their product ``U weight^T``."""
    shifted = torch.from_numpy(inputs.shift).to(mean.device)[:, None] * (weight @ mean)
    return average(inputs.operator, product) - shifted


def _expected(network: SpotNetwork, output: Tensor, rates: Tensor) -> Tensor:
    """Return predicted log1p counts (published) or expected counts (default) (n_spots, n_genes)."""
    return output if network.config.input == "log1p" else rates * output.exp()


def _absent_rates(network: SpotNetwork, batch: Batch, rates: Tensor, genes: Tensor) -> Tensor:
    """Return null rates of genes the section did not measure, from the profile of the training sections."""
    if network.config.input == "log1p":
        return torch.empty(0)
    prior: Tensor = network.prior  # type: ignore[attr-defined]
    share = prior[genes] / prior[batch.genes].sum()
    return rates.sum(dim=1, keepdim=True) * share
