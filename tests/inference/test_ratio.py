"""A guard of speed that holds on any machine: a ratio of CPU times within one process, never seconds."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch
from scipy import sparse

import sagefm
from sagefm.data._genes import published_vocabulary
from sagefm.model import Checkpoint
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig

#: The ratio is 1.3; what sorts all counts, or multiplies each spot once for each of its neighbors, is above.
BOUND = 3


def cpu_seconds(function):
    start = time.process_time()
    function()
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:All spots have nearly the same sum:UserWarning")
def test_embedding_takes_little_more_than_its_one_product():
    vocabulary = published_vocabulary()
    n_spots, n_genes = 1500, len(vocabulary)
    rng = np.random.default_rng(0)
    counts = sparse.random(n_spots, n_genes, 0.2, format="csr", dtype=np.float32, rng=rng)
    counts.data = 1 + rng.poisson(rng.gamma(1, 1, counts.nnz)).astype(np.float32)
    adata = sagefm.datasets.simulate(n_spots, n_genes=n_genes)
    adata.X = counts
    adata = adata[:, rng.permutation(n_genes)].copy()
    network = make_network(NetworkConfig.of("published", n_genes=n_genes), seed=0).eval()
    checkpoint = Checkpoint(network=network, vocabulary=vocabulary, name="published")
    dense = torch.rand(n_spots, n_genes)
    weight = network.first_layer()[0].detach()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sagefm.tl.embed(adata, checkpoint)
        torch.mm(dense, weight.T)
        ratios = [
            cpu_seconds(lambda: sagefm.tl.embed(adata, checkpoint)) / cpu_seconds(lambda: torch.mm(dense, weight.T))
            for _ in range(5)
        ]
    finally:
        torch.set_num_threads(n_threads)
    assert statistics.median(ratios) < BOUND, ratios
