"""Recovery of hidden genes: networks and controls on the same spots, folds and null."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from _evaluation import _models
from _evaluation._predictors import Profile, with_neighbors
from _evaluation._sections import Training
from sagefm.checkpoint._checkpoint import Checkpoint
from sagefm.data._genes import assign_folds
from sagefm.metrics import Recovery, fit_components, noise_ceiling, pooled_d2
from sagefm.metrics._controls import add_recovery, split_spots
from sagefm.metrics._predictors import Components, Model, Neighborhood, SectionCounts, fit_factor_model
from sagefm.metrics._rows import PredictedRows

DETECTED = 0.1
RIDGES = (1.0, 10.0, 100.0)
COLUMNS = ("r", "r_ceiling", "pooled_d2", "raw_r", "q_residual", "q_raw")


def evaluate_recovery(
    adata: AnnData, checkpoint: Checkpoint, published: Checkpoint | None, training: Training | None, n_hidden=(1, 2, 3)
) -> pd.DataFrame:
    """Return a row a predictor and number of hidden folds, of medians over detected genes."""
    reader = _models.reader_of(adata, checkpoint)
    match = reader.match
    counts = sparse.csr_matrix(adata.X[:, match.columns], dtype=np.float64)
    folds = assign_folds(match.genes, len(checkpoint.vocabulary), _models.N_FOLDS, 0)
    section = SectionCounts(counts, adata.obsp["sagefm_connectivities"])
    ceiling = noise_ceiling(counts)["ceiling"]
    # The report is of these alone; the others are still shown, and hidden.
    genes = np.asarray((counts > 0).mean(axis=0)).ravel() >= DETECTED
    sums: dict[int, dict[str, Recovery]] = {n: {} for n in n_hidden}
    for train, spots in split_spots(section.n_spots):
        predictors = _controls(section, train, training, match.genes)
        for n in n_hidden:
            add_recovery(sums[n], section, spots, predictors, folds, n, genes)
    every = np.arange(section.n_spots)
    for n in n_hidden:
        for name, variant in _models.variants(checkpoint, published).items():
            predicted = PredictedRows(variant.impute(adata, n), adata.shape)
            add_recovery(sums[n], section, every, {name: Model(predicted, every, match.columns)}, folds, n, genes)
    rows = []
    for n, found in sums.items():
        tables = {name: recovery.result() for name, recovery in found.items()}
        rows += [{"n_hidden": n, "predictor": name} | _summary(table, ceiling) for name, table in tables.items()]
    return pd.DataFrame(rows)


def _controls(section: SectionCounts, train: np.ndarray, training: Training | None, genes: np.ndarray) -> dict:
    found = {"neighborhood": Neighborhood(section), "factors": fit_factor_model(section, train, n_components=20)}
    if training:
        found["profile"] = Profile(training.profile[genes])
    loadings = {"section": fit_components([section.counts[train]])}
    if training:
        loadings["corpus"] = training.loadings[:, genes]
    for source, values in loadings.items():
        for ridge in RIDGES:
            found[f"PCA of {source}, ridge {ridge:.0f}"] = alone = Components(values, ridge)
            if ridge in (RIDGES[0], RIDGES[-1]):
                found[f"PCA of {source} and around, ridge {ridge:.0f}"] = with_neighbors(alone, section, train)
    return found


def _summary(table: pd.DataFrame, ceiling: pd.Series) -> dict[str, float]:
    kept = (table["detected"] >= DETECTED) & table["deviance"].notna()
    genes, bound = table[kept], ceiling[kept].median()
    r = genes["r"].median()
    return {
        "r": r,
        "r_ceiling": r / bound if bound > 0 else np.nan,
        "pooled_d2": pooled_d2(table, DETECTED),
        "raw_r": genes["raw_r"].median(),
        "q_residual": (genes["qval"] < 0.05).mean(),
        "q_raw": (genes["raw_qval"] < 0.05).mean(),
        "n_genes": len(genes),
    }


def mean_by_donor(sections: pd.DataFrame) -> pd.DataFrame:
    """Return means over donors of the means over their sections, by rows of the report."""
    keys = [key for key in ("panel", "n_hidden", "predictor") if key in sections]
    values = [*COLUMNS]
    by_donor = sections.groupby([*keys, "donor"], sort=False)[values].mean()
    return by_donor.groupby(level=keys, sort=False).mean().reset_index()
