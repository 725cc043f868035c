"""Embeddings of a section by published methods that are trained on that section alone.

Each is a function of a table of counts with coordinates, and knows no labels.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from functools import cache, partial
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scanpy as sc
import torch
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional
from torch_geometric.nn import SimpleConv
from torch_geometric.utils import softmax
from tqdm import trange

from sagefm.data._counts import log_normalize

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from torch import Tensor

STAGATE_EPOCHS = 500


def peers(adata: AnnData, stagate_epochs: int = STAGATE_EPOCHS) -> dict[str, Callable[[], np.ndarray]]:
    """Return what makes each method's embedding of a section, by name; methods that are not installed are left out."""
    found = {
        "MOFA": ("mofapy2.run.entry_point", partial(mofa, adata)),
        f"STAGATE (own run, {stagate_epochs} epochs)": (
            "skmisc.loess",
            partial(stagate, adata, n_epochs=stagate_epochs),
        ),
        "GraphST (package)": ("GraphST.GraphST", partial(graphst, adata)),
        "CellCharter (package, of 30 PCs)": ("cellcharter", partial(cellcharter, adata)),
        "BANKSY (package, lambda .8)": ("banksy.embed_banksy", partial(banksy, adata)),
    }
    return {name: make for name, (module, make) in found.items() if _is_installed(module, name)}


@cache
def _is_installed(module: str, name: str) -> bool:
    """Import what a method needs, so that its time is without it; say so where that fails."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(f"{name} is left out: {error}\n", flush=True)
        return False
    return True


def mofa(adata: AnnData, *, n_factors: int = 20, n_genes: int = 2000) -> np.ndarray:
    """Return the factors of MOFA on the most variable genes (n_spots, n_factors)."""
    from mofapy2.run.entry_point import entry_point

    u = log_normalize(adata.X, 1e4).astype(np.float64)
    variance = np.asarray(u.multiply(u).mean(axis=0)).ravel() - np.asarray(u.mean(axis=0)).ravel() ** 2
    with contextlib.redirect_stdout(io.StringIO()):
        model = entry_point()
        model.set_data_matrix([[u[:, np.argsort(-variance)[:n_genes]].toarray()]])
        model.set_model_options(factors=n_factors)
        model.set_train_options(iter=200, convergence_mode="fast", seed=0, quiet=True)
        model.build()
        model.run()
    return np.asarray(model.model.nodes["Z"].getExpectation())


class AttentionAutoencoder(torch.nn.Module):
    """The graph attention autoencoder of STAGATE.

    Spots attend to themselves and their neighbors in one encoder layer; the decoder has the transposed weights and the
    same attention.

    Parameters
    ----------
    n_genes, n_hidden, n_latent
        Widths of the input, the attention layer and the embedding.

    References
    ----------
    Dong and Zhang, "Deciphering spatial domains from spatially resolved transcriptomics with an adaptive graph
    attention auto-encoder", Nature Communications 13, 1739 (2022), doi:10.1038/s41467-022-29439-6.
    """

    def __init__(self, n_genes: int, n_hidden: int = 512, n_latent: int = 30) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(n_genes, n_hidden, bias=False)
        self.latent = torch.nn.Linear(n_hidden, n_latent, bias=False)
        self.attention = torch.nn.Linear(n_hidden, 2, bias=False)
        for layer in (self.hidden, self.latent, self.attention):
            torch.nn.init.xavier_normal_(layer.weight)
        self.average = SimpleConv(aggr="sum")

    def forward(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding and reconstruction of values (n_spots, n_genes) on edges from row 0 to row 1."""
        values = self.hidden(x)
        own, neighbor = self.attention(values).unbind(dim=1)
        source, target = edges
        weights = softmax(torch.sigmoid(own[target] + neighbor[source]), target, num_nodes=len(x))
        latent = self.latent(functional.elu(self.average(values, edges, weights)))
        decoded = functional.elu(self.average(latent @ self.latent.weight, edges, weights))
        return latent, decoded @ self.hidden.weight


