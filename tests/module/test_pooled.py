"""The closed form against PyG, at the published sizes on a real section; the default network against SAGEConv."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch as GraphBatch
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

import sagefm
from sagefm.data._counts import get_counts
from sagefm.data._genes import match_genes, published_vocabulary
from sagefm.data._graph import averaging, get_neighbors
from sagefm.data._input import make_input
from sagefm.data._section import Section
from sagefm.data._table import TableKeys
from sagefm.inference._embed import embed_section
from sagefm.module._center import CenterNeighborhoodNetwork
from sagefm.module._config import PUBLISHED_HIDDEN, NetworkConfig
from sagefm.module._gcn import PublishedNetwork
from sagefm.module._losses import masked_loss, masked_mse
from sagefm.module._reading import Batch, draw_mask

N_SUBGRAPHS = 6


@pytest.fixture(scope="module")
def section() -> Section:
    """A real section on the published vocabulary of 14,558 genes, those it lacks as columns of zeros."""
    adata = sagefm.datasets.synovium()
    vocabulary = published_vocabulary()
    match = match_genes(adata, vocabulary)
    counts = get_counts(adata)[:, match.columns]
    counts.sort_indices()
    return Section(
        counts, match.genes, get_neighbors(adata, TableKeys()), np.arange(adata.n_obs), adata.obsm["spatial"]
    )


@pytest.fixture(scope="module")
def dense(section: Section) -> torch.Tensor:
    """log1p counts on the whole vocabulary (n_spots, 14558)."""
    full = torch.zeros((section.n_spots, len(published_vocabulary())))
    full[:, section.genes] = torch.log1p(torch.from_numpy(section.counts.toarray()))
    return full


def make_networks(n_genes: int) -> tuple[PublishedNetwork, torch.nn.Module]:
    torch.manual_seed(0)
    network = PublishedNetwork(NetworkConfig("published", n_genes, PUBLISHED_HIDDEN, "mse"))
    for parameter in network.parameters():
        if parameter.ndim == 1:  # biases are zero at first and would hide a mistake
            torch.nn.init.normal_(parameter, std=0.05)
    return network, network.pooled()


def subgraphs(dense: torch.Tensor, section: Section, spots: np.ndarray, mask: torch.Tensor | None = None) -> GraphBatch:
    """Complete 15-spot graphs, the center first; the center's hidden genes are zero."""
    edges = torch.combinations(torch.arange(15)).T
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    graphs = []
    for i, spot in enumerate(spots):
        neighbors = section.neighbors.indices[section.neighbors.indptr[spot] : section.neighbors.indptr[spot + 1]]
        x = dense[np.append(spot, neighbors)].clone()
        if mask is not None:
            x[0, mask[i]] = 0
        graphs.append(Data(x=x, edge_index=edges))
    return GraphBatch.from_data_list(graphs)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_parameter_names_and_count_are_published() -> None:
    network, pooled = make_networks(14_558)
    names = [f"conv{i}.{kind}" for i in range(1, 6) for kind in ("bias", "lin.weight")] + [
        "fc_gene.weight",
        "fc_gene.bias",
    ]
    assert set(network.state_dict()) == set(pooled.state_dict()) == set(names)
    assert sum(p.numel() for p in pooled.parameters()) == 31_405_790
    assert all(p is q for p, q in zip(network.parameters(), pooled.parameters(), strict=True)) or {
        id(p) for p in network.parameters()
    } == {id(p) for p in pooled.parameters()}


def test_output_equals_pyg_on_complete_subgraphs(section: Section, dense: torch.Tensor) -> None:
    network, _ = make_networks(14_558)
    pooled = network.pooled()
    spots = np.linspace(0, section.n_spots - 1, N_SUBGRAPHS).astype(int)
    graphs = subgraphs(dense, section, spots)
    with torch.no_grad():
        z, prediction = network(graphs.x, graphs.edge_index)
        average = torch.from_numpy(averaging(section.neighbors, with_center=True)[spots].toarray()) @ dense
        z_pooled, prediction_pooled = pooled(average)
    assert relative(z_pooled, z[::15]) < 1e-5
    assert relative(prediction_pooled, prediction[::15]) < 1e-5
    # Every row of a subgraph is the same after the first layer: the center is not told apart.
    assert relative(z[1::15], z[::15]) < 1e-5


