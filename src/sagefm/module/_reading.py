"""What a network reads of spots under a mask, and what is asked of a network.

Notation, for spot i and gene g: x the counts, p_g the profile (counts of the gene in the section), m_ig = 1 where the
gene is hidden. Nothing in this file reads a hidden count, except that a spot which hides all genes keeps its depth.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from sagefm._constants import PROFILE_PRIOR
from sagefm._transform import root
from sagefm.module._config import NetworkConfig


@dataclass(frozen=True)
class Batch:
    """Spots of one or several sections, dense, as a network is trained on them.

    Attributes
    ----------
    genes
        Position in the vocabulary of each column (n_genes,); None where the columns are the vocabulary, in order.
    counts
        Raw counts x (n_spots, n_genes).
    neighborhood
        v (n_spots, n_genes).
    center_weight
        a (n_spots, 1).
    gene_totals
        Counts of each gene in each section (n_sections, n_genes).
    section
        Section of each spot (n_spots,); None where there is only one.
    measured
        True for the genes that a section measured (n_sections, n_genes); None where all were. What was not measured
        is zero everywhere else, and neither hidden nor part of a profile.
    seeds
        Number of spots and seed of each group of spots whose masks are drawn together, in order.
    """

    genes: Tensor | None
    counts: Tensor
    neighborhood: Tensor
    center_weight: Tensor
    gene_totals: Tensor
    section: Tensor | None = None
    measured: Tensor | None = None
    seeds: tuple[tuple[int, int], ...] = ()

    def to(self, device: torch.device, **kwargs: Any) -> Batch:
        """Return the batch on a device; `kwargs` as in :meth:`torch.Tensor.to`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, **kwargs) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    @cached_property
    def log1p(self) -> Tensor:
        """``log(1 + x)`` (n_spots, n_genes): center and target of the published network."""
        return self.counts.log1p()

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

    def null_rates(self, mask: Tensor) -> Tensor:
        """Return the null model's expected counts (n_spots, n_genes); see :func:`null_rates`."""
        measured = None if self.measured is None else self.at_spots(self.measured)
        return null_rates(self.counts, self.at_spots(self.gene_totals), mask, measured)


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


def _shown(mask: Tensor, like: Tensor) -> Tensor:
    """Return 1 where a gene is shown, 0 where it is hidden; `mask` may be boolean, or 0 and 1 of the type of `like`."""
    # Products with 0 and 1 are several times faster than filling by a boolean mask.
    return 1 - mask.to(like.dtype)


def size_factors(counts: Tensor, totals: Tensor, mask: Tensor) -> Tensor:
    """Return the expected counts of a gene with a total of one (n_spots, 1).

    ``size_i = sum_g x_ig / sum_g p_g`` over the visible genes. A spot that hides all of its genes still has a depth:
    there the sums run over all genes. The depth is at least one count.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    totals
        p, (n_spots, n_genes) or (1, n_genes).
    mask
        True where a gene is hidden, (n_spots, n_genes) or (1, n_genes).
    """
    shown = _shown(mask, counts)
    shown += shown.sum(dim=1, keepdim=True) == 0
    depth = (counts * shown).sum(dim=1, keepdim=True).clamp(min=1.0)
    return depth / (totals * shown).sum(dim=1, keepdim=True).clamp(min=PROFILE_PRIOR)


def null_rates(counts: Tensor, gene_totals: Tensor, mask: Tensor, measured: Tensor | None = None) -> Tensor:
    """Return expected counts of each gene if the spot were its section (n_spots, n_genes).

    ``rate_ig = size_i p_ig``: p_ig are the gene's counts in the *other* spots of the section (and a prior count), so
    that the rate of a hidden gene does not depend on its count in spot i.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    gene_totals
        Counts of each gene in the section, these spots included (n_spots, n_genes) or (1, n_genes).
    mask
        True where a gene is hidden, (n_spots, n_genes) or (1, n_genes).
    measured
        True where a gene was measured, of the same shapes; default: all. Others have a rate of zero.
    """
    profile = (gene_totals - counts).add_(PROFILE_PRIOR)
    if measured is not None:
        profile.mul_(measured)
    return profile.mul_(size_factors(counts, profile, mask))


def log1p_center(batch: Batch, mask: Tensor) -> Tensor:
    """Return ``a_i log(1 + x_ig)``, and 0 for hidden genes: the center of the published network (n_spots, n_genes)."""
    return (batch.log1p * batch.center_weight).mul_(_shown(mask, batch.counts))


def root_center(batch: Batch, mask: Tensor) -> Tensor:
    """Return ``r(x_ig) - r(size_i p_g)``, and 0 for hidden genes (n_spots, n_genes).

    r is :func:`~sagefm._transform.root`. Zero says that a gene is where the section's profile puts it at the spot's
    depth. Visible counts are known, so those of the spot itself may stay in the profile p.
    """
    totals = batch.at_spots(batch.gene_totals)
    expected = totals * size_factors(batch.counts, totals, mask)
    return root(batch.counts).sub_(root(expected)).mul_(_shown(mask, batch.counts))


class SpotNetwork(Protocol):
    """What training, embedding, imputation and perturbation ask of a network.

    Both networks have a linear first layer on center c and neighborhood v (:mod:`sagefm.data._input` says what these
    are), a few small dense layers, and a read-out:

        h_i = W_center c_i + W_neigh v_i + b,    z_i = encode(h_i),    output_i = decode(z_i)
    """

    config: NetworkConfig
    #: Scale of :meth:`prediction`, ``"log1p"`` or ``"counts"``.
    scale: str

    def first_layer(self, genes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]: ...
    def encode(self, h: Tensor) -> Tensor: ...
    def decode(self, z: Tensor, genes: Tensor | None = None) -> Tensor: ...
    def predict(self, batch: Batch, mask: Tensor) -> Tensor: ...
    def loss(self, output: Tensor, batch: Batch, mask: Tensor, rates: Tensor | None = None) -> Tensor: ...
    def prediction(self, output: Tensor, rates: Tensor) -> Tensor: ...
    def expected_counts(self, output: Tensor, rates: Tensor) -> Tensor: ...
