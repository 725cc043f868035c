"""A Poisson factor model of a section: each spot's counts are a mixture of a few profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sagefm._constants import PROFILE_PRIOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Iterations of the fit, and multiplicative updates of a spot's weights.
_N_ITERATIONS: Final = 40
_N_UPDATES: Final = 15


@dataclass(frozen=True)
class Factors:
    """Counts of a spot are Poisson with rates ``w H``; w is found from the counts that the spot shows.

    Attributes
    ----------
    profiles
        H, each row a profile that sums to one (n_components, n_genes); a NumPy array or a torch tensor.
    shares
        Mean share of each profile in a spot's counts (n_components,), of the same kind.
    strength
        Counts of the mean spot added to every spot.
    """

    profiles: Any
    shares: Any
    strength: float = 20.0

    def ratio(self, counts: Any, depth: Any, shown: Any, wanted: Any) -> Any:
        """Return the rates of genes over those of the mean spot (n_spots, n_wanted).

        w is the maximum a posteriori under a Gamma prior whose mean is that of the mean spot, ``depth shares``, worth
        `strength` counts, found by multiplicative updates (Lee and Seung 1999).

        Parameters
        ----------
        counts
            Counts of the genes that are shown (n_spots, n_shown), of the kind of `profiles`.
        depth
            Counts that a spot is expected to have (n_spots, 1), likewise.
        shown, wanted
            Positions of the genes that are shown, and of those to predict.
        """
        profiles = self.profiles[:, shown]
        # Operations that arrays and tensors share.
        prior = depth * self.shares
        added, total = self.strength * self.shares, profiles.sum(1) + self.strength / depth
        w = prior
        for _ in range(_N_UPDATES if len(shown) else 0):
            w = (w * ((counts / (w @ profiles).clip(1e-12)) @ profiles.T) + added) / total
        of_wanted = self.profiles[:, wanted]
        return (w @ of_wanted) / (prior @ of_wanted).clip(1e-12)


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
    profiles = model.components_ / np.maximum(model.components_.sum(axis=1, keepdims=True), 1e-12)
    # A gene that a profile lacks keeps one hundredth of the section's share.
    profiles = 0.99 * profiles + 0.01 * profile / profile.sum()
    shares = (w * model.components_.sum(axis=1)).sum(axis=0)
    return Factors(profiles.astype(np.float32), (shares / shares.sum()).astype(np.float32))
