"""A protein modality joined to the embedding: simulated sections of which RNA tells two domains, protein their halves.

A row a representation: adjusted Rand index of Leiden clusters, at the first resolution with as many as there are, with
the four groups; mean, lowest and highest over the sections. MOFA and the principal components of RNA are the controls.

python tests/benchmarks/multi_omics.py [--sections 5]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.metrics import adjusted_rand_score

import sagefm
from sagefm.model import SAGEFM

N_PROTEINS = 24


def simulate(seed: int, *, n_spots: int = 400) -> md.MuData:
    """Return RNA of two domains, proteins of the halves of each domain, and the four in ``obs["truth"]``."""
    rng = np.random.default_rng(seed)
    rna = sagefm.datasets.simulate(n_spots, n_genes=300, n_domains=2, rng=seed)
    xy, half = rna.obsm["spatial"], np.zeros(n_spots, dtype=int)
    for domain in rna.obs["domain"].cat.categories:
        rows = np.flatnonzero(rna.obs["domain"] == domain)
        centered = xy[rows] - xy[rows].mean(axis=0)
        half[rows] = centered @ np.linalg.svd(centered, full_matrices=False)[2][0] > 0
    rate = np.tile(rng.gamma(2, 10, N_PROTEINS), (2, 1))
    rate[1] *= np.exp(rng.normal(0, 0.4, N_PROTEINS))
    depth = np.exp(rng.normal(0, 0.3, (n_spots, 1)))
    counts = rng.poisson(rate[half] * depth).astype(np.float32)
    protein = ad.AnnData(counts, obs=pd.DataFrame(index=rna.obs_names))
    protein.var_names = [f"protein{i}" for i in range(N_PROTEINS)]
    rna.obs["truth"] = (rna.obs["domain"].astype(str) + np.array([" a", " b"])[half]).to_numpy()
    return md.MuData({"rna": rna, "prot": protein})


def agreement(truth: pd.Series, embedding: np.ndarray) -> float:
    """Return the adjusted Rand index of Leiden clusters, at the first resolution with as many as there are."""
    table = ad.AnnData(obs=pd.DataFrame(index=truth.index), obsm={"X": np.asarray(embedding, dtype=np.float32)})
    sc.pp.neighbors(table, use_rep="X")
    found = []
    for resolution in np.geomspace(0.02, 2, 25):
        sc.tl.leiden(table, resolution=resolution, flavor="igraph", n_iterations=2, directed=False)
        labels = table.obs["leiden"]
        found.append((abs(labels.nunique() - truth.nunique()), len(found), adjusted_rand_score(truth, labels)))
    return min(found)[2]


def train(mdata: md.MuData) -> SAGEFM:
    """Return a small model of the RNA."""
    SAGEFM.setup_mudata(mdata, mod="rna")
    model = SAGEFM(mdata, mod="rna", hidden=(32, 16))
    model.train(max_epochs=10, accelerator="cpu", batch_size=64, lr=3e-3)
    return model


def fuse(*blocks: np.ndarray) -> np.ndarray:
    """Return coordinates of several modalities side by side, each centered and of the same total variance."""
    centered = [block - block.mean(axis=0) for block in blocks]
    return np.hstack([block / np.linalg.norm(block) for block in centered])


def mofa(rna: ad.AnnData, protein: ad.AnnData) -> np.ndarray:
    """Return 15 factors of MOFA of log-normalised RNA and transformed proteins."""
    import muon as mu

    mdata = md.MuData({"rna": rna.copy(), "prot": protein.copy()})
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = f"{folder}/mofa.hdf5"
        # Of the same total variance, as the fused blocks are: without it, MOFA finds RNA's domains alone.
        mu.tl.mofa(mdata, n_factors=15, use_var=None, scale_views=True, seed=0, outfile=file, quiet=True)
    return mdata.obsm["X_mofa"]


def log_normalized(rna: ad.AnnData) -> ad.AnnData:
    """Return RNA as the controls read it, with principal components."""
    rna = rna.copy()
    sc.pp.normalize_total(rna)
    sc.pp.log1p(rna)
    sc.pp.pca(rna)
    return rna


def main() -> None:
    """Print the table."""
    import muon as mu

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=5)
    rows = []
    for seed in range(parser.parse_args().sections):
        mdata = simulate(seed)
        rna, protein = mdata["rna"], mdata["prot"]
        sagefm.tl.embed(mdata, train(mdata), mod="rna")
        mu.prot.pp.clr(protein)
        sc.pp.pca(protein)
        log = log_normalized(rna)
        latent, proteins = rna.obsm["X_sagefm"], protein.obsm["X_pca"]
        found = {
            "embedding of RNA": latent,
            "principal components of protein": proteins,
            "embedding and protein, fused": fuse(latent, proteins),
            "principal components of RNA and protein, fused": fuse(log.obsm["X_pca"], proteins),
            "MOFA, 15 factors": mofa(log, protein),
        }
        rows.append({name: agreement(rna.obs["truth"], x) for name, x in found.items()})
    table = pd.DataFrame(rows)
    for name in table:
        print(f"| {name} | {table[name].mean():.2f} ({table[name].min():.2f} to {table[name].max():.2f}) |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
