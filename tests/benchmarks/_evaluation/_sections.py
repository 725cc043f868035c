"""Sections of a folder, their donors, and what the training sections among them give to the controls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

import sagefm
from sagefm.data._labels import read_labels

SKIPPED = ("mouse_", "xenium_")
#: Spots of a training section that the corpus' components are fitted on, and genes below which a section is a panel.
MAX_SPOTS = 300
MIN_GENES = 2000
_DONORS = (
    (r"(her2st_[A-Z])\d", r"\1"),
    (r"ra_synovium_st_(RA\d+)_", r"\1"),
    (r"fetal_heart_st_\d+_(CN\d+)_", r"heart_\1"),
    (r"fetal_heart_st_asp2019_", "heart_asp2019"),
    (r"dlpfc_15167[34]", "Br8100"),
    (r"dlpfc_1515(07|09|10)", "Br5292"),
    (r"dlpfc_Br8325", "Br8325"),
    (r"breast_st_stahl_", "stahl"),
)
_TISSUES = (("her2st", "her2st"), ("fetal_heart", "heart"), ("ra_synovium", "synovium"), ("dlpfc", "dlpfc"))


def donor(name: str) -> str:
    """Return the donor of a section; its own name where none is known."""
    for pattern, found in _DONORS:
        match = re.match(pattern, name)
        if match:
            return match.expand(found)
    return name


def tissue(name: str) -> str:
    """Return the group of sections that share an annotation."""
    return next((found for start, found in _TISSUES if name.startswith(start)), name)


def list_sections(folder: Path) -> dict[str, Path]:
    """Return the human spot sections of a folder, by name."""
    return {path.stem: path for path in sorted(folder.glob("*.h5ad")) if not path.stem.startswith(SKIPPED)}


def read_section(path: Path) -> AnnData:
    """Return a section with CSR counts and the graph of the package."""
    adata = ad.read_h5ad(path)
    adata.X = sparse.csr_matrix(adata.X)
    sagefm.pp.spatial_neighbors(adata)
    return adata


def labels_of(adata: AnnData) -> pd.Series | None:
    """Return an expert's labels; spots of several regions, and of none, are missing."""
    if "label" not in adata.obs:
        return None
    labels = read_labels(adata.obs["label"], sagefm._constants.UNLABELLED)
    return labels.mask(labels.astype(str).str.contains(";"))


def cut_panel(adata: AnnData, n_genes: int) -> AnnData:
    """Return the section with its most detected genes, in their order."""
    detected = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    return adata[:, np.sort(np.argsort(-detected, kind="stable")[:n_genes])].copy()


@dataclass(frozen=True)
class Training:
    """What controls may learn from the training sections, on the genes of a vocabulary.

    Attributes
    ----------
    loadings
        Components of the deviations from each section's mean (n_components, n_genes).
    profile
        Mean profile over the sections that measured a gene (n_genes,); 0 where none did.
    """

    loadings: np.ndarray
    profile: np.ndarray


def learn(paths: dict[str, Path], symbols: tuple[str, ...], n_components: int = 20) -> Training | None:
    """Return components and profile of sections on the genes `symbols`; None where there are none."""
    position = pd.Index(symbols)
    counts, profile, n_measured = [], np.zeros(len(symbols)), np.zeros(len(symbols))
    rng = np.random.default_rng(0)
    for path in paths.values():
        adata = ad.read_h5ad(path)
        at = position.get_indexer(adata.var_names)
        known, first = np.unique(at, return_index=True)
        known, first = known[known >= 0], first[known >= 0]
        if len(known) < MIN_GENES:
            continue
        x = sparse.csr_matrix(adata.X)[:, first].astype(np.float64)
        totals = np.asarray(x.sum(axis=0)).ravel()
        profile[known] += totals / totals.sum()
        n_measured[known] += 1
        rows = np.sort(rng.permutation(x.shape[0])[:MAX_SPOTS])
        place = sparse.csr_matrix(
            (np.ones(len(known)), (np.arange(len(known)), known)), shape=(len(known), len(symbols))
        )
        counts.append(sparse.csr_matrix(x[rows] @ place, dtype=np.float32))
    if not counts:
        return None
    return Training(sagefm.metrics.fit_components(counts, n_components), profile / np.maximum(n_measured, 1))
