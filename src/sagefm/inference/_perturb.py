"""In-silico perturbation: a gene set in the neighborhood, others read at the center.

Setting gene g of all neighbors to a level changes the first layer of spot i by a multiple of one column,

    h_i(level) = h_i + (w_i level - sum_j O_ij u_jg) W_neigh[:, g],    w_i = sum_j O_ij over neighbors j != i,

so that nothing of the size of the transcriptome is computed again: a rank-one update, the small layers, and
the rows of the read-out that are asked for (Zhan et al. 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse, stats
from torch import Tensor

from sagefm._constants import BLOCK_ROWS
from sagefm.data._blocks import iter_blocks, take_columns
from sagefm.data._counts import root
from sagefm.data._input import expected_roots
from sagefm.inference._products import first_layer, section_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm.data._blocks import StoredMatrix
    from sagefm.data._input import SectionInput
    from sagefm.module._center import SpotNetwork


@dataclass(frozen=True)
class PreparedSection:
    """A section's first layer without perturbation, and its values by gene.

    Attributes
    ----------
    inputs
        What the network reads.
    h
        Output of the first layer, nothing hidden (n_spots, hidden).
    values
        ``U`` of the genes that are needed, as CSC (n_spots, n_needed): a gene's values are a slice.
    counts
        Raw counts of these genes, likewise.
    sizes
        Counts of each spot (n_spots,).
    profile
        Share of these genes in the counts of the section (n_needed,).
    neighbors
        Operator without the diagonal (n_spots, n_spots).
    column
        Column of each vocabulary gene in ``values``, -1 if not measured or not needed (n_vocabulary,).
    """

    inputs: SectionInput
    h: Tensor
    values: sparse.csc_matrix
    counts: sparse.csc_matrix
    sizes: NDArray[np.float32]
    profile: NDArray[np.floating]
    neighbors: sparse.csr_matrix
    column: NDArray[np.int64]

    def center(self, genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return ``c`` of vocabulary genes (n_spots, n_genes); genes that were not measured are zero."""
        if not self.inputs.is_relative:
            return self.inputs.center_weight[:, None] * self.of(self.values, genes)
        columns = self.column[genes]
        profile = np.where(columns >= 0, self.profile[columns], 0.0)
        return root(sparse.csr_matrix(self.of(self.counts, genes))).toarray() - expected_roots(self.sizes, profile)

    def of(self, matrix: sparse.csc_matrix, genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return columns of vocabulary genes (n_spots, n_genes); genes that were not measured are zero."""
        columns = self.column[genes]
        measured = columns >= 0
        values = np.zeros((matrix.shape[0], len(genes)), dtype=np.float32)
        values[:, measured] = matrix[:, columns[measured]].toarray()
        return values


@dataclass(frozen=True)
class Response:
    """The response of targets to a source, over all spots.

    Attributes
    ----------
    effect
        Prediction at the highest level less that at the lowest (n_spots, n_targets).
    curve
        Mean, 10 % and 90 % quantile over spots of the prediction less that at the lowest level
        (3, n_levels, n_targets).
    rho
        Mean over spots of the rank correlation of level and prediction (n_targets,).
    null
        Mean effect on each null gene (n_null,).
    """

    effect: NDArray[np.float32]
    curve: NDArray[np.float64]
    rho: NDArray[np.float64]
    null: NDArray[np.float64]


@torch.inference_mode()
def prepare_section(
    network: SpotNetwork, inputs: SectionInput, genes: NDArray[np.int64], device: torch.device
) -> PreparedSection:
    """Return what all perturbations of a section share.

    Parameters
    ----------
    network
        The network.
    inputs
        What it reads of the section.
    genes
        Vocabulary positions of all genes that will be set, read or hidden (n_needed,).
    device
        Device to compute on.
    """
    section, operator = inputs.section, inputs.operator
    neighbors = sparse.csr_matrix(operator - sparse.diags_array(operator.diagonal()), dtype=np.float32)
    first = first_layer(network, inputs, device)
    starts = range(0, section.n_spots, BLOCK_ROWS)
    h = torch.cat([first.h(slice(start, start + BLOCK_ROWS)) for start in starts])
    needed = np.flatnonzero(np.isin(section.genes, genes))
    column = np.full(network.config.n_genes, -1)
    column[section.genes[needed]] = np.arange(len(needed))
    values, counts = (_by_gene(take_columns(matrix, needed)) for matrix in (inputs.values, section.counts))
    profile = section_profile(section.gene_totals)[needed]
    return PreparedSection(inputs, h, values, counts, first.sizes, profile, neighbors, column)


def _by_gene(matrix: sparse.csr_matrix | StoredMatrix) -> sparse.csc_matrix:
    return sparse.csc_matrix(sparse.vstack([block for _, block in iter_blocks(matrix)]))


def value_range(sections: Sequence[PreparedSection], gene: int) -> tuple[float, float]:
    """Return the lowest and highest input value of a vocabulary gene over all spots."""
    values = [section.of(section.values, np.array([gene])) for section in sections]
    return min(float(v.min()) for v in values), max(float(v.max()) for v in values)


@torch.inference_mode()
def perturb_source(
    network: SpotNetwork,
    sections: Sequence[PreparedSection],
    source: int,
    targets: NDArray[np.int64],
    null_genes: NDArray[np.int64],
    levels: NDArray[np.float32],
    device: torch.device,
    block_rows: int = BLOCK_ROWS,
) -> Response:
    """Return the response of targets at the center to a source set in the neighborhood.

    Targets and null genes are hidden at the center, together.

    Parameters
    ----------
    network
        The network.
    sections
        Prepared sections.
    source
        Vocabulary position of the gene that is set.
    targets
        Vocabulary positions of the genes that are read (n_targets,).
    null_genes
        Vocabulary positions of the genes that give the null distribution (n_null,).
    levels
        Values that the source is set to, on the scale of the network's input, increasing (n_levels,).
    device
        Device to compute on.
    block_rows
        Spots computed at a time.
    """
    hidden = np.concatenate([targets, null_genes])
    read = torch.from_numpy(targets).to(device)
    null_read = torch.from_numpy(null_genes).to(device)
    dose = torch.from_numpy(levels).to(device)
    w_center, w_neighborhood, _ = network.first_layer(torch.from_numpy(np.append(hidden, source)).to(device))
    w_hidden, w_source = w_center[:, :-1], w_neighborhood[:, -1]
    changes, null_sum, n_spots = [], np.zeros(len(null_genes)), 0
    for section in sections:
        center = section.center(hidden)
        received = section.neighbors @ section.of(section.values, np.array([source]))[:, 0]
        weight = np.asarray(section.neighbors.sum(axis=1), dtype=np.float32).ravel()
        for start in range(0, len(center), block_rows):
            rows = slice(start, start + block_rows)
            h = section.h[rows] - torch.from_numpy(center[rows]).to(device) @ w_hidden.T
            step = torch.outer(torch.from_numpy(weight[rows]).to(device), dose)
            step -= torch.from_numpy(received[rows]).to(device)[:, None]
            z = network.encode(h[:, None, :] + step[:, :, None] * w_source)
            at_ends = network.decode(z[:, [0, -1]], null_read)
            null_sum += (at_ends[:, 1] - at_ends[:, 0]).sum(dim=0, dtype=torch.float64).cpu().numpy()
            predicted = network.decode(z, read)
            changes.append((predicted - predicted[:, :1]).cpu().numpy())
        n_spots += len(center)
    change = np.concatenate(changes)
    low, high = np.quantile(change, [0.1, 0.9], axis=0)
    curve = np.stack([change.mean(axis=0, dtype=np.float64), low, high])
    return Response(change[:, -1], curve, _rank_correlation(change), null_sum / max(n_spots, 1))


def _rank_correlation(change: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean over spots of Spearman's correlation of level and prediction (n_targets,)."""
    n_levels = change.shape[1]
    # Rounded: a nearly flat response would be ranked by its last bits.
    largest = np.abs(change).max(axis=1, keepdims=True)
    ranks = stats.rankdata(np.round(change / np.where(largest > 0, largest, 1), 4), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    level = np.arange(n_levels) - (n_levels - 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=1) * (level**2).sum())
    covariance = np.einsum("slt,l->st", ranks, level)
    # A flat response has no rank order: zero.
    rho: NDArray[np.float64] = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0).mean(axis=0)
    return rho


