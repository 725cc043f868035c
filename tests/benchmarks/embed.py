"""Embedding a section against the one dense product X W1^T that it contains: time and peak memory.

The section holds the genes of the model among others, in an order of its own, as tables do. With --cpu: CPU time and one
thread, for a machine that others use. With --crossover: a block of counts made dense and multiplied, against its sparse
product, by the share that is stored.

python tests/benchmarks/embed.py [--spots 3500] [--repeats 5] [--threads 2] [--cpu] [--crossover]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

import sagefm
from sagefm.checkpoint._checkpoint import save_checkpoint
from sagefm.data._blocks import to_memory
from sagefm.data._genes import published_vocabulary
from sagefm.data._reader import read_table
from sagefm.inference import _products as embedding
from sagefm.inference._embed import embed_section
from sagefm.model import Checkpoint, load_checkpoint
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig

N_GENES = 14_558
clock = time.perf_counter


def section(n_spots: int, density: float = 0.21) -> AnnData:
    """A section of the published vocabulary at the density of a Visium section."""
    rng = np.random.default_rng(0)
    # Spots differ in depth, as they do on tissue.
    row_nnz = (N_GENES * density * rng.uniform(0.5, 1.5, n_spots)).astype(np.int64)
    indices = np.concatenate([np.sort(rng.choice(N_GENES, n, replace=False)) for n in row_nnz])
    data = (1 + rng.poisson(0.5, indices.size)).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum(row_nnz)])
    counts = sparse.csr_matrix((data, indices, indptr), shape=(n_spots, N_GENES))
    side = int(np.ceil(np.sqrt(n_spots)))
    row, column = np.divmod(np.arange(n_spots), side)
    adata = AnnData(counts)
    adata.var_names = list(published_vocabulary().symbols)
    adata.obsm["spatial"] = np.column_stack([column * 100.0 + 50.0 * (row % 2), row * 86.6])
    return adata


def shuffled(adata: AnnData, n_others: int = 968) -> AnnData:
    """The section as a table has it: its genes and others that no model knows, in random order."""
    rng = np.random.default_rng(1)
    others = sparse.random(adata.n_obs, n_others, 0.1, format="csr", dtype=np.float32, rng=1)
    others.data[:] = 1
    order = rng.permutation(adata.n_vars + n_others)
    counts = sparse.hstack([adata.X, others], format="csr")[:, order]
    counts.sort_indices()
    table = AnnData(counts, obsm={"spatial": adata.obsm["spatial"]})
    table.var_names = np.array([*adata.var_names, *(f"OTHER{i}" for i in range(n_others))])[order]
    return table


def checkpoint(architecture: str) -> Checkpoint:
    """A checkpoint with random parameters, through a file as a user has it."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        network = make_network(NetworkConfig.of(architecture, n_genes=N_GENES))
        made = Checkpoint(network=network, vocabulary=published_vocabulary(), name=architecture)
        save_checkpoint(made, f"{folder}/model")
        return load_checkpoint(f"{folder}/model")


def seconds(function: Callable[[], object]) -> float:
    """Time of one call, by `clock`."""
    start = clock()
    function()
    return clock() - start


def use_cpu_time() -> None:
    """Measure CPU time of one thread: what others run on the machine changes that least."""
    global clock
    clock = time.process_time
    torch.set_num_threads(1)


def crossover(repeats: int) -> None:
    """Print how long the product of a block takes, dense and sparse."""
    print("| width | stored | dense, ms | sparse, ms |\n|---|---|---|---|")
    for width in (512, 1024):
        weight = torch.rand(width, N_GENES)
        for share in (0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 0.2):
            block = sparse.random(512, N_GENES, share, format="csr", dtype=np.float32, rng=0)
            times = []
            for below in (0.0, 1.1):
                embedding.SPARSE_BELOW = below
                call = partial(embedding.project, block, [weight])
                call()
                times.append(1e3 * statistics.median(seconds(call) for _ in range(repeats)))
            print(f"| {width} | {share:.1%} | {times[0]:.0f} | {times[1]:.0f} |", flush=True)


def compare(adata: AnnData, model: Checkpoint, repeats: int) -> tuple[list[dict[str, float]], float]:
    """Return seconds of the product (floor), the embedding and the verb, in turn, and peak memory in MB of the latter."""
    (inputs,) = read_table(adata, model.vocabulary).inputs(model.config, table_order=True)
    calls: dict[str, Callable[[], object]] = {
        "embed": partial(embed_section, model.network, inputs, torch.device("cpu")),
        "verb": partial(sagefm.tl.embed, adata, model),
    }
    for call in calls.values():
        call()
    # Before the floor: dense X would raise the peak.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    weights = model.network.first_layer()
    weight = (weights[0] if weights[0] is weights[1] else torch.cat(weights[:2])).detach()
    calls["floor"] = partial(torch.mm, torch.from_numpy(to_memory(inputs.values).toarray()), weight.T)
    # In turn, so that all meet the same machine; the first round warms up.
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats + 1)][1:]
    return rounds, peak


def main() -> None:
    """Print one table; times are medians, in turn, of as many repeats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=3500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--crossover", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.cpu:
        use_cpu_time()
    if arguments.crossover:
        crossover(arguments.repeats)
        return
    adata = shuffled(section(arguments.spots))
    sagefm.pp.spatial_neighbors(adata)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{adata.n_obs} spots x {adata.n_vars} genes, {N_GENES} of the model, {adata.X.nnz / np.prod(adata.shape):.0%} non-zero, float32"
    )
    print("| architecture | product alone, s | embedding, s | ratio | tl.embed with checks, s | ratio |")
    print("|---|---|---|---|---|---|")
    for architecture in ("published", "default"):
        model = checkpoint(architecture)
        rounds, peak = compare(adata, model, arguments.repeats)
        floor, embed, verb = (statistics.median(r[name] for r in rounds) for name in ("floor", "embed", "verb"))
        embed_ratio, verb_ratio = (
            statistics.median(r[name] / r["floor"] for r in rounds) for name in ("embed", "verb")
        )
        print(f"| {architecture} | {floor:.3f} | {embed:.3f} | {embed_ratio:.2f} | {verb:.3f} | {verb_ratio:.2f} |")
        if architecture == "published":
            memory = f"peak memory {peak:.0f} MB, of which {before:.0f} MB before the model (libraries and the section)"
    print(memory)


if __name__ == "__main__":
    main()
