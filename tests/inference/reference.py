"""Slow, literal versions of what the package computes in closed form: one spot at a time, from raw counts."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from sagefm._constants import PROFILE_PRIOR
from sagefm.data._section import Section
from sagefm.module._center import CenterNeighborhoodNetwork
from sagefm.module._gcn import PublishedNetwork


def neighbors_of(section: Section, spot: int) -> np.ndarray:
    """Neighbors of a spot."""
    graph = section.neighbors
    return graph.indices[graph.indptr[spot] : graph.indptr[spot + 1]]


def published(
    network: PublishedNetwork,
    section: Section,
    spot: int,
    *,
    hidden: np.ndarray,
    everywhere: bool = False,
    changed: tuple[np.ndarray, np.ndarray] | None = None,
    where: str = "neighborhood",
) -> np.ndarray:
    """Predicted log1p counts at `spot` (n_vocabulary,), by PyG on its complete subgraph.

    `hidden` are columns set to 0 at the center, or at all spots; `changed` are columns, and what their counts become at
    all spots (n_spots, n_columns), read from the neighbors, from the center, or from both.
    """
    spots = np.append(spot, neighbors_of(section, spot))
    counts = section.counts[spots].toarray().astype(np.float64)
    if changed is not None:
        columns, others = changed
        if where != "center":
            counts[1:, columns] = others[spots[1:]]
        if where != "neighborhood":
            counts[0, columns] = others[spot]
    x = torch.from_numpy(np.log1p(counts)).float()
    x[slice(None) if everywhere else slice(0, 1), torch.from_numpy(hidden)] = 0
    full = torch.zeros((len(spots), network.config.n_genes))
    full[:, section.genes] = x
    pairs = torch.combinations(torch.arange(len(spots))).T
    data = Data(x=full, edge_index=torch.cat([pairs, pairs.flip(0)], dim=1))
    with torch.no_grad():
        return network(data.x, data.edge_index)[1][0].numpy()


def default(
    network: CenterNeighborhoodNetwork,
    section: Section,
    spot: int,
    *,
    hidden: np.ndarray,
    everywhere: bool = False,
    changed: tuple[np.ndarray, np.ndarray] | None = None,
    where: str = "neighborhood",
    size_from_visible: bool = True,
    read: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Log rate ratios and null rates at `spot` (n_genes,), each step written out in float64.

    `changed` and `where` as for :func:`published`; totals stay as they are. Perturbation keeps the spot's measured size:
    `size_from_visible` is then false. Ratios are those of `read`, positions in the vocabulary, where given.
    """
    scale = network.config.scale
    x = section.counts.toarray().astype(np.float64)
    visible = np.setdiff1d(np.arange(x.shape[1]), hidden)
    all_counts = np.maximum(x.sum(axis=1, keepdims=True), 1)
    u = np.log1p(scale * x / all_counts)
    others = np.arange(len(x)) != spot
    mean_of_others = u[others].mean(axis=0)
    profile = x[others].sum(axis=0) + PROFILE_PRIOR
    seen = visible if size_from_visible else np.arange(x.shape[1])
    rates = profile * max(x[spot, seen].sum(), 1) / profile[seen].sum()

    center = np.zeros(x.shape[1])
    totals = x.sum(axis=0)
    size = x[spot, seen].sum() / totals[seen].sum()
    own, around = x[spot].copy(), u[neighbors_of(section, spot)]
    if changed is not None:
        columns, others = changed
        if where != "center":
            around[:, columns] = np.log1p(scale * others / all_counts)[neighbors_of(section, spot)]
        if where != "neighborhood":
            own[columns] = others[spot]
    center[visible] = (2 * np.sqrt(own + 3 / 8) - 2 * np.sqrt(size * totals + 3 / 8))[visible]
    neighborhood = around.mean(axis=0) - mean_of_others
    if everywhere:
        neighborhood[hidden] = 0
    with torch.no_grad():
        w_center, w_neighborhood, bias = network.first_layer(torch.from_numpy(section.genes))
        tensors = [torch.from_numpy(array).float() for array in (center, neighborhood)]
        h = w_center @ tensors[0] + w_neighborhood @ tensors[1] + bias
        ratio = network.decode(network.encode(h[None]), torch.from_numpy(section.genes if read is None else read))[0]
    return ratio.numpy(), rates
