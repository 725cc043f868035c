"""One process that works for a long time: is what it holds the same in the end as after the first loops?

    python -m tests.reliability.soak --loops 500 --seed 0

Each loop reads a small section, does some of the work below on it, drawn from the seed, and lets go of it; every 100th
writes a report. After each loop the garbage is collected, what the allocator has free goes back to the system (where
that is glibc: it keeps 100 MB and more, in pieces), and memory, open files, threads and files left behind are counted.
The first 100 loops warm up: imports and caches.

Memory is flat if the upper end of the 95 % interval of its growth is below the smallest result that a loop could keep:
the embedding of 302 spots, 77 kB. The interval is of a line through means of 20 loops, which are nearly independent.
Exit status 1 if memory is not flat, or if files are open or left, or threads run, that there were not before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
from anndata import AnnData
from click.testing import CliRunner
from scipy import stats

import sagefm
from sagefm.cli import main as cli
from sagefm.errors import SagefmError
from sagefm.model import SAGEFM, load_checkpoint

WARM_UP, BLOCK = 100, 20
#: Kinds of work in a loop, and loops between reports.
N_DRAWN, REPORT_EVERY = 3, 100
#: Bytes of growth in a loop that count as flat: the embedding of a section, 302 spots x 64 numbers of 4 bytes.
FLAT = 302 * 64 * 4
GENES = ["CD74", "COL1A1", "FN1", "CD3E", "MS4A1", "CXCL12", "CXCR4", "CCL19", "CCR7"]


@dataclass(frozen=True)
class Sample:
    """What the process holds after a loop.

    Bytes before and after free memory goes back, open files, threads of Python and of all libraries, files left.
    """

    before: int
    held: int
    files: int
    python_threads: int
    threads: int
    left: int


def main() -> None:
    """Work, print what the process held, and exit with 1 if it holds ever more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.loops < WARM_UP + 3 * BLOCK:
        parser.error(f"--loops {arguments.loops}; expected at least {WARM_UP + 3 * BLOCK}")
    with tempfile.TemporaryDirectory() as scratch:
        samples = soak(Path(scratch), arguments.loops, arguments.seed)
    problems = judge(samples)
    sys.stdout.write("\n".join(problems or ["nothing is held or left"]) + "\n")
    sys.exit(bool(problems))


def soak(scratch: Path, n_loops: int, seed: int) -> list[Sample]:
    """Work in a folder, and return what the process held after each loop."""
    inputs, temporary, work = (scratch / name for name in ("inputs", "temporary", "work"))
    for folder in (inputs, temporary):
        folder.mkdir()
    # Where the libraries leave what they leave.
    tempfile.tempdir = str(temporary)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_inputs(inputs)
    samples, start = [], time.perf_counter()
    for loop in range(n_loops):
        rng = np.random.default_rng([seed, loop])
        work.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(inputs, work, rng, report=loop % REPORT_EVERY == 0)
        shutil.rmtree(work)
        samples.append(take_sample(temporary))
        if loop % BLOCK == BLOCK - 1:
            before, held = (
                np.mean([getattr(sample, name) for sample in samples[-BLOCK:]]) for name in ("before", "held")
            )
            last, seconds = samples[-1], time.perf_counter() - start
            sys.stdout.write(
                f"loop {loop + 1:4d}  {seconds:6.0f} s  {held / 1e6:8.1f} MB ({before / 1e6:.1f})  {last.files} files open  "
                f"{last.python_threads} threads, {last.threads} in all  {last.left} files left\n"
            )
            sys.stdout.flush()
    return samples


def make_inputs(folder: Path) -> None:
    """Write a section as file and as store, and with labels."""
    section = sagefm.datasets.synovium()
    section.write_h5ad(folder / "section.h5ad")
    section.write_zarr(folder / "section.zarr")
    sagefm.tl.embed(section)
    section.obs["label"] = pd.qcut(section.obsm["X_sagefm"][:, 0], 3, labels=["low", "middle", "high"])
    section.write_h5ad(folder / "labelled.h5ad")


def run(inputs: Path, work: Path, rng: np.random.Generator, *, report: bool) -> None:
    """Read a section, and do some of the work on it."""
    adata = sagefm.io.read(inputs / ("section.h5ad" if rng.random() < 0.5 else "section.zarr"))
    sagefm.pp.check(adata, verbose=False)
    sagefm.tl.embed(adata)
    for i in rng.choice(len(WORK), N_DRAWN, replace=False):
        WORK[i](adata, inputs, work)
    if report:
        sagefm.report(adata, work / "page.html", genes=GENES, sources=GENES, targets=GENES, progress=False)
    plt.close("all")


# The work


def domains(adata: AnnData, _inputs: Path, _work: Path) -> None:
    sagefm.tl.domains(adata, 4)
    sagefm.pl.domains(adata)


def impute(adata: AnnData, _inputs: Path, _work: Path) -> None:
    sagefm.tl.impute(adata, genes=GENES[:2], progress=False)
    sagefm.pl.imputation(adata, GENES[0])


def impute_to_store(adata: AnnData, _inputs: Path, work: Path) -> None:
    few = adata[:, np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:1000]].copy()
    sagefm.tl.impute(few, None, out=work / "imputed.zarr", progress=False)