def stagate(adata: AnnData, *, n_epochs: int = STAGATE_EPOCHS, n_genes: int = 3000, seed: int = 0) -> np.ndarray:
    """Return the embedding of STAGATE, written from its equations (n_spots, 30).

    The radius graph is replaced by each spot's neighbors on its array.
    """
    x = torch.from_numpy(_variable_genes(adata, n_genes))
    graph = _array_graph(adata).tolil()
    graph.setdiag(1)
    target, source = graph.nonzero()
    edges = torch.from_numpy(np.stack([source, target])).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AttentionAutoencoder(x.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    for _ in trange(n_epochs, desc="STAGATE", mininterval=30, leave=False):
        optimizer.zero_grad()
        functional.mse_loss(network(x, edges)[1], x).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    with torch.no_grad():
        return network(x, edges)[0].numpy()


def graphst(adata: AnnData) -> np.ndarray:
    """Return the embedding of the package GraphST with its defaults for Visium (n_spots, n_genes).

    References
    ----------
    Long et al., "Spatially informed clustering, integration, and deconvolution of spatial transcriptomics with
    GraphST", Nature Communications 14, 1155 (2023), doi:10.1038/s41467-023-36796-3.
    """
    from GraphST.GraphST import GraphST

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model = GraphST(_detected(adata), device=torch.device("cpu"), datatype="10X")
        # Products with a dense graph of all pairs of spots are ten times as slow, and the same.
        model.adj = model.adj.to_sparse()
        return np.asarray(model.train().obsm["emb"])


def banksy(adata: AnnData, *, n_components: int = 20, weight: float = 0.8, n_genes: int = 2000) -> np.ndarray:
    """Return principal components of the matrix of the package BANKSY: genes, their neighbors' mean, their gradient.

    References
    ----------
    Singhal et al., "BANKSY unifies cell typing and tissue domain segmentation for scalable spatial omics data
    analysis", Nature Genetics 56, 431 (2024), doi:10.1038/s41588-024-01664-3.
    """
    from banksy.embed_banksy import generate_banksy_matrix
    from banksy.initialize_banksy import initialize_banksy

    table = _detected(adata)
    sc.pp.highly_variable_genes(table, flavor="seurat_v3", n_top_genes=min(n_genes, table.n_vars))
    table = table[:, table.var["highly_variable"]].copy()
    table.X = log_normalize(table.X, 1e4).toarray()
    table.obs[["x", "y"]] = table.obsm["spatial"]
    with contextlib.redirect_stdout(io.StringIO()):
        plots = dict.fromkeys(("plt_edge_hist", "plt_nbr_weights", "plt_theta"), False)
        graphs = initialize_banksy(table, ("x", "y", "spatial"), 18, "scaled_gaussian", 1, **plots)
        matrix = generate_banksy_matrix(table, graphs, [weight], 1, verbose=False)[1]
    values = np.nan_to_num(np.asarray(matrix.X))
    return PCA(min(n_components, *values.shape), random_state=0).fit_transform(values)


def cellcharter(adata: AnnData, *, n_components: int = 30, n_rings: int = 3) -> np.ndarray:
    """Return principal components of spots beside their means over rings of neighbors, by the package CellCharter.

    References
    ----------
    Varrone et al., "CellCharter reveals spatial cell niches associated with tissue remodeling and cell plasticity",
    Nature Genetics 56, 74 (2024), doi:10.1038/s41588-023-01588-4.
    """
    import cellcharter as cc

    u = log_normalize(adata.X, 1e4).astype(np.float64)
    table = _bare(adata)
    table.obsm["pca"] = PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(u)
    table.obsp["spatial_connectivities"] = _array_graph(adata)
    return np.asarray(cc.gr.aggregate_neighbors(table, n_layers=n_rings, use_rep="pca", copy=True))


def _bare(adata: AnnData) -> AnnData:
    """Return counts and coordinates alone: packages read columns of obs by their name."""
    return ad.AnnData(adata.X.copy(), obsm={"spatial": np.asarray(adata.obsm["spatial"], dtype=np.float64)})


def _detected(adata: AnnData, min_spots: int = 3) -> AnnData:
    """Return counts of genes that some spots detect, and coordinates."""
    # Many genes of the same mean, seen in one spot, make the fit of variances to means singular in small sections.
    table = _bare(adata)
    sc.pp.filter_genes(table, min_cells=min_spots)
    return table


def _variable_genes(adata: AnnData, n_genes: int) -> np.ndarray:
    """Return log-normalized values of the most variable genes (n_spots, n_genes)."""
    table = _detected(adata)
    sc.pp.highly_variable_genes(table, flavor="seurat_v3", n_top_genes=min(n_genes, table.n_vars))
    return log_normalize(table.X, 1e4)[:, table.var["highly_variable"].to_numpy()].toarray().astype(np.float32)


def _array_graph(adata: AnnData) -> sparse.csr_matrix:
    """Return each spot's nearest neighbors: 6 on a hexagonal array, 4 on a square one (n_spots, n_spots)."""
    coordinates = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    search = NearestNeighbors().fit(coordinates)
    nearest = np.median(search.kneighbors(n_neighbors=6)[0], axis=0)
    # The fifth neighbor of a spot is as near as the first on a hexagonal array, and 1.41 times as far on a square one.
    return search.kneighbors_graph(n_neighbors=6 if nearest[4] < 1.2 * nearest[0] else 4)
