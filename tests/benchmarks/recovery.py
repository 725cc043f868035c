"""Recovery of hidden genes at held-out spots: a model trained on one section, beside the controls.

A model is trained on nine tenths of a section, in square tiles, and imputes the others; principal components are
fitted on the same spots. Medians over genes detected in at least 10 % of the spots; the null model (section profile x
size factor) is 0 by construction. Without files: the bundled sections.

python tests/benchmarks/recovery.py [FILE.h5ad ...] [--seeds 3] [--epochs 100]
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

import sagefm


def evaluate(adata: AnnData, architecture: str, seed: int, max_epochs: int) -> dict[str, pd.DataFrame]:
    """Recovery tables of a newly trained model and of the controls at the spots it was not trained on."""
    sagefm.model.SAGEFM.setup_anndata(adata)
    model = sagefm.model.SAGEFM(adata, architecture=architecture, rng=seed)
    model.train(max_epochs=max_epochs, rng=seed, progress=False)
    sagefm.tl.impute(adata, model, progress=False)
    spots = {"train": model.train_indices, "test": np.sort(model.validation_indices)}
    # A small penalty is best by correlation and a large one by deviance: both are shown.
    light = sagefm.metrics.controls(adata, ridge=1.0, **spots)
    tables = sagefm.metrics.controls(adata, ridge=100.0, predicted="sagefm_imputed", **spots)
    return {
        "mean of 14 neighbors": tables["neighborhood"],
        "20 PCs, ridge 1": light["pca"],
        "20 PCs, ridge 100": tables["pca"],
        f"sagefm, {architecture}": tables["predicted"],
    }


def main() -> None:
    """Print a row for each section and predictor: mean over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--architectures", nargs="*", default=["default"])
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    sections = {path.stem: ad.read_h5ad(path) for path in arguments.files}
    sections = sections or {"dlpfc": sagefm.datasets.dlpfc(), "synovium": sagefm.datasets.synovium()}
    print("| section | predictor | r | D2 |\n|---|---|---|---|")
    for name, adata in sections.items():
        detected = np.asarray((adata.X > 0).mean(axis=0)).ravel() >= 0.1
        rows: dict[str, list[tuple[float, float]]] = {}
        for architecture in arguments.architectures:
            for seed in range(arguments.seeds):
                for predictor, table in evaluate(adata, architecture, seed, arguments.epochs).items():
                    medians = table[detected][["r", "d2"]].median()
                    rows.setdefault(predictor, []).append((medians["r"], medians["d2"]))
        for predictor, values in rows.items():
            r, d2 = np.mean(values, axis=0)
            print(f"| {name} | {predictor} | {r:.3f} | {d2:+.4f} |", flush=True)


if __name__ == "__main__":
    main()
