"""The genes of a section in the order of their folds, so that a fold is a range of columns."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sagefm._constants import PROFILE_PRIOR
from sagefm.data._blocks import take_columns, to_memory
from sagefm.data._genes import assign_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.data._section import Section


class Layout:
    """A section, its genes ordered by fold.

    Attributes
    ----------
    order, genes
        Column of the section, and position in the vocabulary, of each gene (n_genes,).
    folds
        Range of each fold.
    counts
        Counts (n_spots, n_genes), in memory.
    totals
        Counts of each gene (n_genes,).
    """

    def __init__(self, section: Section, n_vocabulary: int, n_folds: int, rng: int) -> None:
        fold_of = assign_folds(section.genes, n_vocabulary, n_folds, rng)
        self.section = section
        self.order = np.lexsort((section.genes, fold_of))
        edges = np.searchsorted(fold_of[self.order], np.arange(n_folds + 1)).tolist()
        self.folds = [slice(start, stop) for start, stop in pairwise(edges)]
        self.genes = section.genes[self.order]
        self.counts: sparse.csr_matrix = take_columns(to_memory(section.counts), self.order)
        self.totals = np.asarray(self.counts.sum(axis=0, dtype=np.float64)).ravel()

    @cached_property
    def fold_depths(self) -> NDArray[np.float64]:
        """Counts of each spot in each fold (n_spots, n_folds)."""
        is_fold = np.zeros((len(self.genes), len(self.folds)))
        for i, fold in enumerate(self.folds):
            is_fold[fold, i] = 1
        return np.asarray(self.counts @ is_fold)

    def columns(self, folds: Sequence[int]) -> NDArray[np.int64]:
        """Return the positions of the genes of some folds, at least one, in their order."""
        return np.concatenate([np.arange(fold.start, fold.stop) for fold in (self.folds[i] for i in folds)])

    def depths(self, shown: Sequence[int]) -> NDArray[np.float64]:
        """Return the counts of each spot in some folds (n_spots,), at least one; in all, if none is shown."""
        return np.maximum(self.fold_depths[:, shown or slice(None)].sum(axis=1), 1)

    def null(
        self, rows: NDArray[np.int64], unread: NDArray[np.float32], columns: NDArray[np.int64], shown: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return the null model's expected counts of hidden genes (n_rows, n_columns).

        ``size_i p_ig`` as in :func:`sagefm.module._reading.null_rates`: p are the gene's counts without those that must
        not be read, which are a spot's own or also its neighbors' (`unread`, of this shape), and a prior count; size the
        spot's visible counts over the sum of p over these genes.
        """
        own = self.fold_depths[rows][:, shown or slice(None)].sum(axis=1)
        folds = [self.folds[i] for i in shown] or [slice(None)]
        total = sum(self.totals[fold].sum() + PROFILE_PRIOR * len(self.totals[fold]) for fold in folds)
        size = np.maximum(own, 1) / np.maximum(total - own, PROFILE_PRIOR)
        return np.asarray(size[:, None] * (self.totals[columns] - unread + PROFILE_PRIOR), dtype=np.float32)

    def full_depths(self, rows: NDArray[np.int64], shown: Sequence[int]) -> NDArray[np.float32]:
        """Return the counts that spots are expected to have in all genes, from those that they show (n_rows, 1)."""
        visible = sum(self.totals[self.folds[i]].sum() for i in shown) if shown else self.totals.sum()
        full = self.depths(shown)[rows] * (self.totals.sum() / max(visible, PROFILE_PRIOR))
        return full.astype(np.float32)[:, None]
