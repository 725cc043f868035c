"""sagefm against the published pipeline, step by step, in one run: time, memory, disk, and equality of results.

The published pipeline is run on `--sample` spots and its time taken per spot; sagefm runs on the whole section.
Measurements alternate, and the ratio is the median over rounds. The floor is the matrix products that the step cannot
do without, alone, on dense float32 matrices that are there already; its share is floor / sagefm. sagefm embeds a table
with its genes among others in random order; the published pipeline is given them as it needs them. A second table has
what a user waits for, beside its bound. With --cpu: CPU time and one thread, for a machine that others use.

python tests/benchmarks/speed.py [--spots 3500] [--sample 64] [--rounds 3] [--threads 2] [--cpu]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import published_pipeline as published
import torch
from embed import N_GENES, compare, seconds, section, shuffled, use_cpu_time
from embed import checkpoint as random_checkpoint
from impute import GENES, best, cut
from process import first_times

import sagefm
from sagefm.data._genes import published_vocabulary
from sagefm.data._reader import read_table
from sagefm.model import Checkpoint
from sagefm.module._config import NetworkConfig
from sagefm.module._gcn import PublishedNetwork
from sagefm.module._losses import masked_loss
from sagefm.training._loader import SpotBatches
from sagefm.training._sections import TableSections

#: A perturbation reads 20 genes at 5 levels of one source.
TARGETS, LEVELS = np.arange(100, 120), np.linspace(0, 1, 5)


def row(name: str, theirs: list[float], ours: list[float], floor: list[float]) -> None:
    """Print the medians, per spot, and the median ratios."""
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    share = statistics.median(a / b for a, b in zip(floor, ours, strict=True))
    cells = " | ".join(f"{1e3 * statistics.median(times):.3f}" for times in (theirs, ours, floor))
    print(f"| {name} | {cells} | {ratio:.0f} | {share:.2f} |", flush=True)


def products(n_spots: int, *shapes: tuple[int, int], backward: bool = False) -> Callable[[], None]:
    """Return the products of `n_spots` rows with weights (n_in, n_out), and those of their gradients."""
    parts = []
    for n_in, n_out in shapes:
        x, w, g = torch.rand(n_spots, n_in), torch.rand(n_in, n_out), torch.rand(n_spots, n_out)
        parts.append((x, w, g, torch.empty_like(g), torch.empty_like(w), torch.empty_like(x)))

    def run() -> None:
        for i, (x, w, g, out, grad, back) in enumerate(parts):
            torch.mm(x, w, out=out)
            if backward:
                torch.mm(x.T, g, out=grad)
                if i:
                    torch.mm(g, w.T, out=back)

    run()
    return run


def stored_subgraphs(adata: Any, n_spots: int) -> tuple[list, float, float]:
    """Build, store and load subgraphs as the published pipeline does; return them, seconds, and bytes a spot."""
    # A section cut to the sample: its neighborhoods reach into the sample alone, at the same cost.
    cut = adata[:n_spots]
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Path] = []
        time = seconds(lambda: paths.extend(published.build(cut.X, cut.obsm["spatial"], Path(folder))))
        disk = sum(path.stat().st_size for path in paths) / n_spots
        graphs: list = []
        time += seconds(lambda: graphs.extend(published.load(paths)))
    return graphs, time, disk


def embedding(adata: Any, network: PublishedNetwork, checkpoint: Checkpoint, n_sample: int, n_rounds: int) -> None:
    """Print the rows on embedding."""
    whole, forward, stored, built, floors = [], [], [], [], []
    floor = products(adata.n_obs, *pairwise((N_GENES, *network.config.hidden)))
    table = shuffled(adata)
    fresh = table.copy()
    sagefm.tl.embed(table, checkpoint)
    for _ in range(n_rounds):
        graphs, time, disk = stored_subgraphs(adata, n_sample)
        forward.append(seconds(partial(published.embed, network, graphs)) / n_sample)
        whole.append(forward[-1] + time / n_sample)
        stored.append(seconds(partial(sagefm.tl.embed, table, checkpoint)) / adata.n_obs)
        for store in (fresh.uns, fresh.obsp):
            for key in [key for key in store if key.startswith("sagefm_")]:
                del store[key]
        built.append(seconds(partial(sagefm.tl.embed, fresh, checkpoint)) / adata.n_obs)
        floors.append(seconds(floor) / adata.n_obs)
    row("embed: whole pipeline / tl.embed, graph stored", whole, stored, floors)
    row("embed: whole pipeline / tl.embed, graph built", whole, built, floors)
    row("embed: forward pass alone / tl.embed, graph stored", forward, stored, floors)
    row("embed: forward pass alone / the products alone", forward, floors, floors)

    # The same neighborhoods for the check: those of the sample.
    cut = adata[:n_sample].copy()
    sagefm.tl.embed(cut, checkpoint)
    expected = published.embed(network, graphs).numpy()
    same = np.array([set(a) == set(b) for a, b in zip(_members(cut), _members_of(cut.obsm["spatial"]), strict=True)])
    error = np.abs(cut.obsm["X_sagefm"] - expected)[same].max() / np.abs(expected).max()
    print(f"| bytes on disk per spot | {disk:,.0f} | 0 | 0 | | |")
    print(f"| largest difference of embeddings, relative ({same.sum()} spots without a tie) | | {error:.1e} | | | |")


def training(adata: Any, network: PublishedNetwork, inputs: Any, batch_size: int, n_rounds: int) -> None:
    """Print the row on a training step."""
    graphs, _, _ = stored_subgraphs(adata, batch_size)
    copies = copy.deepcopy(network).train(), copy.deepcopy(network).pooled().train()
    optimisers = [
        torch.optim.Adam(n.parameters(), lr=5e-5, weight_decay=1e-4, fused=i == 1) for i, n in enumerate(copies)
    ]
    sections = TableSections([inputs.section], network.config)
    spots = [np.arange(adata.n_obs)]
    batches = SpotBatches(sections, spots, n_vocabulary=N_GENES, batch_size=batch_size, seed=0)
    widths = network.config.hidden
    small = list(pairwise(widths))
    floor = products(batch_size, (N_GENES, widths[0]), *small, (widths[-1], N_GENES), backward=True)

    def step(iterator: Iterator[Any]) -> None:
        batch = next(iterator)
        optimisers[1].zero_grad()
        masked_loss(copies[1], batch, batch.draw_mask((0.3, 0.3))).backward()
        optimisers[1].step()

    iterator = iter(batches)
    step(iterator)
    theirs, ours, floors = [], [], []
    for _ in range(n_rounds):
        theirs.append(seconds(partial(published.train_step, copies[0], optimisers[0], graphs)) / batch_size)
        # Several steps: the next batch is made while one is computed.
        ours.append(seconds(lambda: [step(iterator) for _ in range(4)]) / batch_size / 4)
        floors.append(seconds(floor) / batch_size)
    iterator.close()
    row(f"train step, batch {batch_size}", theirs, ours, floors)


def perturbation(adata: Any, network: PublishedNetwork, checkpoint: Checkpoint, n_rounds: int) -> None:
    """Print the row on a perturbation."""
    graphs, _, _ = stored_subgraphs(adata, 16)
    symbols = np.array(checkpoint.vocabulary.symbols)
    pairs = pd.DataFrame({"source": symbols[0], "target": symbols[TARGETS]})
    widths = network.config.hidden
    first = products(adata.n_obs, (N_GENES, widths[0]))
    small = products(adata.n_obs * len(LEVELS), *pairwise(widths))
    theirs, ours, floors = [], [], []
    call = partial(sagefm.tl.perturb, adata, checkpoint, pairs=pairs, progress=False)
    call()
    for _ in range(n_rounds):
        theirs.append(seconds(partial(published.perturb, network, graphs[:4], 0, TARGETS, LEVELS)) / 4)
        ours.append(seconds(call) / adata.n_obs)
        floors.append((seconds(first) + seconds(small)) / adata.n_obs)
    row("perturb: 1 source, 5 levels, 20 targets", theirs, ours, floors)


def waits(adata: Any, n_rounds: int) -> None:
    """Print what a user waits for: `tl.embed` against the one dense product, first calls in a process, imputation."""
    print("\n| path | seconds | CPU seconds | bound | what it is | times the bound |\n|---|---|---|---|---|---|")
    table = shuffled(adata)
    sagefm.pp.spatial_neighbors(table)
    for architecture in ("published", "default"):
        rounds, _ = compare(table, random_checkpoint(architecture), n_rounds)
        verb, floor = (statistics.median(times[name] for times in rounds) for name in ("verb", "floor"))
        ratio = statistics.median(times["verb"] / times["floor"] for times in rounds)
        print(f"| tl.embed, {architecture}, as above | {verb:.2f} | | {floor:.2f} | one dense product | {ratio:.2f} |")
    wide = cut(None, "", 901, 36_601)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "section.h5ad"
        wide.write_h5ad(path)
        (_, (_, bound)), *firsts = first_times(path, n_rounds).items()
    for name, (wall, cpu) in firsts:
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {bound:.1f} (CPU) | import anndata, torch | {cpu / bound:.2f} |")
    wall, cpu = best(wide, n_rounds, genes=GENES[:1])
    print(f"| tl.impute of a gene, {wide.n_obs} x {wide.n_vars:,} | {wall:.2f} | {cpu:.2f} | | | |", flush=True)


def _members(adata: Any) -> np.ndarray:
    return adata.obsp["sagefm_connectivities"].indices.reshape(adata.n_obs, 14)


def _members_of(coordinates: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(coordinates).query(coordinates, k=15)[1][:, 1:]


def _peak() -> float:
    """Return the largest memory this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=3500)
    parser.add_argument("--sample", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--memory", choices=["published", "sagefm"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.cpu:
        use_cpu_time()
    torch.manual_seed(0)
    adata = section(arguments.spots)
    network = PublishedNetwork(NetworkConfig.of("published", n_genes=N_GENES)).eval()
    checkpoint = Checkpoint(network=network.pooled().eval(), vocabulary=published_vocabulary(), name="published")
    sagefm.pp.spatial_neighbors(adata)
    if arguments.memory is not None:
        table = shuffled(adata)
        sagefm.pp.spatial_neighbors(table)
        # Linux: the peak is that of what follows.
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak()
        if arguments.memory == "published":
            published.embed(network, stored_subgraphs(adata, arguments.sample)[0])
        else:
            sagefm.tl.embed(table, checkpoint)
        sys.stdout.write(str(_peak() - before))
        return
    (inputs,) = read_table(adata, checkpoint.vocabulary).inputs(checkpoint.config)
    print(f"{adata.n_obs} spots x {N_GENES} genes; ms per spot; the published pipeline on {arguments.sample} spots")
    print("| step | published | sagefm | floor | published / sagefm | floor / sagefm |\n|---|---|---|---|---|---|")
    embedding(adata, network, checkpoint, arguments.sample, arguments.rounds)
    for batch_size in (64, 256):
        training(adata, network, inputs, batch_size, arguments.rounds)
    perturbation(adata, network, checkpoint, arguments.rounds)
    grown = []
    for which in ("published", "sagefm"):
        command = [sys.executable, __file__, "--memory", which, "--spots", str(arguments.spots)]
        command += ["--sample", str(arguments.sample)]
        grown.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"| memory to embed ({arguments.sample} spots / all), MB | {grown[0]:.0f} | {grown[1]:.0f} | | | |")
    waits(adata, arguments.rounds)


if __name__ == "__main__":
    main()
