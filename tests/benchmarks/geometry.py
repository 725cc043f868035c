"""Whether an embedding is better for clusters and neighbors in the geometry of what it decodes to.

A network decodes z to F z + f, so that distances of what is decoded are those of z (F^T F)^(1/2); weighted by the typical
abundance p of genes, those of z (F^T diag(p) F)^(1/2), the Poisson information. Both are fixed linear maps, one for all
sections, as is their control, a random one. Scores are of labelled sections that a model was not trained on, panels left
out: adjusted Rand index of a mixture, of k-means and of Leiden (the best of ten resolutions), and the balanced accuracy of
the 15 nearest spots, of other tenths of the section. Beside them stand principal components and the smoothed components of
`tl.domains`. Prints means over donors, and differences from z as it is.

python tests/benchmarks/geometry.py MODEL_DIR [MODEL_DIR ...] --sections FOLDER
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from _evaluation import _domains
from _evaluation._models import embed
from _evaluation._sections import donor, labels_of, list_sections, read_section
from _evaluation._structure import has_classes
from anndata import AnnData
from scipy.linalg import sqrtm
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import sagefm
from sagefm.checkpoint._resolve import resolve_model
from sagefm.model import Checkpoint

AS_IT_IS = "z as it is"
RESOLUTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6)
N_SEEDS = 3
CONTROLS = ("PCA of the spot", "PCA of the mean of 15 spots", _domains.OURS)


def maps(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return the linear maps of an embedding (n_latent, n_latent), by name."""
    loadings = checkpoint.network.fc_gene.weight.detach().double().numpy()
    profile = checkpoint.network.prior.double().numpy()
    n_latent = loadings.shape[1]
    return {
        AS_IT_IS: np.eye(n_latent),
        "z (F^T F)^(1/2)": sqrtm(loadings.T @ loadings).real,
        "z (F^T diag(p) F)^(1/2)": sqrtm(loadings.T @ (loadings * profile[:, None])).real,
        "z times a random matrix": np.random.default_rng(0).normal(size=(n_latent, n_latent)),
    }


def score(embedding: np.ndarray, labels: pd.Series) -> dict[str, float]:
    """Return how well clusters and nearest spots agree with an expert's labels."""
    known = labels.notna().to_numpy()
    truth = labels[known].astype(str).to_numpy()
    n_classes = len(set(truth))
    spread = np.sqrt(embedding.var(axis=0).mean())
    values = (embedding - embedding.mean(axis=0)) / spread
    kmeans = [
        adjusted_rand_score(truth, KMeans(n_classes, n_init=10, random_state=seed).fit_predict(values)[known])
        for seed in range(N_SEEDS)
    ]
    nearest = cross_val_predict(
        KNeighborsClassifier(15), values[known], truth, cv=KFold(10, shuffle=True, random_state=0)
    )
    return {
        "mixture": sagefm.metrics.clustering(values, labels, n_seeds=N_SEEDS)["ari"].mean(),
        "k-means": float(np.mean(kmeans)),
        "Leiden": max(adjusted_rand_score(truth, clusters[known]) for clusters in leiden(values)),
        "15 nearest": balanced_accuracy_score(truth, nearest),
    }


def leiden(values: np.ndarray) -> list[np.ndarray]:
    """Return the clusters of each resolution."""
    table = AnnData(obs=pd.DataFrame(index=pd.RangeIndex(len(values)).astype(str)), obsm={"values": values})
    sc.pp.neighbors(table, use_rep="values")
    found = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(table, resolution=resolution, flavor="igraph", n_iterations=2, directed=False)
        found.append(table.obs["leiden"].to_numpy())
    return found


def unseen(checkpoint: Checkpoint, folder: Path) -> dict[str, AnnData]:
    """Return the labelled sections of a folder that a model was not trained on."""
    names = {n: path for n, path in list_sections(folder).items() if n not in checkpoint.training["sections"]}
    sections = {name: read_section(path) for name, path in names.items() if "genes" not in name}
    return {name: adata for name, adata in sections.items() if has_classes(adata)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR")
    parser.add_argument("--sections", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for model in arguments.models:
        checkpoint = resolve_model(model)
        for name, adata in unseen(checkpoint, arguments.sections).items():
            z = embed(adata, checkpoint).astype(np.float64)
            embeddings = {title: z @ matrix for title, matrix in maps(checkpoint).items()}
            makers = _domains.embedders(adata)
            embeddings |= {title: makers[title]() for title in CONTROLS}
            for title, values in embeddings.items():
                rows.append({"donor": donor(name), "embedding": title, **score(values, labels_of(adata))})
    donors = pd.DataFrame(rows).groupby(["embedding", "donor"], sort=False).mean()
    by_embedding = donors.groupby("embedding", sort=False)
    print(f"{len(rows) // by_embedding.ngroups} sections of {donors.loc[AS_IT_IS].shape[0]} donors\n")
    print(by_embedding.mean().round(3).to_markdown(), "\n\nDifferences from z as it is, and their standard errors\n")
    differences = donors.sub(donors.loc[AS_IT_IS], level="donor").groupby("embedding", sort=False)
    print(differences.mean().round(3).to_markdown(), "\n")
    print(differences.sem().round(3).to_markdown())


if __name__ == "__main__":
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    main()
