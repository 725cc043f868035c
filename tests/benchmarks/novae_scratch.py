"""sagefm and novae, both trained from scratch on one section: time, peak memory, and agreement with expert labels.

novae's authors recommend their pretrained models rather than training from scratch: this compares what the methods cost
and learn on a single section, not novae as it is meant to be used. Settings are the defaults of each, on the CPU:

- sagefm: default architecture, all genes of the section; up to 100 epochs, stopped after 10 without a better loss on
  held-out tiles (a tenth of the spots).
- novae: ``spatial_neighbors(technology="visium")``, distances in micrometers, its selection of highly variable genes;
  up to 20 epochs, stopped after 4 without a training loss better by 0.05. Once with its default neighborhoods of 2 hops
  (19 spots on a hexagonal array), once with those of 1 hop (7 spots) that its documentation suggests for Visium.
- Controls without a network: 20 principal components, and their mean over the 15 spots of sagefm's neighborhoods.

Every run has a process of its own. Set-up is the graph and the model; times are of the wall clock (for training, the
CPU's in brackets) and include what a first call costs; peak memory includes libraries and section (before, in
brackets). With `--label-key`, the adjusted Rand index (ARI) of k-means, as many clusters as labels, on the embedding as
it is, and of novae's own domains, of the same number: mean over seeds, lowest and highest. Labels are never trained on.

``pip install novae==1.1.2`` beside sagefm, then:

python tests/benchmarks/novae_scratch.py [dlpfc | synovium | FILE.h5ad] [--label-key label] [--seeds 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

#: Imported before the clock starts. The parent imports none: the peak memory of a child begins at its parent's.
LIBRARIES = {
    "sagefm": ("sagefm.model", "squidpy", "lightning"),
    "novae, 2 hops": ("novae",),
    "novae, 1 hop": ("novae",),
    "20 PCs": ("scanpy",),
    "20 PCs, mean of 15": ("scanpy", "squidpy"),
}

COLUMNS = (
    *("method", "set-up, s", "training, s (CPU)", "epochs", "s an epoch", "embedding, s", "peak MB (before)"),
    *("width", "parameters", "ARI, k-means", "ARI, own domains"),
)


class Clock(dict[str, float]):
    """Wall and CPU time of named steps, in seconds."""

    @contextlib.contextmanager
    def step(self, name: str) -> Any:
        """Time what the block does."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self[name], self[f"{name}_cpu"] = time.perf_counter() - wall, time.process_time() - cpu


def run_sagefm(adata: AnnData, seed: int, clock: Clock) -> dict[str, Any]:
    """Train the default model and embed."""
    import sagefm

    with clock.step("setup"):
        sagefm.model.SAGEFM.setup_anndata(adata)
        model = sagefm.model.SAGEFM(adata, rng=seed)
    with clock.step("train"):
        model.train(rng=seed, accelerator="cpu", progress=False)
    with clock.step("embed"):
        sagefm.tl.embed(adata, model, device="cpu")
    return {"embedding": adata.obsm["X_sagefm"], "network": model.module, "epochs": len(model.history["train_loss"])}


