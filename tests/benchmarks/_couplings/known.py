"""Known pairs of genes against controls, in sections of one tissue and combined by donor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

#: Controls of a known pair; genes of about the same expression to draw a control from.
N_CONTROLS, N_SIMILAR = 10, 20
MIN_SEEN = 0.2
CONTROLS = ("matched", "shuffled")
N_BOOTSTRAP = 200
#: A set of targets: at least so many, and what it is compared with.
MIN_TARGETS, N_OTHER_SETS = 10, 200


@dataclass(frozen=True)
class Genes:
    """Genes that all sections measured and that are seen in 20 % of the spots of the mean section, by expression."""

    names: np.ndarray  # (n_genes,), from low to high

    def positions(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return the positions of sources and targets, of pairs of two of these genes (n_pairs, 2)."""
        index = pd.Index(self.names)
        positions = np.column_stack([index.get_indexer(pairs.iloc[:, i]) for i in range(2)])
        positions = positions[(positions >= 0).all(axis=1) & (positions[:, 0] != positions[:, 1])]
        return np.unique(positions, axis=0)

    def similar(self, genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return another gene of about the same expression for each of the genes."""
        shift = rng.integers(1, N_SIMILAR // 2 + 1, len(genes)) * rng.choice([-1, 1], len(genes))
        similar = genes + shift
        outside = (similar < 0) | (similar >= len(self.names))
        return np.where(outside, genes - shift, similar)


def common_genes(sections: Sequence[AnnData]) -> Genes:
    """Return the genes that are compared in all sections."""
    names = set.intersection(*(set(section.var_names) for section in sections))
    table = pd.DataFrame(index=pd.Index(sorted(names)))
    seen, share = table.copy(), table.copy()
    for i, section in enumerate(sections):
        matrix = sparse.csc_matrix(section.X)
        first = ~section.var_names.duplicated()
        kept = section.var_names[first]
        seen[i] = pd.Series(np.diff(matrix.indptr)[first] / section.n_obs, kept)
        share[i] = pd.Series(np.asarray(matrix.sum(axis=0)).ravel()[first] / matrix.sum(), kept)
    order = share.mean(axis=1).sort_values(kind="stable").index
    return Genes(order[seen.mean(axis=1)[order] >= MIN_SEEN].to_numpy(dtype=str))


def read_pairs(path: Path, only_sources: Path | None = None) -> pd.DataFrame:
    """Return the first two columns of a table of pairs; of the first, only those that begin a pair of another table."""
    pairs = pd.read_csv(path, sep="\t", dtype=str).iloc[:, :2].dropna().drop_duplicates()
    if only_sources is not None:
        pairs = pairs[pairs.iloc[:, 0].isin(read_pairs(only_sources).iloc[:, 0])]
    return pairs


def controls(known: np.ndarray, genes: Genes, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return pairs of the same sources whose targets are shuffled, or matched in expression; none is known."""
    drawn = []
    for _ in range(N_CONTROLS):
        targets = rng.permutation(known[:, 1]) if kind == "shuffled" else genes.similar(known[:, 1], rng)
        drawn.append(np.column_stack([known[:, 0], targets]))
    pairs = np.concatenate(drawn)
    n = len(genes.names)
    unknown = ~np.isin(pairs @ [n, 1], known @ [n, 1]) & (pairs[:, 0] != pairs[:, 1])
    return pairs[unknown]


@dataclass(frozen=True)
class Compared:
    """Known pairs of a table, and controls of each kind, as positions of genes (n_pairs, 2)."""

    name: str
    known: np.ndarray
    controls: dict[str, np.ndarray]

    @classmethod
    def of(cls, name: str, pairs: pd.DataFrame, genes: Genes, rng: np.random.Generator) -> Compared:
        """Draw the controls of a table's pairs."""
        known = genes.positions(pairs)
        return cls(name, known, {kind: controls(known, genes, kind, rng) for kind in CONTROLS})


def auroc(scores: np.ndarray, known: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the AUROC of known pairs against others, and its standard error: sources are drawn again."""
    pairs = np.concatenate([known, others])
    labels = np.repeat([True, False], [len(known), len(others)])
    values = scores[pairs[:, 0], pairs[:, 1]]
    sources, of_pair = np.unique(pairs[:, 0], return_inverse=True)
    drawn = []
    for _ in range(N_BOOTSTRAP):
        weight = np.bincount(rng.integers(len(sources), size=len(sources)), minlength=len(sources))[of_pair]
        if weight[labels].any() and weight[~labels].any():
            drawn.append(roc_auc_score(labels, values, sample_weight=weight))
    return float(roc_auc_score(labels, values)), float(np.std(drawn))


def set_test(z: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> pd.Series:
    """Return two-sided p-values of sources: do their known targets, as a set, go with them more than with other sources?

    The mean z of the set is ranked among those of the same set with other genes of about the same expression as source:
    genes of a set go with each other, and such a set is compared with itself.
    """
    pvals = {}
    for source, rows in pd.DataFrame(known, columns=["source", "target"]).groupby("source"):
        targets = rows["target"].to_numpy()
        if len(targets) < MIN_TARGETS:
            continue
        regulators = known[np.isin(known[:, 1], targets), 0]
        nearest = np.argsort(np.abs(np.arange(len(z)) - source), kind="stable")
        nearest = nearest[~np.isin(nearest, regulators) & ~np.isin(nearest, targets)][: 2 * N_OTHER_SETS]
        others = rng.choice(nearest, min(N_OTHER_SETS, len(nearest)), replace=False)
        mean = z[source, targets].mean()
        of_others = z[np.ix_(others, targets)].mean(axis=1)
        rank = min((of_others >= mean).sum(), (of_others <= mean).sum())
        pvals[source] = min(2 * (rank + 1) / (len(others) + 1), 1.0)
    return pd.Series(pvals, dtype=float)


class ByDonor:
    """z of all pairs combined by Stouffer's method: sections of a donor first, then donors. These follow each other."""

    def __init__(self) -> None:
        self.donor, self.of_donor, self.n_sections = "", np.zeros(()), 0
        self.total, self.n_donors = np.zeros(()), 0

    def add(self, z: np.ndarray, donor: str) -> None:
        """Add a section."""
        if donor != self.donor:
            self._close()
        self.donor, self.of_donor, self.n_sections = donor, self.of_donor + z, self.n_sections + 1

    def combined(self) -> np.ndarray:
        """Return z of all donors."""
        self._close()
        z: np.ndarray = self.total / np.sqrt(self.n_donors)
        return z

    def _close(self) -> None:
        if self.n_sections:
            self.total, self.n_donors = self.total + self.of_donor / np.sqrt(self.n_sections), self.n_donors + 1
        self.donor, self.of_donor, self.n_sections = "", np.zeros(()), 0


def agreement(first: np.ndarray, second: np.ndarray, n_strongest: int = 1000) -> dict[str, float]:
    """Return rank correlation of two sections' z over all pairs, and how many of the strongest pairs they share.

    A pair stands once, whatever its order: with mutual neighborhoods both orders have the same covariance.
    """
    upper = np.triu_indices(len(first), 1)
    x, y = first[upper], second[upper]
    strongest = [np.argpartition(-np.abs(values), n_strongest)[:n_strongest] for values in (x, y)]
    shared = len(np.intersect1d(*strongest))
    same = shared and float((np.sign(x) == np.sign(y))[np.intersect1d(*strongest)].mean())
    return {
        "rank correlation": float(stats.spearmanr(x, y).statistic),
        f"shared of the strongest {n_strongest:,}": shared,
        "by chance": n_strongest**2 / len(x),
        "of these with the same sign": float(same),
    }
