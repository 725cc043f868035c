"""In-silico perturbation: genes set around a spot or at it, others hidden and read at the spot, the center.

Setting gene g to values u'_j changes the first layer of spot i by multiples of two columns,

    h_i' = h_i + sum_j O_ij (u'_jg - u_jg) W_neigh[:, g] + (c'_ig - c_ig) W_center[:, g],    over neighbors j != i,

the first where its neighbors are changed, the second where its own value is; c' is the center of the counts that u'_i
stands for. Nothing of the size of the transcriptome is computed again: a rank-one update, the small layers, and the
rows of the read-out that are asked for (Zhan et al. 2026, where levels are the same at all neighbors). A complex has
such a term for each of its subunits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from scipy import sparse, stats
from torch import Tensor

from sagefm._constants import BLOCK_ROWS, PROFILE_PRIOR
from sagefm.data._blocks import iter_blocks, take_columns
from sagefm.inference._products import first_layer, section_profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.data._blocks import StoredMatrix
    from sagefm.data._input import SectionInput
    from sagefm.inference._intervention import Intervention, Where
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
    prior
        Profile of genes that the section did not measure, as shares of its measured genes (n_vocabulary,); None where
        the network predicts no ratios to a profile.
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
    prior: NDArray[np.float32] | None
    neighbors: sparse.csr_matrix

    def source(self, genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the values of the subunits of a source (n_spots, n_subunits)."""
        return np.asarray(self.values[:, self.source_column[genes]].toarray())

    def steps(self, genes: NDArray[np.int64], changed: NDArray[np.float32], where: Where) -> NDArray[np.float32]:
        """Return by how much first layers move along the columns of a source: v first, then c, as far as changed.

        `changed` are the values that it is set to (n_spots, n_levels, n_subunits); of the result, the last axis has
        these for each place.
        """
        values = self.source(genes)
        steps = []
        if where != "center":
            change = changed - values[:, None, :]
            steps.append((self.neighbors @ change.reshape(len(change), -1)).reshape(change.shape))
        if where != "neighborhood":
            flat = np.ascontiguousarray(changed).reshape(len(changed), -1)
            steps.append(self._own(flat).reshape(changed.shape) - self._own(values)[:, None, :])
        return np.concatenate(steps, axis=2)

    def _own(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what ``c`` has of values (n_spots, n_values), less what a profile expects."""
        no_profile = np.zeros(values.shape[1], np.float32)
        return self.inputs.center(self.inputs.to_counts(values, self.sizes), self.sizes, no_profile, slice(None))

    def centers(self, genes: NDArray[np.int64], block_rows: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ``c`` of measured vocabulary genes, block by block of spots (n_rows, n_genes)."""
        columns = self.hidden_column[genes]
        counts, profile = self.counts[:, columns].tocsr(), self.profile[columns]
        for start in range(0, counts.shape[0], block_rows):
            rows = slice(start, start + block_rows)
            yield rows, self.inputs.center(counts[rows].toarray(), self.sizes[rows], profile, rows)

    def log_rates(self, genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logarithm of what predicted ratios multiply, for a spot of one count (n_spots, n_genes).

        As in imputation, this is the gene's share in the counts of the other spots. Zeros where log1p counts are
        predicted.
        """
        n_spots, n_measured = len(self.sizes), self.inputs.section.n_genes
        if self.prior is None:
            return np.zeros((n_spots, len(genes)), np.float32)
        columns = self.hidden_column[genes]
        of_others = self.counts.sum(axis=0)[:, columns] - self.counts[:, columns].toarray() + PROFILE_PRIOR
        all_others = self.sizes.sum(dtype=np.float64) - self.sizes + n_measured * PROFILE_PRIOR
        shares = np.where(columns >= 0, of_others / all_others[:, None], self.prior[genes])
        return np.log(shares, dtype=np.float32)


@dataclass(frozen=True)
class Response:
    """The response of targets to a source, over all spots.

    Attributes
    ----------
    levels
        Levels of the source (n_levels,).
    curve
        Mean, 10 % and 90 % quantile over spots of the prediction less that at the first level
        (3, n_levels, n_targets).
    rho
        Mean over spots of the rank correlation of level and prediction (n_targets,).
    per_spot
        Prediction at the last level less that at the first, at every spot (n_spots, n_targets), if it was asked for.
    """

    levels: NDArray[np.float32]
    curve: NDArray[np.float64]
    rho: NDArray[np.float64]
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
    prior: Tensor | None = getattr(network, "prior", None)
    return PreparedSection(
        inputs=inputs,
        h=torch.cat([first.h(slice(start, start + BLOCK_ROWS)) for start in starts]),
        values=values,
        counts=counts,
        source_column=source_column,
        hidden_column=hidden_column,
        sizes=first.sizes,
        profile=section_profile(section.gene_totals)[np.isin(section.genes, hidden)],
        prior=None if prior is None else (prior / prior[torch.from_numpy(section.genes)].sum()).cpu().numpy(),
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


@torch.inference_mode()
def perturb_source(
    network: SpotNetwork,
    sections: Sequence[PreparedSection],
    source: NDArray[np.int64],
    targets: Sequence[NDArray[np.int64]],
    intervention: Intervention,
    device: torch.device,
    *,
    block_rows: int = BLOCK_ROWS,
    per_spot: bool = False,
) -> Response:
    """Return the response of targets at the center to a source, each an array of its subunits' vocabulary positions.

    Targets are hidden at the center, together.
    """
    hidden = np.unique(np.concatenate(targets))
    # Genes that the section did not measure are hidden already.
    hidden = hidden[sections[0].hidden_column[hidden] >= 0]
    w_center, w_neighborhood, _ = network.first_layer(torch.from_numpy(np.concatenate([hidden, source])).to(device))
    w_hidden, w_own = w_center[:, : len(hidden)], w_center[:, len(hidden) :]
    w_around = w_neighborhood[:, len(hidden) :]
    places = {"neighborhood": [w_around], "center": [w_own], "both": [w_around, w_own]}
    w_source = torch.cat(places[intervention.where], dim=1)
    levels, changed = intervention.apply(np.concatenate([section.source(source) for section in sections]))
    ends = np.cumsum([len(section.sizes) for section in sections])
    embedded = []
    for section, values in zip(sections, np.split(changed, ends[:-1]), strict=True):
        steps = torch.from_numpy(section.steps(source, values, intervention.where))
        for rows, center in section.centers(hidden, block_rows):
            h = section.h[rows] - torch.from_numpy(center).to(device) @ w_hidden.T
            embedded.append(network.encode(h[:, None, :] + steps[rows].to(device) @ w_source.T))

    # Targets a few at a time: what is sorted and ranked has the size of spots x levels x subunits.
    n_targets = max(_TARGET_BYTES // (4 * ends[-1] * len(levels) * max(map(len, targets))), 1)
    curves, rhos, effects = [], [], []
    for start in range(0, len(targets), n_targets):
        predicted = _predict(network, sections, embedded, targets[start : start + n_targets], device)
        change = predicted - predicted[:, :1]
        low, high = np.quantile(change, [0.1, 0.9], axis=0)
        curves.append(np.stack([change.mean(axis=0, dtype=np.float64), low, high]))
        rhos.append(_rank_correlation(levels, change))
        if per_spot:
            effects.append(change[:, -1])
    return Response(
        levels=levels,
        curve=np.concatenate(curves, axis=2),
        rho=np.concatenate(rhos),
        per_spot=np.concatenate(effects, axis=1) if per_spot else None,
    )


def _predict(
    network: SpotNetwork,
    sections: Sequence[PreparedSection],
    embedded: Sequence[Tensor],
    targets: Sequence[NDArray[np.int64]],
    device: torch.device,
) -> NDArray[np.float32]:
    """Return predictions (n_spots, n_levels, n_targets), of a complex those of its least abundant subunit."""
    genes = np.concatenate(targets)
    read = torch.from_numpy(genes).to(device)
    predicted = np.concatenate([network.decode(z, read).cpu().numpy() for z in embedded])
    if len(genes) == len(targets):
        return predicted
    # Ratios of subunits are compared as abundances, relative to the first; nothing is added to a gene alone.
    lengths = [len(target) for target in targets]
    first = np.cumsum([0, *lengths[:-1]])
    rates = np.concatenate([section.log_rates(genes) for section in sections])
    predicted += (rates - np.repeat(rates[:, first], lengths, axis=1))[:, None, :]
    lowest: NDArray[np.float32] = np.minimum.reduceat(predicted, first, axis=2)
    return lowest


def _rank_correlation(levels: NDArray[np.float32], change: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean over spots of Spearman's correlation of level and prediction (n_targets,)."""
    # Rounded: a nearly flat response would be ranked by its last bits.
    largest = np.abs(change).max(axis=1, keepdims=True)
    ranks = stats.rankdata(np.round(change / np.where(largest > 0, largest, 1), 4), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    level = stats.rankdata(levels)
    level -= level.mean()
    spread = np.sqrt((ranks**2).sum(axis=1) * (level**2).sum())
    covariance = np.einsum("slt,l->st", ranks, level)
    # A flat response has no rank order: zero.
    rho: NDArray[np.float64] = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0).mean(axis=0)
    return rho
