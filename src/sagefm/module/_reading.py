"""Gene masks, what a network reads under a mask, and losses on the hidden genes of the center."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from sagefm._constants import ANSCOMBE, PROFILE_PRIOR
from sagefm.module._center import SpotNetwork


@dataclass(frozen=True)
class Batch:
    """Spots of one or several sections, dense, as a network is trained on them.

    Attributes
    ----------
    genes
        Position in the vocabulary of each column (n_genes,); None where there is a column for all of it, in order.
    counts
        Raw counts x (n_spots, n_genes).
    values
        Transformed counts u (n_spots, n_genes); empty for the default network, whose center is made of the counts.
    neighborhood
        v (n_spots, n_genes).
    center_weight
        a (n_spots, 1).
    gene_totals
        Counts of each gene in each section (n_sections, n_genes).
    section
        Section of each spot (n_spots,); None where there is one.
    measured
        True for the genes that a section measured (n_sections, n_genes); None where all did. What was not measured
        is zero everywhere else, and neither hidden nor part of a profile.
    seeds
        Spots and seed of each group of spots whose genes are hidden together, in order.
    """

    genes: Tensor | None
    counts: Tensor
    values: Tensor
    neighborhood: Tensor
    center_weight: Tensor
    gene_totals: Tensor
    section: Tensor | None = None
    measured: Tensor | None = None
    seeds: tuple[tuple[int, int], ...] = ()

    def to(self, device: torch.device, **kwargs: Any) -> Batch:
        """Return the batch on a device; `kwargs` as in :meth:`torch.Tensor.to`."""
        moved: dict[str, Any] = {
            name: value.to(device, **kwargs) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def at_spots(self, by_section: Tensor) -> Tensor:
        """Return a value of each section (n_sections, ...) for each spot: (n_spots, ...), or (1, ...) of one section."""
        return by_section if self.section is None else by_section[self.section]

    def draw_mask(self, fraction: tuple[float, float]) -> Tensor:
        """Hide genes of each spot at random, from the seeds of the batch; see :func:`draw_mask`."""
        masks = []
        for n_spots, seed in self.seeds:
            generator = torch.Generator(self.counts.device).manual_seed(seed)
            masks.append(draw_mask(torch.Size((n_spots, self.counts.shape[1])), fraction, generator))
        mask = masks[0] if len(masks) == 1 else torch.cat(masks)
        return mask if self.measured is None else mask & self.at_spots(self.measured)


def draw_mask(shape: torch.Size, fraction: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Hide genes of each spot at random (paper: 30 % of the center's genes).

    Parameters
    ----------
    shape
        (n_spots, n_genes).
    fraction
        Range from which each spot's share of hidden genes is drawn.
    generator
        Source of randomness, on the device of the mask.

    Returns
    -------
    True where a gene is hidden (n_spots, n_genes).
    """
    low, high = fraction
    device = generator.device
    share = low + (high - low) * torch.rand((shape[0], 1), generator=generator, device=device)
    return torch.rand(shape, generator=generator, device=device) < share


def shown(mask: Tensor, like: Tensor) -> Tensor:
    """Return 1 where a gene is shown, 0 where it is hidden; `mask` may be boolean, or 0 and 1 of the type of `like`."""
    # Products with 0 and 1 are several times faster than filling by a boolean mask.
    return 1 - mask.to(like.dtype)


def published_center(values: Tensor, center_weight: Tensor, mask: Tensor) -> Tensor:
    """Return what the published network reads of the center: hidden genes are zero (n_spots, n_genes)."""
    return (values * center_weight).mul_(shown(mask, values))


def null_rates(counts: Tensor, gene_totals: Tensor, mask: Tensor, measured: Tensor | None = None) -> Tensor:
    """Return expected counts of each gene if the spot were its section (n_spots, n_genes).

    ``rate_ig = size_i p_g``: p_g are the gene's counts in the *other* spots of the section, and
    size_i = (visible counts of the spot) / (sum of p over the visible genes). Neither reads a hidden count.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    gene_totals
        Counts of each gene in the section, these spots included (n_spots, n_genes) or (1, n_genes).
    mask
        True where a gene is hidden, (n_spots, n_genes) or (1, n_genes).
    measured
        True where a gene was measured, of the same shapes; all were if left out. Others have a rate of zero.
    """
    profile = (gene_totals - counts).add_(PROFILE_PRIOR)
    if measured is not None:
        profile.mul_(measured)
    is_shown = shown(mask, counts)
    visible = (counts * is_shown).sum(dim=1, keepdim=True).clamp(min=1.0)
    return profile.mul_(visible / (profile * is_shown).sum(dim=1, keepdim=True).clamp(min=PROFILE_PRIOR))


def size_factors(counts: Tensor, gene_totals: Tensor, mask: Tensor) -> Tensor:
    """Return expected counts of a gene with a total of one (n_spots, 1): visible counts over their genes' totals."""
    is_shown = shown(mask, counts)
    visible = (counts * is_shown).sum(dim=1, keepdim=True)
    return visible / (gene_totals * is_shown).sum(dim=1, keepdim=True).clamp(min=PROFILE_PRIOR)


def root(x: Tensor) -> Tensor:
    """Return 2 sqrt(x + 3/8) (Anscombe 1948)."""
    return (4 * x).add_(ANSCOMBE).sqrt_()


def root_center(batch: Batch, mask: Tensor) -> Tensor:
    """Return what the default network reads of the center (n_spots, n_genes).

    Visible genes: r(x) - r(size p), with r(x) = 2 sqrt(x + 3/8), p the section's profile and size the counts that the
    spot's visible genes stand for. Hidden genes are zero: at their section's profile.
    """
    # Visible counts are known: those of the spot itself may stay in the profile.
    gene_totals = batch.at_spots(batch.gene_totals)
    expected = gene_totals * size_factors(batch.counts, gene_totals, mask)
    return root(batch.counts).sub_(root(expected)).mul_(shown(mask, expected))


def read_center(network: SpotNetwork, batch: Batch, mask: Tensor) -> Tensor:
    """Return what a network reads of the center under a mask (n_spots, n_genes)."""
    if network.config.input == "log1p":
        return published_center(batch.values, batch.center_weight, mask)
    return root_center(batch, mask)


def predict(network: SpotNetwork, batch: Batch, mask: Tensor) -> Tensor:
    """Return predicted log1p counts or log rate ratios (n_spots, n_genes), the center's genes hidden by `mask`."""
    center = read_center(network, batch, mask)
    w_center, w_neighborhood, bias = network.first_layer(batch.genes)
    if network.tied:
        h = linear(center.add_(batch.neighborhood), w_center, bias)
    else:
        h = linear(center, w_center, bias) + linear(batch.neighborhood, w_neighborhood)
    # Products may be in bfloat16 (mixed precision); losses are not.
    return network.decode(network.encode(h), batch.genes).to(batch.counts.dtype)