def run_novae(adata: AnnData, seed: int, clock: Clock, *, hops: int, pitch: float, n_domains: int) -> dict[str, Any]:
    """Train a new novae model, embed, and assign domains."""
    import lightning
    import novae
    import numpy as np

    lightning.seed_everything(seed, verbose=False)
    with clock.step("setup"):
        novae.spatial_neighbors(adata, technology="visium", verbose=False)
        novae.settings.scale_to_microns = pitch / float(np.median(adata.obsp["spatial_distances"].data))
        model = novae.Novae(adata, n_hops_local=hops, n_hops_view=hops)
    with clock.step("train"):
        model.fit(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    with clock.step("embed"):
        model.compute_representations(accelerator="cpu")
    epochs = model.trainer.current_epoch
    domains = adata.obs[model.assign_domains(n_domains=n_domains)].astype(str).to_numpy() if n_domains else None
    return {"embedding": adata.obsm["novae_latent"], "network": model, "epochs": epochs, "domains": domains}


def run_control(adata: AnnData, seed: int, clock: Clock, *, smooth: bool) -> dict[str, Any]:
    """Principal components of log-normalised counts, averaged over neighborhoods if `smooth`."""
    import scanpy as sc

    import sagefm

    with clock.step("embed"):
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.pca(adata, n_comps=20, random_state=seed)
        embedding = adata.obsm["X_pca"]
        if smooth:
            sagefm.pp.spatial_neighbors(adata)
            embedding = (embedding + adata.obsp["sagefm_connectivities"] @ embedding) / 15
    return {"embedding": embedding}


def read(section: str) -> AnnData:
    """A bundled section by name, or a file."""
    import anndata as ad

    import sagefm

    return getattr(sagefm.datasets, section)() if section in ("dlpfc", "synovium") else ad.read_h5ad(section)


def peak_memory() -> float:
    """Largest resident memory of this process so far, MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def agreement(labels: np.ndarray, known: np.ndarray, result: dict[str, Any], seed: int) -> dict[str, float]:
    """ARI of k-means clusters and of the method's own domains with the labels of the spots that have one."""
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    n_clusters = len(np.unique(labels[known]))
    found = {"kmeans": KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(result["embedding"])}
    if result.get("domains") is not None:
        found["domains"] = result["domains"]
    return {name: adjusted_rand_score(labels[known], clusters[known]) for name, clusters in found.items()}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one method with one seed in this process."""
    for library in LIBRARIES[arguments.method]:
        importlib.import_module(library)
    import numpy as np
    import torch

    torch.set_num_threads(arguments.threads)
    adata, clock = read(arguments.section), Clock()
    labels = known = None
    if arguments.label_key:
        labels = adata.obs[arguments.label_key].astype(str).to_numpy()
        known = ~np.isin(labels, [*arguments.unlabelled, "nan"])
    before, seed = peak_memory(), arguments.seed
    if arguments.method == "sagefm":
        result = run_sagefm(adata, seed, clock)
    elif arguments.method.startswith("novae"):
        hops, n_domains = int(arguments.method[7]), 0 if labels is None else len(np.unique(labels[known]))
        result = run_novae(adata, seed, clock, hops=hops, pitch=arguments.pitch, n_domains=n_domains)
    else:
        result = run_control(adata, seed, clock, smooth="mean" in arguments.method)
    measured = {**clock, "before": before, "peak": peak_memory(), "width": result["embedding"].shape[1]}
    if "network" in result:
        measured["parameters"] = sum(p.numel() for p in result["network"].parameters())
        measured |= {"epochs": result["epochs"], "epoch": clock["train"] / result["epochs"]}
    return measured if labels is None else {**measured, **agreement(labels, known, result, seed)}


def row(method: str, runs: list[dict[str, float]]) -> str:
    """A row of the table from the runs of a method."""

    def mean(name: str, form: str) -> str:
        values = [run[name] for run in runs if name in run]
        return format(sum(values) / len(values), form) if values else ""

    def spread(name: str) -> str:
        values = [run[name] for run in runs if name in run]
        return f"{mean(name, '.2f')} ({min(values):.2f} to {max(values):.2f})" if values else ""

    training = f"{mean('train', '.1f')} ({mean('train_cpu', '.1f')})" if "train" in runs[0] else ""
    cells = [mean("setup", ".1f"), training, mean("epochs", ".0f"), mean("epoch", ".2f"), mean("embed", ".2f")]
    cells += [f"{mean('peak', '.0f')} ({mean('before', '.0f')})", mean("width", ".0f")]
    return "| " + " | ".join([method, *cells, mean("parameters", ",.0f"), spread("kmeans"), spread("domains")]) + " |"


def main() -> None:
    """Run every method and seed in a process of its own, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="?", default="dlpfc")
    parser.add_argument("--label-key")
    parser.add_argument("--unlabelled", nargs="*", default=["unlabelled", "undetermined"], help="labels not scored")
    parser.add_argument("--pitch", type=float, default=100.0, help="micrometers between neighboring spots")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", choices=LIBRARIES, help="only this method and --seed; print its values as JSON")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.method:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(arguments)))
        return
    versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("sagefm", "novae"))
    print(f"{versions} on {Path(arguments.section).stem}; CPU threads {arguments.threads}, seeds {arguments.seeds}")
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(arguments.threads))
    for method in LIBRARIES:
        runs = []
        for seed in range(arguments.seeds):
            command = [sys.executable, *sys.argv, "--method", method, "--seed", str(seed)]
            done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(row(method, runs), flush=True)


if __name__ == "__main__":
    main()
