"""In-silico perturbation: a gene set in the neighborhood, others read at the center.

Setting gene g of all neighbors to a level changes the first layer of spot i by a multiple of one column,

    h_i(level) = h_i + (w_i level - sum_j O_ij u_jg) W_neigh[:, g],    w_i = sum_j O_ij over neighbors j != i,

so that nothing of the size of the transcriptome is computed again: a rank-one update, the small layers, and
the rows of the read-out that are asked for (Zhan et al. 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from scipy import sparse, stats
from torch import Tensor

from sagefm._constants import BLOCK_ROWS
from sagefm.data._blocks import iter_blocks, take_columns
from sagefm.inference._products import first_layer, section_profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.data._blocks import StoredMatrix
    from sagefm.data._input import SectionInput
    from sagefm.module._reading import SpotNetwork

#: Bytes of the predictions that are summarised at a time.
_TARGET_BYTES: Final = 1 << 24


@dataclass(frozen=True)
class PreparedSection:
    """A section's first layer without perturbation, and the genes that are set, read or hidden.

    Attributes
    ----------
    h
        Output of the first layer, nothing hidden (n_spots, hidden).
    values, counts
        ``U`` of the sources (n_spots, n_sources) and raw counts of the genes that are hidden (n_spots, n_hidden), as
        CSC: a gene is a slice.
    source_column, hidden_column
        Column of each vocabulary gene in these, -1 if it is not there (n_vocabulary,).
    sizes, profile
        Counts of each spot (n_spots,), and share of the hidden genes in the counts of the section (n_hidden,).
    neighbors
        Operator without the diagonal (n_spots, n_spots).
    """

    inputs: SectionInput
    h: Tensor
    values: sparse.csc_matrix
    counts: sparse.csc_matrix
    source_column: NDArray[np.int64]
    hidden_column: NDArray[np.int64]
    sizes: NDArray[np.float32]
    profile: NDArray[np.floating]
    neighbors: sparse.csr_matrix

    def source(self, gene: int) -> NDArray[np.float32]:
        """Return the values of a source (n_spots,)."""
        column = self.source_column[gene]
        return self.values[:, [column]].toarray()[:, 0]

    def centers(self, genes: NDArray[np.int64], block_rows: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ``c`` of measured vocabulary genes, block by block of spots (n_rows, n_genes)."""
        columns = self.hidden_column[genes]
        counts, profile = self.counts[:, columns].tocsr(), self.profile[columns]
        for start in range(0, counts.shape[0], block_rows):
            rows = slice(start, start + block_rows)
            yield rows, self.inputs.center(counts[rows].toarray(), self.sizes[rows], profile, rows)


@dataclass(frozen=True)
class Response:
    """The response of targets to a source, over all spots.

    Attributes
    ----------
    effect, null
        Mean over spots of the prediction at the highest level less that at the lowest, for targets (n_targets,) and
        null genes (n_null,).
    curve
        Mean, 10 % and 90 % quantile over spots of the prediction less that at the lowest level
        (3, n_levels, n_targets).
    rho
        Mean over spots of the rank correlation of level and prediction (n_targets,).
    per_spot
        Effect at every spot (n_spots, n_targets), if it was asked for.
    """

    effect: NDArray[np.float64]
    curve: NDArray[np.float64]
    rho: NDArray[np.float64]
    null: NDArray[np.float64]
    per_spot: NDArray[np.float32] | None


@torch.inference_mode()
def prepare_section(
    network: SpotNetwork,
    inputs: SectionInput,
    sources: NDArray[np.int64],
    hidden: NDArray[np.int64],
    device: torch.device,
) -> PreparedSection:
    """Return what all perturbations of a section share; `sources` and `hidden` are vocabulary positions."""
    section, operator = inputs.section, inputs.operator
    first = first_layer(network, inputs, device)
    starts = range(0, section.n_spots, BLOCK_ROWS)
    values, source_column = _by_gene(inputs.values, section.genes, sources, network.config.n_genes)
    counts, hidden_column = _by_gene(section.counts, section.genes, hidden, network.config.n_genes)
    return PreparedSection(
        inputs=inputs,
        h=torch.cat([first.h(slice(start, start + BLOCK_ROWS)) for start in starts]),
        values=values,
        counts=counts,
        source_column=source_column,
        hidden_column=hidden_column,
        sizes=first.sizes,
        profile=section_profile(section.gene_totals)[np.isin(section.genes, hidden)],
        neighbors=sparse.csr_matrix(operator - sparse.diags_array(operator.diagonal()), dtype=np.float32),
    )


