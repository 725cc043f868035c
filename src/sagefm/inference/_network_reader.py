"""A network's view of a section while folds of its genes are hidden: one product serves all folds."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from sagefm._constants import PROFILE_PRIOR
from sagefm.data._blocks import column_sums, take_columns
from sagefm.data._counts import log_normalize
from sagefm.data._graph import averaging
from sagefm.data._input import Log1pInput, depth_grid, expected_roots, sparse_root
from sagefm.inference._products import average, neighborhood, project

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from sagefm.data._input import SectionInput
    from sagefm.inference._layout import Layout
    from sagefm.module._reading import SpotNetwork


class NetworkReader:
    """Embeddings of the spots of a section under a mask.

    The first layer is linear: its products with the columns of each fold are made once, where they are needed, and those
    of hidden folds left out. `is_pooled` tells that the network reads the center with the weights of its neighbors (published).
    """

    def __init__(
        self, network: SpotNetwork, inputs: SectionInput, layout: Layout, device: torch.device, block_rows: int
    ) -> None:
        self.network, self.inputs, self.layout = network, inputs, layout
        self.device, self.block_rows = device, block_rows
        self.is_pooled = isinstance(inputs, Log1pInput)
        self.genes = torch.from_numpy(layout.genes).to(device)
        self.w_center, self.w_around, self.bias = network.first_layer(self.genes)
        self.mean = torch.from_numpy(inputs.mean[layout.order]).to(device)

    @cached_property
    def around(self) -> list[Tensor]:
        """Products of each fold with the weights of the neighborhood (n_spots, n_hidden)."""
        values = take_columns(self.inputs.values, self.layout.order)
        return project(values, [self.w_around[:, fold] for fold in self.layout.folds], block_rows=self.block_rows)

    @cached_property
    def center(self) -> list[Tensor]:
        """Products of each fold with the weights of the center (n_spots, n_hidden)."""
        if self.is_pooled:
            return self.around
        weights = [self.w_center[:, fold] for fold in self.layout.folds]
        return project(sparse_root(self.layout.counts), weights, block_rows=self.block_rows)

    def embed(self, shown: list[int], *, everywhere: bool) -> Tensor:
        """Return z of each spot (n_spots, n_latent) while only some folds are shown at the center, or `everywhere`."""
        around = torch.zeros_like(self.around[0])
        mean = torch.zeros_like(self.bias)
        for i in shown if everywhere else range(len(self.layout.folds)):
            fold = self.layout.folds[i]
            around += self.around[i]
            mean += self.w_around[:, fold] @ self.mean[fold]
        h = neighborhood(self.inputs, around, mean) + self.bias
        if shown:
            h += self._center(shown)
        return self.network.encode(h)

    def embed_visible(self, shown: list[int]) -> Tensor:
        """Return z of each spot (n_spots, n_latent) while only some folds are shown, also in the depth of its neighbors.

        What a network reads of a neighbor is relative to all of its counts. Here these are estimated from the visible
        ones: no hidden count is read, not even in a sum.
        """
        visible = self.layout.columns(shown)
        scale = self.inputs.scale * len(shown) / len(self.layout.folds)
        depths = self.layout.depths(shown).astype(np.float32)
        values = log_normalize(take_columns(self.layout.counts, visible), scale, depths)
        weights = self.w_around[:, torch.from_numpy(visible).to(self.device)]
        (product,) = project(values, [weights])
        mean = torch.from_numpy(column_sums(values).astype(np.float32) / len(depths)).to(self.device)
        around = neighborhood(self.inputs, product, weights @ mean)
        return self.network.encode(around + self._center(shown) + self.bias)

    def embed_around(self, neighbors: sparse.csr_matrix, readable: NDArray[np.bool_]) -> Tensor:
        """Return z of spots that show nothing, from these neighbors, and the mean of `readable` spots."""
        product = sum(self.around[1:], start=self.around[0])
        is_read = torch.from_numpy(readable)[:, None].to(self.device)
        own = product * is_read
        mean = (own.sum(dim=0) - own) / (is_read.sum() - is_read.float()).clamp(min=1)
        has_neighbors = torch.from_numpy(np.diff(neighbors.indptr) > 0)[:, None].to(self.device)
        around = average(averaging(neighbors, with_center=False), product)
        return self.network.encode((around - mean) * has_neighbors + self.bias)

    def output(self, z: Tensor, genes: NDArray[np.int64]) -> Tensor:
        """Return the network's output for vocabulary positions (n_spots, n_genes)."""
        return self.network.decode(z, torch.from_numpy(genes).to(self.device))

    def expected(self, z: Tensor, genes: NDArray[np.int64], rates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return expected counts of vocabulary positions, given the null's rates (n_spots, n_genes)."""
        output = self.output(z, genes)
        values = self.network.prediction(output, torch.from_numpy(rates).to(output.device))
        if self.network.scale == "log1p":
            values = values.expm1()
        return np.asarray(values.cpu().numpy())

    def _center(self, shown: list[int]) -> Tensor:
        """Return ``W_center c`` while only some folds are shown; see :func:`~sagefm.module._reading.root_center`."""
        product = sum((self.center[i] for i in shown[1:]), start=self.center[shown[0]])
        if self.is_pooled:
            return product * torch.from_numpy(self.inputs.center_weight).to(self.device)[:, None]
        # What the profile gives at a spot's depth is a function of depth.
        visible = self.layout.columns(shown)
        totals = self.layout.totals[visible]
        between, depths = depth_grid(self.layout.depths(shown))
        expected = torch.from_numpy(expected_roots(depths, totals / max(totals.sum(), PROFILE_PRIOR)))
        weights = self.w_center[:, torch.from_numpy(visible).to(self.device)]
        return product - average(between, expected.to(self.device) @ weights.T)
