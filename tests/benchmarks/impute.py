"""How long `sagefm.tl.impute` takes, and how much memory: one table; run it with another version's `src` for a second.

Sections are cut from real ones, or simulated where none are given. Each row is the best of `--rounds` calls after a first
one, imports aside; CPU seconds are those of all threads. The memory row is a process of its own.

python tests/benchmarks/impute.py [--sections FOLDER] [--rounds 3] [--memory-spots 100000]
PYTHONPATH=OTHER/src python tests/benchmarks/impute.py ...
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from anndata import AnnData
from embed import N_GENES, shuffled
from scipy import sparse

import sagefm

WIDE, LARGE = "thyroid_visium_aitd_PX0994", "dlpfc_Br8325_ant_artifact"
GENES = ["CD74", "COL1A1"]
SAMPLE = 4000


def cut(folder: Path | None, name: str, n_spots: int, n_genes: int) -> AnnData:
    """Return the first spots of a section, or a simulated one of this size, where genes no model knows fill up."""
    if folder is None:
        n_known = min(n_genes, N_GENES)
        return shuffled(sagefm.datasets.simulate(n_spots, n_genes=n_known), n_others=n_genes - n_known)
    adata = ad.read_h5ad(folder / f"{name}.h5ad")[:n_spots].copy()
    adata.X = sparse.csr_matrix(adata.X)
    return adata


def repeated(n_spots: int, n_genes: int) -> AnnData:
    """Return a square array of spots drawn from a simulated section."""
    base = sagefm.datasets.simulate(SAMPLE, n_genes=n_genes)
    rows = np.random.default_rng(0).integers(0, SAMPLE, n_spots)
    side = int(np.ceil(np.sqrt(n_spots)))
    places = 100.0 * np.stack(np.divmod(np.arange(n_spots), side), axis=1)
    adata = AnnData(sparse.csr_matrix(base.X)[rows], var=base.var, obsm={"spatial": places})
    adata.obs_names = [f"spot{i}" for i in range(n_spots)]
    return adata


def best(adata: AnnData, rounds: int, **arguments: Any) -> tuple[float, float]:
    """Return the least wall and CPU seconds of a call."""
    times = []
    for _ in range(rounds + 1):
        table = adata.copy()
        wall, cpu = time.perf_counter(), time.process_time()
        sagefm.tl.impute(table, progress=False, **arguments)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (min(values) for values in zip(*times[1:], strict=True))
    return wall, cpu


def peak() -> float:
    """Return the largest memory this process has had, in GB (Linux)."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-spots", type=int, default=100_000)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    if arguments.memory:
        adata = repeated(arguments.memory_spots, 2000)
        sagefm.pp.spatial_neighbors(adata)
        before = peak()
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            sagefm.tl.impute(adata, out=Path(folder) / "imputed.zarr", progress=False)
        sys.stdout.write(f"{time.perf_counter() - start:.0f} {before:.2f} {peak():.2f}")
        return
    wide, large = cut(arguments.sections, WIDE, 901, 36_601), cut(arguments.sections, LARGE, 3529, 5000)
    rows: dict[str, tuple[AnnData, dict[str, Any]]] = {
        "two genes": (wide, {"genes": GENES}),
        "all genes of the model": (wide, {}),
        "all genes of the larger section": (large, {}),
    }
    if sagefm.tl.impute.__doc__ and "`model=None`" in sagefm.tl.impute.__doc__:
        rows["all genes, model=None"] = (wide, {"model": None})
    print("| | spots x genes | seconds | CPU seconds |\n|---|---|---|---|")
    for name, (adata, options) in rows.items():
        wall, cpu = best(adata, arguments.rounds, **options)
        print(f"| {name} | {adata.n_obs:,} x {adata.n_vars:,} | {wall:.2f} | {cpu:.2f} |", flush=True)
    if arguments.memory_spots:
        command = [sys.executable, __file__, "--memory", "--memory-spots", str(arguments.memory_spots)]
        seconds, before, after = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        size = f"{arguments.memory_spots:,} x 2,000"
        print(f"| to zarr: {before} GB before, {after} GB at most | {size} | {seconds} | |")


if __name__ == "__main__":
    main()
