"""Batch effects: how sections of several donors mix in an embedding, and what is left of the tissue.

Columns: iLISI (0: a spot's neighbors are of its own section, 1: of all alike) and kBET (share of spots whose neighbors
are not told from a draw from all sections) say how sections mix; cLISI (1: neighbors have the same label), and ARI and
NMI of Leiden clusters at the best of ten resolutions with an expert's labels, say what is left. All are those of
scib-metrics, on spots with a label. Sections whose tissue differs should not mix wholly: kBET near 1 is no aim.

python tests/benchmarks/mixing.py FILE.h5ad FILE.h5ad [...] [--model default]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata as ad
import harmonypy
import numpy as np
import pandas as pd
import scanpy as sc
from _evaluation._sections import labels_of
from scib_metrics import clisi_knn, ilisi_knn, kbet, nmi_ari_cluster_labels_leiden
from scib_metrics.nearest_neighbors import pynndescent

import sagefm

COLUMNS = ("iLISI", "kBET", "cLISI", "ARI", "NMI")


def harmony(adata: ad.AnnData, basis: str) -> np.ndarray:
    """Return coordinates with the differences between libraries taken out (n_spots, n_latent)."""
    return harmonypy.run_harmony(adata.obsm[basis], adata.obs, "library", verbose=False).Z_corr


def centered_components(adata: ad.AnnData) -> np.ndarray:
    """Return principal components of deviations from each section's mean, the fair control (n_spots, 30)."""
    values = adata.X.toarray()
    for library in adata.obs["library"].unique():
        rows = (adata.obs["library"] == library).to_numpy()
        values[rows] -= values[rows].mean(axis=0)
    return sc.pp.pca(values, n_comps=30)


def measure(embedding: np.ndarray, library: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return the columns of the table."""
    neighbors = pynndescent(np.asarray(embedding, dtype=np.float32), 90, random_state=0)
    agreement = nmi_ari_cluster_labels_leiden(neighbors.subset_neighbors(15), label, optimize_resolution=True)
    found = (
        ilisi_knn(neighbors, library),
        kbet(neighbors.subset_neighbors(50), library)[0],
        clisi_knn(neighbors, label),
        agreement["ari"],
        agreement["nmi"],
    )
    return dict(zip(COLUMNS, map(float, found), strict=True))


def read(path: Path, model: str) -> ad.AnnData:
    """Return a section with labels and embedding; an expert's "undetermined" is no label."""
    adata = ad.read_h5ad(path)
    adata.obs["label"] = labels_of(adata).to_numpy()
    sagefm.tl.embed(adata, model)
    return adata


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="default")
    arguments = parser.parse_args()
    sections = {path.stem: read(path, arguments.model) for path in arguments.files}
    adata = ad.concat(sections, label="library", index_unique="-")
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=30)
    adata.obsm["X_pca_centered"] = centered_components(adata)
    is_known = adata.obs["label"].notna().to_numpy()
    library, label = (pd.factorize(adata.obs[column][is_known])[0] for column in ("library", "label"))
    print(f"{is_known.sum():,} spots of {len(sections)} sections, {label.max() + 1} labels\n")
    print("| " + " | ".join(("representation", *COLUMNS)) + " |\n|---" + "|---" * len(COLUMNS) + "|")
    for key in ("X_pca", "X_pca_centered", "X_sagefm"):
        for name, embedding in ((key, adata.obsm[key]), (f"{key} + Harmony", harmony(adata, key))):
            found = measure(embedding[is_known], library, label)
            print(f"| {name} | " + " | ".join(f"{found[column]:.2f}" for column in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
