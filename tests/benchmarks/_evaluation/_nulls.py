"""Cases in which nothing is to be found: tissue turned under the predictions, and genes drawn anew."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from sagefm.data._turns import overlapping_turns
from sagefm.metrics._recovery import correlation, moments
from sagefm.metrics._spectra import Spectra


def turned(residuals: np.ndarray, predicted: np.ndarray, coordinates: np.ndarray) -> dict[str, float]:
    """Return the shares of genes with small p and q after the turns and mirror images that overlap: median, and most.

    A mirror image may bring a tissue onto itself, as the layers of a cortex: what is found then is there. `residuals` and `predicted` are Pearson residuals from the null model (n_spots, n_genes).
    """
    shares = []
    for spots, moved in overlapping_turns(coordinates):
        sums = moments(residuals[moved], predicted[spots])
        spectra = Spectra(residuals.shape[1])
        spectra.begin(coordinates[spots])
        spectra.add(slice(0, len(spots)), residuals[moved], predicted[spots], np.arange(residuals.shape[1]))
        tested = np.ones(residuals.shape[1], dtype=bool)
        row = {}
        for kind, variance in (("", spectra.variance()), ("_independent", None)):
            r, p, q = correlation(sums, len(spots), tested, variance)
            row |= {f"p05{kind}": np.mean(p < 0.05), f"q05{kind}": np.mean(q < 0.05), "turned_r": np.nanmedian(r)}
        shares.append(row)
    table = pd.DataFrame(shares)
    most = table[["p05", "q05"]].max().add_suffix("_most")
    return {**table.median(), **most}


def draw_anew(counts: sparse.csr_matrix, columns: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return counts in which the molecules of some genes lie on spots drawn in proportion to depth."""
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    found = sparse.lil_matrix(counts)
    for column in columns:
        total = int(counts[:, [column]].sum())
        found[:, [column]] = rng.multinomial(total, depth / depth.sum())[:, None]
    return sparse.csr_matrix(found, dtype=counts.dtype)
