"""How far embeddings move when ties between equally near spots are broken otherwise than by the rule.

A neighborhood of 15 spots cuts the third ring of a hexagonal array: several spots tie for the last places. sagefm takes
them by a rule; a jitter of the coordinates takes them at random. A jitter of 0.001 of the pitch decides between ties
and differences of whole pixels, one of 0.01 also between the near ties of an array that is not quite regular.

Columns: spots whose 14th and 15th nearest tie exactly; spots whose set of 14 changes; members kept; movement of the
embedding, median and 95 % quantile, in median distances to the section's mean; mean cosine, centered; adjusted Rand
index of the clusterings of both, and in brackets of the same two clustering seeds on the embedding of the rule alone.

python tests/benchmarks/ties.py [FILE.h5ad or FOLDER ...] [--graphs 5] [--epochs 10] [--jitters 0.001 0.01]
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from anndata import AnnData
from embed import checkpoint
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import paired_cosine_distances

import sagefm
from sagefm.model import Checkpoint


def members(adata: AnnData, key: str) -> np.ndarray:
    """Neighbors of each spot (n_spots, 14), in the order of the table."""
    graph = adata.obsp[f"{key}_connectivities"]
    return np.sort(graph.indices.reshape(adata.n_obs, -1), axis=1)


def tied(adata: AnnData) -> float:
    """Share of spots of which the first spot left out is exactly as near as the last one taken."""
    sagefm.pp.spatial_neighbors(adata, n_spots=16, key_added="wider")
    distances = np.sort(adata.obsp["wider_distances"].data.reshape(adata.n_obs, -1), axis=1)
    return float(np.isclose(distances[:, -1], distances[:, -2], rtol=1e-9, atol=0).mean())


def shake(adata: AnnData, size: float, seed: int) -> str:
    """Store the graph of coordinates moved by normal noise, `size` pitches wide; return its key."""
    pitch = np.median(adata.obsp["sagefm_distances"].data.reshape(adata.n_obs, -1).min(axis=1))
    key = f"jitter_{size}_{seed}"
    noise = np.random.default_rng(seed).normal(scale=size * pitch, size=(adata.n_obs, 2))
    adata.obsm[key] = np.asarray(adata.obsm["spatial"]) + noise
    sagefm.pp.spatial_neighbors(adata, spatial_key=key, key_added=key)
    return key


def trained(adata: AnnData, architecture: str, max_epochs: int) -> sagefm.model.SAGEFM:
    """A model of this section, trained on the graph of the rule."""
    sagefm.model.SAGEFM.setup_anndata(adata)
    model = sagefm.model.SAGEFM(adata, architecture=architecture)
    model.train(max_epochs=max_epochs, progress=False)
    return model


def embedding(adata: AnnData, model: sagefm.model.SAGEFM | Checkpoint, key: str | None = None) -> np.ndarray:
    """Embedding on a stored graph, or on that of the rule (n_spots, n_latent)."""
    sagefm.tl.embed(adata, model, neighbors_key=key)
    return adata.obsm["X_sagefm"]


def clusterings(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Leiden communities at resolution 1, and k-means clusters with k = 7."""
    table = AnnData(values)
    sc.pp.neighbors(table, use_rep="X", random_state=seed)
    sc.tl.leiden(table, flavor="igraph", n_iterations=2, random_state=seed)
    means = KMeans(n_clusters=7, n_init=10, random_state=seed).fit(values)
    return table.obs["leiden"].to_numpy(), means.labels_


def row(adata: AnnData, model: sagefm.model.SAGEFM | Checkpoint, keys: list[str]) -> str:
    """Cells of the table: what changes between the graph of the rule and those of `keys`."""
    rule, kept, movement, cosines, agreement = members(adata, "sagefm"), [], [], [], []
    before = embedding(adata, model)
    centered = before - before.mean(axis=0)
    scale = np.median(np.linalg.norm(centered, axis=1))
    reference = clusterings(before, 0)
    for seed, key in enumerate(keys, start=1):
        kept.append([np.isin(a, b).mean() for a, b in zip(rule, members(adata, key), strict=True)])
        after = embedding(adata, model, key)
        movement.append(np.linalg.norm(after - before, axis=1) / scale)
        cosines.append(1 - paired_cosine_distances(centered, after - after.mean(axis=0)))
        # The control has the same seeds, so that the difference is the graph's.
        pairs = [clusterings(values, seed) for values in (after, before)]
        agreement.append([[adjusted_rand_score(a, b) for a, b in zip(reference, p, strict=True)] for p in pairs])
    (leiden, means), (leiden_control, means_control) = np.mean(agreement, axis=0)
    return (
        f"{np.less(kept, 1).mean():.0%} | {np.mean(kept):.3f} | {np.median(movement):.3f} | "
        f"{np.quantile(movement, 0.95):.3f} | {np.mean(cosines):.4f} | {leiden:.2f} ({leiden_control:.2f}) | "
        f"{means:.2f} ({means_control:.2f})"
    )


def main() -> None:
    """Print a row for each section, model and size of jitter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--graphs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jitters", nargs="*", type=float, default=[0.001, 0.01], help="in pitches of the array")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    files = [file for path in arguments.paths for file in (sorted(path.glob("*.h5ad")) if path.is_dir() else [path])]
    sections = {path.stem: ad.read_h5ad(path) for path in files}
    sections = sections or {"dlpfc": sagefm.datasets.dlpfc(), "synovium": sagefm.datasets.synovium()}
    print("| section | exact ties | model | jitter | changed | kept | moved | 95 % | cosine | Leiden | k-means |")
    print("|" + "---|" * 11, flush=True)
    for section, adata in sections.items():
        models = {f"{name}, trained": trained(adata, name, arguments.epochs) for name in ("default", "published")}
        models["published, random"] = checkpoint("published")
        share = tied(adata)
        for size in arguments.jitters:
            keys = [shake(adata, size, seed) for seed in range(1, arguments.graphs + 1)]
            for label, model in models.items():
                print(f"| {section} | {share:.0%} | {label} | {size} | {row(adata, model, keys)} |", flush=True)


if __name__ == "__main__":
    main()
