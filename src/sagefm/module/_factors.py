"""A Poisson factor model of a section: each spot's counts are a mixture of a few profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from sagefm._constants import PROFILE_PRIOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Iterations of the fit, and multiplicative updates of a spot's weights and of a gene's rates.
_N_ITERATIONS: Final = 40
_N_UPDATES: Final = 15
_N_GENE_UPDATES: Final = 8
#: Counts of the mean spot that are added to every spot.
_STRENGTH: Final = 20.0
#: Share of a gene's mean rate in its rate in each profile.
_SHRINK: Final = 0.01
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Factors:
    """Counts of a spot are Poisson with rates ``w H``; w is found from the counts that the spot shows.

    Attributes
    ----------
    profiles
        H, each row a profile that sums to one (n_components, n_genes).
    shares
        Mean share of each profile in a spot's counts (n_components,).
    """

    profiles: NDArray[np.float32]
    shares: NDArray[np.float32]

    def weights(
        self, counts: NDArray[np.float32], depth: NDArray[np.float32], shown: NDArray[np.int64] | slice = slice(None)
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights w of spots, and those of the mean spot at their depth (n_spots, n_components).

        w is the maximum a posteriori under a Gamma prior whose mean is that of the mean spot, ``depth shares``, worth
        20 counts, found by multiplicative updates (Lee and Seung 1999).

        Parameters
        ----------
        counts
            Counts of the genes that are shown (n_spots, n_shown).
        depth
            Counts that a spot is expected to have (n_spots, 1).
        shown
            Positions of these genes; default: all.
        """
        profiles = self.profiles[:, shown]
        prior = depth * self.shares
        added, total = _STRENGTH * self.shares, profiles.sum(axis=1) + _STRENGTH / depth
        w = prior
        for _ in range(_N_UPDATES if profiles.shape[1] else 0):
            w = (w * ((counts / (w @ profiles).clip(_TINY)) @ profiles.T) + added) / total
        return w, prior

    def ratio(
        self,
        counts: NDArray[np.float32],
        depth: NDArray[np.float32],
        shown: NDArray[np.int64],
        wanted: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the rates of genes over those of the mean spot (n_spots, n_wanted); see :meth:`weights`."""
        w, prior = self.weights(counts, depth, shown)
        of_wanted = self.profiles[:, wanted]
        return np.asarray((w @ of_wanted) / (prior @ of_wanted).clip(_TINY))


def fit_factors(counts: NDArray[np.float32], n_components: int, rng: int) -> Factors:
    """Fit a Poisson factor model (NMF with the Kullback-Leibler divergence).

    Parameters
    ----------
    counts
        Raw counts of some spots (n_spots, n_genes), at least one of them not zero.
    n_components
        Number of profiles; at most that of the spots or genes.
    rng
        Seed of the initial values.
    """
    from sklearn.decomposition import NMF

    model = NMF(
        min(n_components, min(counts.shape)),
        beta_loss="kullback-leibler",
        solver="mu",
        init="random",
        tol=0,
        max_iter=_N_ITERATIONS,
        random_state=rng,
    )
    w = model.fit_transform(counts)
    profile = counts.sum(axis=0, dtype=np.float64) + PROFILE_PRIOR
    profiles = model.components_ / np.maximum(model.components_.sum(axis=1, keepdims=True), _TINY)
    # A gene that a profile lacks keeps one hundredth of the section's share.
    profiles = (1 - _SHRINK) * profiles + _SHRINK * profile / profile.sum()
    shares = (w * model.components_.sum(axis=1)).sum(axis=0)
    return Factors(profiles.astype(np.float32), (shares / shares.sum()).astype(np.float32))


def project_genes(
    w: NDArray[np.float32], counts: NDArray[np.float32], level: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return rates H of other genes, given the weights of spots (n_components, n_genes).

    Few multiplicative updates from the gene's mean rate: stopping early keeps rates of genes with few counts near it.

    Parameters
    ----------
    w
        Weights of spots (n_spots, n_components).
    counts
        Counts of the genes at these spots (n_spots, n_genes).
    level
        Mean rate of each gene (n_genes,).
    """
    rates = np.repeat(level[None].astype(np.float32), w.shape[1], axis=0)
    if not len(w):
        return rates
    total = w.sum(axis=0)[:, None].clip(_TINY)
    for _ in range(_N_GENE_UPDATES):
        rates *= (w.T @ (counts / (w @ rates).clip(_TINY))) / total
    return (1 - _SHRINK) * rates + np.float32(_SHRINK) * level.astype(np.float32)
