"""How well clusters of an embedding agree with an expert's labels, and how coherent they are in space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from sagefm._arguments import as_array, whole_number
from sagefm._constants import UNLABELLED
from sagefm.data._labels import read_labels
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

#: Initializations of a fit: with one, the adjusted Rand index spreads by up to 0.17 over seeds.
_N_INIT: Final = 10
#: Neighbors that a spot is compared with, and how many of them in other clusters make it abnormal.
_N_AROUND: Final = 10
_N_ABNORMAL: Final = 6


def clustering(
    embedding: ArrayLike,
    labels: Any,
    *,
    coordinates: ArrayLike | None = None,
    n_clusters: int | None = None,
    n_components: int = 20,
    n_seeds: int = 10,
    unlabelled: Sequence[str] = UNLABELLED,
) -> pd.DataFrame:
    """Return how well clusters of an embedding agree with labels, one fit per seed.

    Clusters are those of a Gaussian mixture with one covariance for all (the best of 10 initializations), on principal
    components of the embedding. Spots without a label are clustered, but do not count in the agreement.

    Parameters
    ----------
    embedding
        Embedding (n_spots, n_latent).
    labels
        Labels of an expert (n_spots,).
    coordinates
        Spot coordinates of one section (n_spots, 2), any unit.
    n_clusters
        Number of clusters; default: the number of classes in `labels`.
    n_components
        Number of principal components that a wider embedding is reduced to.
    n_seeds
        Number of fits, with the seeds 0, 1, ...
    unlabelled
        Names that mean "no label", besides missing values.

    Returns
    -------
    One row per seed:

    - ``ari``: adjusted Rand index; 0 for chance, 1 for the same partition.
    - ``nmi``: mutual information over the mean of the two entropies, from 0 to 1.

    With `coordinates`, for all spots, labelled or not:

    - ``chaos``: mean distance of a spot to the nearest of its own cluster, on coordinates of unit variance; spots alone
      in their cluster are left out. Lower is more coherent.
    - ``pas``: share of spots that have at least 6 of their 10 nearest spots in other clusters. Lower is more coherent.

    Raises
    ------
    ArgumentError
        Shapes do not match, values are not finite, no spot has a label, or an argument is outside its range.

    Notes
    -----
    Both spatial scores are best for one single cluster and use no label. Report them beside ``ari``, never in its place.

    References
    ----------
    Shang and Zhou, "Spatially aware dimension reduction for spatial transcriptomics", Nature Communications 13, 7203
    (2022), doi:10.1038/s41467-022-34879-1: CHAOS and PAS.

    Examples
    --------
    >>> import numpy as np
    >>> import sagefm
    >>> labels = np.repeat(["a", "b", "c"], 50)
    >>> embedding = np.eye(3)[np.repeat([0, 1, 2], 50)] + np.random.default_rng(0).normal(scale=0.1, size=(150, 3))
    >>> sagefm.metrics.clustering(embedding, labels, n_seeds=3).mean().round(2).to_dict()
    {'ari': 1.0, 'nmi': 1.0}
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.mixture import GaussianMixture

    truth = read_labels(labels, unlabelled)
    values = _matrix(embedding, name="embedding", n_spots=len(truth))
    labelled = truth.notna().to_numpy()
    classes = truth[labelled].tolist()
    if not classes:
        raise ArgumentError(f"None of {len(truth)} spots has a label outside unlabelled={unlabelled!r}.")
    n_clusters = len(set(classes)) if n_clusters is None else n_clusters
    if whole_number(n_clusters, name="n_clusters", minimum=2) > len(values):
        raise ArgumentError(f"n_clusters={n_clusters}; expected at most the {len(values)} spots.")
    n_components = whole_number(n_components, name="n_components", minimum=1)
    n_seeds = whole_number(n_seeds, name="n_seeds", minimum=1)
    space = None if coordinates is None else _Space(_matrix(coordinates, name="coordinates", n_spots=len(values)))

    components = _components(values, n_components)
    rows = []
    for seed in range(n_seeds):
        mixture = GaussianMixture(n_clusters, covariance_type="tied", n_init=_N_INIT, random_state=seed)
        clusters = mixture.fit_predict(components)
        row = {
            "ari": adjusted_rand_score(classes, clusters[labelled]),
            "nmi": normalized_mutual_info_score(classes, clusters[labelled]),
        }
        if space is not None:
            row |= {"chaos": space.chaos(clusters), "pas": space.pas(clusters)}
        rows.append(row)
    return pd.DataFrame(rows, index=pd.RangeIndex(n_seeds, name="seed"), dtype=float)


class _Space:
    """Coordinates of unit variance (n_spots, 2), and the nearest spots of each in the coordinates as they are."""

    def __init__(self, coordinates: NDArray[np.float64]) -> None:
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import StandardScaler

        if len(coordinates) <= _N_AROUND:
            raise ArgumentError(f"coordinates of {len(coordinates)} spots; expected more than {_N_AROUND}.")
        self.scaled = StandardScaler().fit_transform(coordinates)
        self.around = NearestNeighbors(n_neighbors=_N_AROUND).fit(coordinates).kneighbors(return_distance=False)

    def chaos(self, clusters: NDArray[np.int64]) -> float:
        """Return the mean distance of a spot to the nearest of its cluster."""
        from sklearn.neighbors import NearestNeighbors

        members = [self.scaled[clusters == cluster] for cluster in np.unique(clusters)]
        nearest = [NearestNeighbors(n_neighbors=1).fit(spots).kneighbors()[0] for spots in members if len(spots) > 1]
        return float(np.concatenate(nearest).mean()) if nearest else float("nan")

    def pas(self, clusters: NDArray[np.int64]) -> float:
        """Return the share of spots that most of the nearest spots differ from."""
        elsewhere = (clusters[self.around] != clusters[:, None]).sum(axis=1)
        return float((elsewhere >= _N_ABNORMAL).mean())


def _components(values: NDArray[np.float64], n_components: int) -> NDArray[np.float64]:
    """Return at most `n_components` principal components, or the values themselves, of unit mean variance."""
    from sklearn.decomposition import PCA

    if values.shape[1] > n_components:
        values = PCA(min(n_components, len(values)), random_state=0).fit_transform(values)
    spread = np.sqrt(values.var(axis=0).mean())
    if spread == 0:
        raise ArgumentError("The embedding is the same at all spots: there is nothing to cluster.")
    # The mixture adds a constant to its covariance: the unit of the embedding must not matter.
    return np.asarray((values - values.mean(axis=0)) / spread)


def _matrix(values: ArrayLike, *, name: str, n_spots: int) -> NDArray[np.float64]:
    matrix = as_array(values, name=name)
    if matrix.ndim != 2 or matrix.shape[0] != n_spots or matrix.shape[1] == 0:
        raise ArgumentError(f"{name} has shape {matrix.shape}; expected a row for each of {n_spots} labels.")
    if not np.isfinite(matrix).all():
        raise ArgumentError(f"{name} holds NaN or infinite values.")
    return matrix
