"""sagefm against the published pipeline, step by step, in one run: time, disk, and equality of results.

The published pipeline is run on `--sample` spots and its time taken per spot; sagefm runs on the whole section.
Measurements alternate, and the ratio is the median over rounds.

python tests/benchmarks/speed.py [--spots 3500] [--sample 64] [--rounds 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import published_pipeline as published
import torch
from embed import N_GENES, seconds, section

import sagefm
from sagefm.data._genes import published_vocabulary
from sagefm.model import Checkpoint
from sagefm.model._embedding import embed_section
from sagefm.model._inputs import read_table
from sagefm.model._loader import SpotBatches
from sagefm.module._config import NetworkConfig
from sagefm.module._network import PublishedNetwork
from sagefm.module._objective import draw_mask, masked_loss


def row(name: str, theirs: list[float], ours: list[float]) -> None:
    """Print the medians, per spot, and the median ratio."""
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    print(
        f"| {name} | {1e3 * statistics.median(theirs):.3f} | {1e3 * statistics.median(ours):.4f} | {ratio:.0f} |",
        flush=True,
    )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=3500)
    parser.add_argument("--sample", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    adata = section(arguments.spots)
    n_spots, n_sample, rounds = adata.n_obs, arguments.sample, range(arguments.rounds)
    network = PublishedNetwork(NetworkConfig.of("published", n_genes=N_GENES)).eval()
    checkpoint = Checkpoint(network=network.pooled().eval(), vocabulary=published_vocabulary(), name="published")
    sagefm.pp.spatial_neighbors(adata)
    (inputs,) = read_table(adata, checkpoint.vocabulary).inputs(checkpoint.config)
    cpu = torch.device("cpu")

    print(f"{n_spots} spots x {N_GENES} genes; milliseconds a spot; the published pipeline on {n_sample} spots")
    print("| step | published | sagefm | ratio |\n|---|---|---|---|")
    whole, forward, ours, with_graph = [], [], [], []
    for _ in rounds:
        with tempfile.TemporaryDirectory() as folder:
            paths: list[Path] = []
            # A section cut to the sample: its neighborhoods reach into the sample alone, at the same cost.
            cut = adata[:n_sample]
            build = seconds(
                lambda cut=cut, paths=paths, folder=folder: paths.extend(
                    published.build(cut.X, cut.obsm["spatial"], Path(folder))
                )
            )
            disk = sum(path.stat().st_size for path in paths) / n_sample
            graphs: list = []
            load = seconds(lambda graphs=graphs, paths=paths: graphs.extend(published.load(paths)))
        forward.append(seconds(partial(published.embed, network, graphs)) / n_sample)
        whole.append(forward[-1] + (build + load) / n_sample)
        ours.append(seconds(partial(sagefm.tl.embed, adata, checkpoint)) / n_spots)
        fresh = adata.copy()
        del fresh.uns["sagefm_neighbors"], fresh.obsp["sagefm_connectivities"], fresh.obsp["sagefm_distances"]
        with_graph.append(seconds(partial(sagefm.tl.embed, fresh, checkpoint)) / n_spots)
    row("embed, whole pipeline / tl.embed, graph stored", whole, ours)
    row("embed, whole pipeline / tl.embed, graph built", whole, with_graph)
    row("embed, forward pass alone / tl.embed, graph stored", forward, ours)
    print(f"disk: {disk / 1e6:.2f} MB a spot / none")

    # The same neighborhoods for the check: those of the sample.
    cut = adata[:n_sample].copy()
    sagefm.tl.embed(cut, checkpoint)
    expected = published.embed(network, graphs).numpy()
    same = np.array([set(a) == set(b) for a, b in zip(_members(cut), _members_of(cut.obsm["spatial"]), strict=True)])
    error = np.abs(cut.obsm["X_sagefm"] - expected)[same].max() / np.abs(expected).max()
    print(f"largest difference of embeddings {error:.1e} relative ({same.sum()} spots without a tie at rank 15)")

    theirs, mine = [], []
    copies = copy.deepcopy(network).train(), copy.deepcopy(network).pooled().train()
    optimisers = [
        torch.optim.Adam(n.parameters(), lr=5e-5, weight_decay=1e-4, fused=i == 1) for i, n in enumerate(copies)
    ]
    batches = SpotBatches([inputs], [np.arange(n_spots)], n_vocabulary=N_GENES, batch_size=n_sample, seed=0)
    generator = torch.Generator().manual_seed(0)

    def step(batch_iterator: object) -> None:
        batch = next(batch_iterator)
        optimisers[1].zero_grad()
        masked_loss(copies[1], batch, draw_mask(batch.counts.shape, (0.3, 0.3), generator)).backward()
        optimisers[1].step()

    iterator = iter(batches)
    step(iterator)
    for _ in rounds:
        theirs.append(seconds(partial(published.train_step, copies[0], optimisers[0], graphs)) / n_sample)
        mine.append(seconds(partial(step, iterator)) / n_sample)
    row(f"train step, batch {n_sample}", theirs, mine)

    theirs, mine = [], []
    symbols = np.array(checkpoint.vocabulary.symbols)
    pairs = pd.DataFrame({"source": symbols[0], "target": symbols[100:120]})
    levels = np.linspace(0, 1, 5)
    for _ in rounds:
        theirs.append(seconds(partial(published.perturb, network, graphs[:4], 0, np.arange(100, 120), levels)) / 4)
        mine.append(
            seconds(partial(sagefm.tl.perturb, adata, checkpoint, pairs=pairs, n_null=0, progress=False)) / n_spots
        )
    row("perturb, 1 source, 5 levels, 20 targets", theirs, mine)
    floor = seconds(partial(embed_section, checkpoint.network, inputs, cpu)) / n_spots
    print(f"embedding without reading and checking the table: {1e3 * floor:.3f} ms a spot")


def _members(adata: object) -> np.ndarray:
    return adata.obsp["sagefm_connectivities"].indices.reshape(adata.n_obs, 14)


def _members_of(coordinates: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(coordinates).query(coordinates, k=15)[1][:, 1:]


if __name__ == "__main__":
    main()
