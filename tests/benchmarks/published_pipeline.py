"""The published pipeline, re-implemented from its description, as the thing to be compared with.

Facts of the method, no line of its code: for each spot a subgraph
object of itself and its 14 nearest spots with all pairs joined is made and stored on disk; batches of these are read
back, put through five ``GCNConv`` layers on every spot of every subgraph, and the center's row is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from torch_geometric.data import Batch, Data

from sagefm.module._gcn import PublishedNetwork

#: Edges of a complete graph of 15 spots, both directions.
_PAIRS = torch.combinations(torch.arange(15)).T
EDGES = torch.cat([_PAIRS, _PAIRS.flip(0)], dim=1)


def build(counts: sparse.csr_matrix, coordinates: np.ndarray, folder: Path) -> list[Path]:
    """Store a subgraph for each spot, the center first, with dense log1p counts."""
    _, neighbors = cKDTree(coordinates).query(coordinates, k=15)
    paths = []
    for spot, members in enumerate(neighbors):
        x = torch.from_numpy(np.log1p(counts[members].toarray()))
        path = folder / f"{spot}.pt"
        torch.save(Data(x=x, edge_index=EDGES), path)
        paths.append(path)
    return paths


def load(paths: list[Path]) -> list[Data]:
    """Read subgraphs back."""
    return [torch.load(path, weights_only=False) for path in paths]


def embed(network: PublishedNetwork, graphs: list[Data], batch_size: int = 64) -> torch.Tensor:
    """Return the center's embedding of each subgraph (n_graphs, n_latent)."""
    embeddings = []
    with torch.no_grad():
        for start in range(0, len(graphs), batch_size):
            batch = Batch.from_data_list(graphs[start : start + batch_size])
            embeddings.append(network(batch.x, batch.edge_index)[0][batch.ptr[:-1]])
    return torch.cat(embeddings)


def train_step(network: PublishedNetwork, optimiser: torch.optim.Optimizer, graphs: list[Data]) -> torch.Tensor:
    """Hide 30 % of each center's genes, and take one step on the squared error there; return the loss."""
    masked, targets, masks = [], [], []
    for graph in graphs:
        mask = torch.rand(graph.x.shape[1]) < 0.3
        x = graph.x.clone()
        x[0, mask] = 0
        masked.append(Data(x=x, edge_index=graph.edge_index))
        targets.append(graph.x[0])
        masks.append(mask)
    batch = Batch.from_data_list(masked)
    optimiser.zero_grad()
    prediction = network(batch.x, batch.edge_index)[1][batch.ptr[:-1]]
    mask = torch.stack(masks)
    loss = (prediction[mask] - torch.stack(targets)[mask]).square().mean()
    loss.backward()
    optimiser.step()
    return loss.detach()


def perturb(
    network: PublishedNetwork, graphs: list[Data], source: int, targets: np.ndarray, levels: np.ndarray
) -> torch.Tensor:
    """Return predictions of `targets` (n_graphs, n_levels, n_targets), one forward pass a spot and level."""
    predictions = torch.empty((len(graphs), len(levels), len(targets)))
    with torch.no_grad():
        for i, graph in enumerate(graphs):
            for j, level in enumerate(levels):
                x = graph.x.clone()
                x[0, targets] = 0
                x[1:, source] = float(level)
                predictions[i, j] = network(x, graph.edge_index)[1][0, targets]
    return predictions