def draw_null_genes(
    gene_totals: NDArray[np.float64], source: int, targets: NDArray[np.int64], n_null: int, rng: int
) -> list[NDArray[np.int64]]:
    """Return, for each target, random genes of similar expression that are neither source nor target.

    Genes are ranked by their counts in the data and cut into bins; a target's null genes are of its own bin,
    the same for all targets of a source in that bin. What is drawn depends on `rng` and the source alone.

    Parameters
    ----------
    gene_totals
        Counts of each vocabulary gene in the data, 0 if not measured (n_vocabulary,).
    source, targets
        Vocabulary positions.
    n_null
        Null genes a target; fewer where a bin has fewer.
    rng
        Seed.
    """
    expressed = np.flatnonzero(gene_totals > 0)
    if len(expressed) == 0:
        expressed = np.arange(len(gene_totals))
    by_total = expressed[np.argsort(gene_totals[expressed], kind="stable")]
    n_bins = max(min(20, len(by_total) // max(2 * n_null, 1)), 1)
    bins = np.array_split(by_total, n_bins)
    tops = np.array([gene_totals[members[-1]] for members in bins])
    excluded = np.append(targets, source)
    drawn = {}
    picked = []
    for target in targets:
        i = min(int(np.searchsorted(tops, gene_totals[target])), n_bins - 1)
        if i not in drawn:
            shuffled = np.random.default_rng([rng, source, i]).permutation(bins[i])
            drawn[i] = shuffled[~np.isin(shuffled, excluded)][:n_null]
        picked.append(drawn[i])
    return picked