def _by_gene(
    matrix: sparse.csr_matrix | StoredMatrix, genes: NDArray[np.int64], wanted: NDArray[np.int64], n_vocabulary: int
) -> tuple[sparse.csc_matrix, NDArray[np.int64]]:
    """Return the wanted columns of a matrix as CSC, and the column of each vocabulary gene in it."""
    columns = np.flatnonzero(np.isin(genes, wanted))
    position = np.full(n_vocabulary, -1)
    position[genes[columns]] = np.arange(len(columns))
    blocks = [block for _, block in iter_blocks(take_columns(matrix, columns))]
    return sparse.csc_matrix(sparse.vstack(blocks)), position


def value_range(sections: Sequence[PreparedSection], gene: int) -> tuple[float, float]:
    """Return the lowest and highest input value of a source over all spots."""
    values = np.concatenate([section.source(gene) for section in sections])
    return float(values.min()), float(values.max())


@torch.inference_mode()
def perturb_source(
    network: SpotNetwork,
    sections: Sequence[PreparedSection],
    source: int,
    targets: NDArray[np.int64],
    null_genes: NDArray[np.int64],
    levels: NDArray[np.float32],
    device: torch.device,
    *,
    block_rows: int = BLOCK_ROWS,
    per_spot: bool = False,
) -> Response:
    """Return the response of targets at the center to a source set in the neighborhood.

    Targets and null genes are hidden at the center, together; all are vocabulary positions. `levels` are on the scale
    of the network's input, increasing.
    """
    hidden = np.concatenate([targets, null_genes])
    # Genes that the section did not measure are hidden already.
    hidden = hidden[sections[0].hidden_column[hidden] >= 0]
    w_center, w_neighborhood, _ = network.first_layer(torch.from_numpy(np.append(hidden, source)).to(device))
    w_hidden, w_source = w_center[:, :-1], w_neighborhood[:, -1]
    dose = torch.from_numpy(levels).to(device)
    embedded = []
    for section in sections:
        received = section.neighbors @ section.source(source)
        weight = np.asarray(section.neighbors.sum(axis=1), dtype=np.float32).ravel()
        for rows, center in section.centers(hidden, block_rows):
            h = section.h[rows] - torch.from_numpy(center).to(device) @ w_hidden.T
            step = torch.outer(torch.from_numpy(weight[rows]).to(device), dose)
            step -= torch.from_numpy(received[rows]).to(device)[:, None]
            embedded.append(network.encode(h[:, None, :] + step[:, :, None] * w_source))

    n_spots = sum(len(z) for z in embedded)
    null, null_read = np.zeros(len(null_genes)), torch.from_numpy(null_genes).to(device)
    for z in embedded:
        ends = network.decode(z[:, [0, -1]], null_read)
        null += (ends[:, 1] - ends[:, 0]).sum(dim=0, dtype=torch.float64).cpu().numpy()
    # Targets a few at a time: what is sorted and ranked has the size of spots x levels x targets.
    n_targets = max(_TARGET_BYTES // (4 * n_spots * len(levels)), 1)
    curves, rhos, effects = [], [], []
    for start in range(0, len(targets), n_targets):
        read = torch.from_numpy(targets[start : start + n_targets]).to(device)
        change = np.concatenate([_change(network.decode(z, read)) for z in embedded])
        low, high = np.quantile(change, [0.1, 0.9], axis=0)
        curves.append(np.stack([change.mean(axis=0, dtype=np.float64), low, high]))
        rhos.append(_rank_correlation(change))
        if per_spot:
            effects.append(change[:, -1])
    curve = np.concatenate(curves, axis=2)
    return Response(
        effect=curve[0, -1],
        curve=curve,
        rho=np.concatenate(rhos),
        null=null / max(n_spots, 1),
        per_spot=np.concatenate(effects, axis=1) if per_spot else None,
    )


def _change(predicted: Tensor) -> NDArray[np.float32]:
    """Return predictions less those at the lowest level (n_spots, n_levels, n_targets)."""
    return (predicted - predicted[:, :1]).cpu().numpy()


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
    """
    expressed = np.flatnonzero(gene_totals > 0)
    if len(expressed) == 0:
        expressed = np.arange(len(gene_totals))
    by_total = expressed[np.argsort(gene_totals[expressed], kind="stable")]
    n_bins = max(min(20, len(by_total) // max(2 * n_null, 1)), 1)
    bins = np.array_split(by_total, n_bins)
    tops = np.array([gene_totals[members[-1]] for members in bins])
    excluded = np.append(targets, source)
    bin_of = np.minimum(np.searchsorted(tops, gene_totals[targets]), n_bins - 1)
    drawn = {}
    for i in np.unique(bin_of).tolist():
        shuffled = np.random.default_rng([rng, source, i]).permutation(bins[i])
        drawn[i] = shuffled[~np.isin(shuffled, excluded)][:n_null]
    return [drawn[i] for i in bin_of]
