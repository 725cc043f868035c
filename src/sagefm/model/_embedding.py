"""Embedding a section: one product per spot, one average, a few small layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sagefm._constants import BLOCK_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.data._corpus import SectionInput
    from sagefm.module._center import SpotNetwork


@dataclass(frozen=True)
class FirstLayer:
    """The parts of ``h = center + neighborhood + bias`` for every spot of a section, each (n_spots, hidden)."""

    center: Tensor
    neighborhood: Tensor
    bias: Tensor

    @property
    def h(self) -> Tensor:
        """Output of the first layer (n_spots, hidden)."""
        return self.center + self.neighborhood + self.bias


def project(
    values: sparse.csr_matrix,
    weights: Sequence[Tensor],
    *,
    block_rows: int = BLOCK_ROWS,
    progress: Iterable[int] | None = None,
) -> list[Tensor]:
    """Return ``values @ weight.T`` for weights on consecutive ranges of columns, each (n_spots, n_out).

    Row blocks are made dense in a buffer that is used again: a dense product is faster than a sparse one
    at the density of expression data, and no more than a block is ever dense.

    Parameters
    ----------
    values
        CSR float32 (n_spots, n_genes).
    weights
        Weights (n_out, n_columns), whose columns together are those of `values`.
    block_rows
        Rows of a block.
    progress
        Iterates over the first rows of the blocks, for a progress bar.
    """
    n_spots, n_genes = values.shape
    device = weights[0].device
    products = [torch.empty((n_spots, weight.shape[0]), dtype=torch.float32) for weight in weights]
    transposed = [weight.T for weight in weights]
    bounds = np.cumsum([0] + [weight.shape[1] for weight in weights]).tolist()
    buffer = np.empty((min(block_rows, n_spots), n_genes), dtype=np.float32)
    for start in progress if progress is not None else range(0, n_spots, block_rows):
        rows = values[start : start + block_rows]
        dense = torch.from_numpy(rows.toarray(out=buffer[: rows.shape[0]])).to(device)
        for i, product in enumerate(products):
            block = dense[:, bounds[i] : bounds[i + 1]]
            if device.type == "cpu":
                torch.mm(block, transposed[i], out=product[start : start + block_rows])
            else:
                product[start : start + block_rows] = torch.mm(block, transposed[i]).cpu()
    return products


def average(operator: sparse.csr_matrix, product: Tensor) -> Tensor:
    """Return ``operator @ product`` (n_spots, n_out), on the CPU."""
    return torch.from_numpy(operator @ product.numpy())


def first_layer(
    network: SpotNetwork, inputs: SectionInput, device: torch.device, block_rows: int = BLOCK_ROWS
) -> FirstLayer:
    """Return the first layer's output for every spot of a section.

    With P = U W^T one product a section: averaging and product commute,
    so that a spot is multiplied once and not once for each neighborhood it is in.
    """
    section = inputs.section
    # A whole vocabulary needs no copy of the weights.
    genes = None if section.n_genes == network.config.n_genes else torch.from_numpy(section.genes).to(device)
    w_center, w_neighborhood, bias = network.first_layer(genes)
    width = w_center.shape[0]
    if network.tied:
        (p_center,) = project(inputs.values, [w_neighborhood], block_rows=block_rows)
        p_neighborhood = p_center
    else:
        (both,) = project(inputs.values, [torch.cat([w_center, w_neighborhood])], block_rows=block_rows)
        p_center, p_neighborhood = both[:, :width], both[:, width:]
    center = p_center
    neighborhood = average(inputs.operator, p_neighborhood)
    if inputs.mean.any():
        mean = torch.from_numpy(inputs.mean).to(device)
        center = center - (w_center @ mean).cpu()
        neighborhood -= torch.from_numpy(inputs.shift)[:, None] * (w_neighborhood @ mean).cpu()
    return FirstLayer(center * torch.from_numpy(inputs.center_weight)[:, None], neighborhood, bias.cpu())


@torch.inference_mode()
def embed_section(
    network: SpotNetwork, inputs: SectionInput, device: torch.device, block_rows: int = BLOCK_ROWS
) -> NDArray[np.float32]:
    """Return the embedding of every spot of a section, float32 (n_spots, n_latent)."""
    h = first_layer(network, inputs, device, block_rows).h
    z = torch.cat([network.encode(rows.to(device)).cpu() for rows in h.split(block_rows)])
    return z.numpy()
