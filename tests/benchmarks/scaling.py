"""Embedding sections of growing size from disk, or finding their domains: time, peak memory, exponent of time.

Each size is a backed h5ad of `spots` x 14,558 genes (21 % non-zero), worked on in a process of its own: graph built,
counts read in blocks. The exponent is the slope of log time against log spots.

python tests/benchmarks/scaling.py FOLDER [--spots 3500 35000 500000] [--architecture published] [--threads 2]
    [--domains]

FOLDER keeps the sections (25 kB a spot) for another run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import torch
from embed import N_GENES, checkpoint

import sagefm
from sagefm.data._genes import published_vocabulary

#: Spots written at a time.
_BLOCK = 10_000


def write_section(path: Path, n_spots: int, density: float = 0.21) -> None:
    """Write counts and coordinates of a section, a block of spots at a time."""
    rng = np.random.default_rng(0)
    row_nnz = int(N_GENES * density)
    side = int(np.ceil(np.sqrt(n_spots)))
    row, column = np.divmod(np.arange(n_spots), side)
    frame = ad.AnnData(shape=(n_spots, N_GENES))
    frame.var_names = list(published_vocabulary().symbols)
    frame.obsm["spatial"] = np.column_stack([column * 100.0 + 50.0 * (row % 2), row * 86.6])
    frame.write_h5ad(path)
    # A gene every few columns, at random: distinct and increasing within a row without a sort of each.
    step = N_GENES // row_nnz
    first = np.arange(row_nnz) * N_GENES // row_nnz
    with h5py.File(path, "r+") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_spots, N_GENES]})
        group["indptr"] = np.arange(n_spots + 1, dtype=np.int64) * row_nnz
        for name, dtype in (("indices", np.int32), ("data", np.float32)):
            group.create_dataset(name, (n_spots * row_nnz,), dtype, chunks=(1 << 18,))
        for start in range(0, n_spots, _BLOCK):
            n = min(_BLOCK, n_spots - start)
            at = slice(start * row_nnz, (start + n) * row_nnz)
            group["indices"][at] = (
                (first + rng.integers(0, step, (n, row_nnz), dtype=np.int32)).astype(np.int32).ravel()
            )
            group["data"][at] = 1.0 + rng.poisson(0.5, n * row_nnz).astype(np.float32)


def measure(path: Path, architecture: str | None) -> dict[str, float]:
    """Embed a backed section, or without an architecture find its domains; return seconds, and peak memory in GB."""
    model = None if architecture is None else checkpoint(architecture)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    adata = ad.read_h5ad(path, backed="r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*where a Visium section has at most.*")
        if model is None:
            sagefm.tl.domains(adata)
        else:
            sagefm.tl.embed(adata, model)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "before": before}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spots", type=int, nargs="+", default=[3500, 35_000, 500_000])
    parser.add_argument("--architecture", choices=["published", "default"], default="published")
    parser.add_argument("--domains", action="store_true", help="sagefm.tl.domains in place of sagefm.tl.embed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        torch.set_num_threads(arguments.threads)
        architecture = None if arguments.domains else arguments.architecture
        sys.stdout.write(json.dumps(measure(arguments.one, architecture)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    verb = "tl.domains" if arguments.domains else f"tl.embed, {arguments.architecture},"
    print(f"{verb} of a backed h5ad, {N_GENES} genes, {arguments.threads} threads")
    print("| spots | seconds | ms a spot | peak memory, GB | before, GB |\n|---|---|---|---|---|", flush=True)
    times = []
    for n_spots in arguments.spots:
        path = arguments.folder / f"section_{n_spots}.h5ad"
        if not path.exists():
            write_section(path.with_suffix(".part"), n_spots)
            path.with_suffix(".part").rename(path)
        command = [sys.executable, __file__, str(arguments.folder), "--one", str(path)]
        options = ["--architecture", arguments.architecture, "--threads", str(arguments.threads)]
        options += ["--domains"] * arguments.domains
        run = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        found = json.loads(run.stdout)
        times.append(found["seconds"])
        cells = f"{found['seconds']:.1f} | {1e3 * found['seconds'] / n_spots:.3f} | {found['peak']:.2f}"
        print(f"| {n_spots:,} | {cells} | {found['before']:.2f} |", flush=True)
    if len(times) > 1:
        print(f"exponent {np.polyfit(np.log(arguments.spots), np.log(times), 1)[0]:.3f}")


if __name__ == "__main__":
    main()