def network(adata: AnnData, _inputs: Path, _work: Path) -> None:
    sagefm.tl.regulatory_network(adata, GENES, GENES, fields=True)
    sagefm.pl.network(adata)


def perturb(adata: AnnData, _inputs: Path, _work: Path) -> None:
    sagefm.tl.perturb(adata, sources=["CXCL12"], targets=["CXCR4", "CD74"], progress=False)
    sagefm.pl.perturbation_heatmap(adata)


def annotate(adata: AnnData, inputs: Path, _work: Path) -> None:
    sagefm.tl.annotate(adata, sagefm.io.read(inputs / "labelled.h5ad"), label_key="label")


def train(_adata: AnnData, _inputs: Path, work: Path) -> None:
    adata = sagefm.datasets.simulate(100, n_genes=100, rng=0)
    SAGEFM.setup_anndata(adata)
    model = SAGEFM(adata, hidden=(16, 8))
    model.train(max_epochs=2, batch_size=64, accelerator="cpu", progress=False, state_file=work / "state")
    model.save(work / "model")
    loaded = load_checkpoint(work / "model")
    sagefm.tl.embed(adata, loaded)
    sagefm.pl.history(model)


def write(adata: AnnData, _inputs: Path, work: Path) -> None:
    adata.write_h5ad(work / "copy.h5ad")
    adata.write_zarr(work / "copy.zarr")
    backed = sagefm.datasets.Corpus([work / "copy.zarr"]).read(0)
    sagefm.tl.embed(backed)


def controls(adata: AnnData, _inputs: Path, _work: Path) -> None:
    sagefm.metrics.noise_ceiling(adata.X)
    few = adata[:, np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:300]].copy()
    sagefm.metrics.controls(few, n_components=5)


def command(_adata: AnnData, inputs: Path, work: Path) -> None:
    arguments = ["embed", str(inputs / "section.h5ad"), "-o", str(work / "embedded.h5ad")]
    outcome = CliRunner().invoke(cli, arguments)
    if outcome.exit_code:
        raise RuntimeError(outcome.output)


def refuse(adata: AnnData, _inputs: Path, work: Path) -> None:
    """What is refused is let go of, too."""
    odd = adata.copy()
    odd.X = odd.X * np.float32(0.5)
    (work / "no.h5ad").write_bytes(b"no HDF5")
    refused: list[Callable[[], Any]] = [
        lambda: sagefm.tl.embed(odd),
        lambda: sagefm.tl.impute(adata, genes=["NO GENE"], progress=False),
        lambda: sagefm.io.read(work / "no.h5ad"),
        lambda: load_checkpoint(work / "no model"),
    ]
    for call in refused:
        try:
            call()
        except SagefmError:
            continue
        raise RuntimeError("What was to be refused was not.")


WORK: list[Callable[[AnnData, Path, Path], None]] = [
    domains, impute, impute_to_store, network, perturb, annotate, train, write, controls, command, refuse,
]  # fmt: skip


# The samples


def take_sample(temporary: Path) -> Sample:
    """Return what the process holds when the garbage is collected."""
    gc.collect()
    process = psutil.Process()
    before = _own_memory(process)
    if hasattr(libc := ctypes.CDLL(None) if os.name == "posix" else None, "malloc_trim"):
        libc.malloc_trim(0)
    return Sample(
        before=before,
        held=_own_memory(process),
        files=process.num_fds() if os.name == "posix" else process.num_handles(),
        python_threads=threading.active_count(),
        threads=process.num_threads(),
        left=sum(1 for _ in temporary.rglob("*")),
    )


def _own_memory(process: psutil.Process) -> int:
    """Return the memory of a process without pages of files, which the system takes back when it likes."""
    memory = process.memory_info()
    return memory.rss - getattr(memory, "shared", 0)


def judge(samples: list[Sample]) -> list[str]:
    """Print the growth of memory, and return what is held or left that was not there after the warm-up."""
    first, rest = samples[WARM_UP - 1], samples[WARM_UP:]
    n_blocks = len(rest) // BLOCK
    means = np.array([sample.held for sample in rest[: n_blocks * BLOCK]]).reshape(n_blocks, BLOCK).mean(axis=1)
    line = stats.linregress(BLOCK * np.arange(n_blocks), means)
    margin = line.stderr * stats.t.ppf(0.975, n_blocks - 2)
    low, high = line.slope - margin, line.slope + margin
    sys.stdout.write(
        f"memory held after the warm-up: {means.min() / 1e6:.1f} to {means.max() / 1e6:.1f} MB (means of {BLOCK} loops), "
        f"growth {line.slope / 1e3:.1f} kB a loop (95 %: {low / 1e3:.1f} to {high / 1e3:.1f}), "
        f"allowed {FLAT / 1e3:.1f}\n"
    )
    problems = [f"memory grows by up to {high / 1e3:.1f} kB a loop"] if high >= FLAT else []
    # The most of the last block: what a loop has in its middle is no growth.
    for name in ("files", "python_threads", "threads", "left"):
        before, after = getattr(first, name), min(getattr(sample, name) for sample in samples[-BLOCK:])
        if after > before:
            problems.append(f"{name}: {before} after the warm-up, at least {after} in the last loops")
    return problems


if __name__ == "__main__":
    main()