def test_whole_section_equals_pyg(section: Section, dense: torch.Tensor) -> None:
    network, _ = make_networks(14_558)
    embedding = embed_section(network.pooled(), make_input(section, "log1p"), torch.device("cpu"), block_rows=100)
    spots = np.arange(3, section.n_spots, 50)
    graphs = subgraphs(dense, section, spots)
    with torch.no_grad():
        z, _ = network(graphs.x, graphs.edge_index)
    assert relative(torch.from_numpy(embedding[spots]), z[::15]) < 1e-5


def test_gradients_and_optimiser_steps_equal_pyg(section: Section, dense: torch.Tensor) -> None:
    network, _ = make_networks(14_558)
    pooled = copy.deepcopy(network).pooled()
    inputs = make_input(section, "log1p")
    # The vocabulary's missing genes are zero columns for both.
    optimisers = [torch.optim.Adam(n.parameters(), lr=5e-5, weight_decay=1e-4) for n in (network, pooled)]
    # Float64: Adam divides by the gradient's size, so that rounding in a gradient near zero becomes a full step.
    network.double(), pooled.double()
    for step in range(3):
        spots = np.sort(np.random.default_rng(step).choice(section.n_spots, N_SUBGRAPHS, replace=False))
        mask = torch.zeros((N_SUBGRAPHS, 14_558), dtype=torch.bool)
        mask[:, section.genes] = draw_mask(
            torch.Size((N_SUBGRAPHS, section.n_genes)), (0.3, 0.3), torch.Generator().manual_seed(step)
        )
        graphs = subgraphs(dense, section, spots, mask)
        for optimiser in optimisers:
            optimiser.zero_grad()
        _, prediction = network(graphs.x.double(), graphs.edge_index)
        loss = masked_mse(prediction[::15], dense[spots].double(), mask)
        loss.backward()

        batch = Batch(
            genes=torch.from_numpy(section.genes),
            counts=torch.from_numpy(inputs.dense_counts(spots)).double(),
            neighborhood=torch.from_numpy(inputs.dense_neighborhood(spots)).double(),
            center_weight=torch.from_numpy(inputs.center_weight[spots, None]).double(),
            gene_totals=torch.from_numpy(section.gene_totals).double()[None],
        )
        pooled_loss = masked_loss(pooled, batch, mask[:, section.genes])
        pooled_loss.backward()
        assert abs(loss.item() - pooled_loss.item()) < 1e-5 * loss.item()
        pairs = dict(pooled.named_parameters())
        for name, parameter in network.named_parameters():
            assert relative(pairs[name].grad, parameter.grad) < 1e-5, name
        for optimiser in optimisers:
            optimiser.step()
    pairs = dict(pooled.named_parameters())
    for name, parameter in network.named_parameters():
        assert relative(pairs[name], parameter) < 1e-5, name


def test_gradients_equal_pyg_in_single_precision(section: Section, dense: torch.Tensor) -> None:
    network, _ = make_networks(14_558)
    pooled = copy.deepcopy(network).pooled()
    spots = np.arange(0, section.n_spots, 60)
    average = torch.from_numpy(averaging(section.neighbors, with_center=True)[spots].toarray()) @ dense
    graphs = subgraphs(dense, section, spots)
    for output in (network(graphs.x, graphs.edge_index)[1][::15], pooled(average)[1]):
        output.square().mean().backward()
    pairs = dict(pooled.named_parameters())
    for name, parameter in network.named_parameters():
        assert relative(pairs[name].grad, parameter.grad) < 1e-5, name


def test_center_and_neighborhood_layer_equals_sageconv() -> None:
    torch.manual_seed(0)
    n_spots, n_genes = 40, 30
    network = CenterNeighborhoodNetwork(NetworkConfig("center_neighborhood", n_genes, (16, 8), "poisson"))
    conv = SAGEConv(n_genes, 16)
    conv.load_state_dict(network.conv.state_dict())
    x = torch.randn(n_spots, n_genes)
    # PyG's edges point from neighbor to center.
    center, neighbor = torch.repeat_interleave(torch.arange(n_spots), 5), torch.randint(0, n_spots, (n_spots * 5,))
    expected = conv(x, torch.stack([neighbor, center]))
    w_center, w_neighborhood, bias = network.first_layer()
    found = x @ w_center.T + x[neighbor].view(n_spots, 5, -1).mean(dim=1) @ w_neighborhood.T + bias
    torch.testing.assert_close(found, expected)
