"""Genes that a section did not measure, from a network's loadings and the profile of its training sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sagefm.inference._network_reader import NetworkReader

#: Measured genes of the most similar level in the training sections, whose levels tell how far off a level may be, and
#: the part of them that is within its interval.
_N_SIMILAR: Final = 50
_INTERVAL: Final = 0.8


class Unmeasured:
    """Genes of the vocabulary that a section did not measure.

    The rate is ``depth_i q_g exp(F_g z_i + f_g)`` with q the profile of the training sections, over the genes that the
    section measured. Where q puts a gene's level can be told from the measured genes alone: :meth:`levels`.
    """

    def __init__(self, reader: NetworkReader, genes: NDArray[np.int64]) -> None:
        self.reader, self.genes = reader, genes
        self.z = reader.embed(list(range(len(reader.layout.folds))), everywhere=False)
        prior = getattr(reader.network, "prior", None)
        self.prior = None if prior is None else prior.cpu().numpy().astype(np.float64)

    def expected(self, block: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return expected counts of a block of spots (n_rows, n_genes), and their depths (n_rows, 1)."""
        layout = self.reader.layout
        depths = layout.full_depths(np.arange(layout.counts.shape[0])[block], range(len(layout.folds)))
        rates = (depths * self._shares(self.genes)).astype(np.float32)
        return self.reader.expected(self.z[block], self.genes, rates), depths

    def levels(self) -> pd.DataFrame:
        """Return mean expected counts of each gene, and the interval of 80 %, in the order of the genes.

        Its ends are the mean times the quantiles of measured over expected level, of the 50 measured genes whose level
        in the training sections is nearest.
        """
        layout = self.reader.layout
        total = np.zeros(len(self.genes))
        for start in range(0, layout.counts.shape[0], 1024):
            total += self.expected(slice(start, start + 1024))[0].sum(axis=0, dtype=np.float64)
        mean = total / layout.counts.shape[0]
        prior = np.log(self._shares(layout.genes))
        error = np.log((layout.totals + 0.5) / max(layout.totals.sum(), 1)) - prior
        order = np.argsort(prior, kind="stable")
        first = np.searchsorted(prior[order], np.log(self._shares(self.genes))) - _N_SIMILAR // 2
        places = np.arange(min(_N_SIMILAR, len(order)))
        similar = order[first.clip(0, len(order) - len(places))[:, None] + places]
        tail = (1 - _INTERVAL) / 2
        lower, upper = np.quantile(error[similar], [tail, 1 - tail], axis=1)
        return pd.DataFrame({"mean": mean, "lower": mean * np.exp(lower), "upper": mean * np.exp(upper)})

    def _shares(self, genes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the shares of genes in the training sections, over those of the genes that the section measured."""
        if self.prior is None:
            return np.ones(len(genes))
        return np.maximum(self.prior[genes], 1e-12) / max(self.prior[self.reader.layout.genes].sum(), 1e-12)
