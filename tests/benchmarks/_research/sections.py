"""Sections: their counts of the chosen genes, and the neighborhoods of their spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from _research.setting import DEV
from sagefm.data._genes import Vocabulary, match_genes
from sagefm.data._graph import nearest_neighbors
from sagefm.datasets import Corpus

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from _research.setting import Options

#: Genes of the panels that are left out; spots of a section that is evaluated.
PANEL, DEV_SPOTS = 100, 1500
#: Counts of a spot to which counts are scaled.
SCALE = 1e4
N_COMPONENTS, N_FIRST, N_NEIGHBORS = 128, 6, 14


@dataclass(frozen=True)
class Section:
    """Counts of the chosen genes (n_spots, n_genes), where they stand, and the spots that are used."""

    donor: str
    counts: sparse.csr_matrix
    measured: NDArray[np.float32]
    neighbors: NDArray[np.int64]
    used: NDArray[np.int64]

    @property
    def n_spots(self) -> int:
        return int(self.counts.shape[0])

    @property
    def totals(self) -> NDArray[np.float32]:
        return np.asarray(self.counts.sum(axis=0)).ravel().astype(np.float32)

    @property
    def detected(self) -> NDArray[np.float64]:
        return self.counts.getnnz(axis=0) / self.n_spots

    @property
    def profile(self) -> NDArray[np.float32]:
        profile = (self.totals + 1e-3) * self.measured
        return profile / profile.sum()


@dataclass(frozen=True)
class Reading:
    """A section with its transformed counts, their mean, and what is read of the neighborhood."""

    section: Section
    values: sparse.csr_matrix
    mean: NDArray[np.float32]
    neighborhood: NDArray[np.float32]


def read_sections(folder: Path, metadata: Path, options: Options) -> tuple[list[Section], list[Section]]:
    """Sections of the training donors and of `DEV`."""
    corpus = Corpus.from_folder(folder, metadata)
    facts = corpus.metadata
    corpus = corpus.subset((facts["species"] == "human") & ~facts["technology"].str.contains("Xenium", na=False))
    facts = corpus.metadata
    vocabulary = Vocabulary(tuple(corpus.expressed_genes(by="donor", min_detected=0.02, min_groups=2)))
    is_dev = facts["donor"].isin(DEV).to_numpy()
    train = np.flatnonzero(~is_dev & (facts["n_genes"] > PANEL).to_numpy())
    dev = np.flatnonzero(is_dev)
    if not len(train) or not len(dev):
        raise SystemExit(f"Found {len(train)} sections to train on and {len(dev)} of the donors {', '.join(DEV)}.")
    found = [(i, *_read_section(corpus, i, vocabulary)) for i in [*train.tolist(), *dev.tolist()]]
    detection = np.zeros(len(vocabulary))
    for _, counts, _, _ in found:
        detection += np.minimum(counts.getnnz(axis=0) / counts.shape[0], 0.5)
    genes = np.sort(np.argsort(-detection)[: options.genes])
    rng = np.random.default_rng(0)
    sections = []
    for i, counts, measured, neighbors in found:
        n, cap = counts.shape[0], DEV_SPOTS if is_dev[i] else options.cap
        used = np.arange(n) if n <= cap else np.sort(rng.choice(n, cap, replace=False))
        kept = np.isin(genes, measured).astype(np.float32)
        sections.append(Section(facts["donor"].iloc[i], counts[:, genes], kept, neighbors, used))
    return sections[: len(train)], sections[len(train) :]


def _read_section(corpus: Corpus, i: int, vocabulary: Vocabulary) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
    table = corpus.read(i)
    match = match_genes(table, vocabulary)
    counts = sparse.csc_matrix(table.X, dtype=np.float32)[:, match.columns].tocoo()
    counts = sparse.csr_matrix((counts.data, (counts.row, match.genes[counts.col])), (table.n_obs, len(vocabulary)))
    counts.eliminate_zeros()
    coordinates = np.asarray(table.obsm["spatial"], dtype=float)
    return counts, match.genes, nearest_neighbors(coordinates, N_NEIGHBORS)[0]


def transform(section: Section, kind: str) -> tuple[sparse.csr_matrix, NDArray[np.float32]]:
    """Transformed counts of a section, for its mean and its neighborhoods, and the mean."""
    values = section.counts.copy()
    size = np.maximum(np.asarray(values.sum(axis=1)).ravel(), 1).astype(np.float32)
    scaled = values.data * (SCALE / np.repeat(size, np.diff(values.indptr)))
    values.data = np.sqrt(scaled) if kind == "root" else np.log1p(scaled)
    return values, (np.asarray(values.sum(axis=0)).ravel() / section.n_spots).astype(np.float32)


def principal_components(
    parts: list[tuple[sparse.csr_matrix, NDArray[np.float32]]], n_components: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Components (n_genes, n_components) of deviations from the sections' means, and their variances."""
    width = n_components + 20
    basis = np.random.default_rng(1).standard_normal((len(parts[0][1]), width)).astype(np.float32)
    for _ in range(3):
        product = np.zeros_like(basis)
        for values, mean in parts:
            scores = values @ basis - mean @ basis
            product += values.T @ scores - np.outer(mean, scores.sum(axis=0))
        basis, _ = np.linalg.qr(product)
    covariance, n_spots = np.zeros((width, width), np.float32), 0
    for values, mean in parts:
        scores = values @ basis - mean @ basis
        covariance += scores.T @ scores
        n_spots += len(scores)
    variances, vectors = np.linalg.eigh(covariance / n_spots)
    order = np.argsort(-variances)[:n_components]
    return (basis @ vectors[:, order]).astype(np.float32), variances[order].astype(np.float32)


def read_neighborhoods(
    train: list[Section], dev: list[Section], options: Options
) -> tuple[list[Reading], list[Reading], NDArray[np.float32]]:
    """What the network reads of the sections, and the loadings of the components that were fitted on `train`."""
    transformed = [transform(section, options.input) for section in train + dev]
    parts = [(v[s.used[:400]], m) for s, (v, m) in zip(train, transformed, strict=False)]
    components, variances = principal_components(parts, N_COMPONENTS)
    readings = []
    for section, (values, mean) in zip(train + dev, transformed, strict=True):
        near = np.zeros((section.n_spots, 0), np.float32)
        if options.neighborhood == "two":
            scores = (values @ components - mean @ components) / np.sqrt(variances)
            rings = (section.neighbors[:, :N_FIRST], section.neighbors[:, N_FIRST:])
            near = np.concatenate([scores[ring].mean(axis=1) for ring in rings], axis=1).astype(np.float32)
        readings.append(Reading(section, values, mean, near))
    return readings[: len(train)], readings[len(train) :], (components * np.sqrt(variances)).T
