"""Classes from embeddings, with calibrated probabilities; what the user's objects look like is not known here.

A classifier gives log-probabilities ``s_ic`` of class c at spot i. One temperature T makes them honest,

    p_ic = exp(s_ic / T) / sum_k exp(s_ik / T),

where T minimises the mean of ``-log p_i,label(i)`` over spots that each were predicted without their fold (Guo et al.
2017, "On calibration of modern neural networks"). T leaves the order of the classes as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy import optimize, special

from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_TEMPERATURE: Final = 10.0
#: Inverse penalties of the logistic regression that are tried. Donors differ: what fits them best is often too sure.
STRENGTHS: Final = (1.0, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Learner:
    """What is fitted: ``"logistic"`` regression on standardised features, or the shares of the nearest neighbors."""

    method: Literal["logistic", "neighbors"]
    n_neighbors: int
    strength: float = 1.0

    def log_probability(
        self, embedding: NDArray[np.float64], codes: NDArray[np.int64], queries: NDArray[np.float64], n_classes: int
    ) -> NDArray[np.float64]:
        """Fit on some spots and return log-probabilities of others (n_queries, n_classes); -inf for an unseen class."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        estimator: Any
        if self.method == "logistic":
            estimator = make_pipeline(StandardScaler(), LogisticRegression(C=self.strength, max_iter=1000))
            floor = float(np.finfo(np.float64).tiny)
        else:
            n_neighbors = min(self.n_neighbors, len(codes))
            estimator = KNeighborsClassifier(n_neighbors)
            # Half a neighbor: a class that none of them has is not impossible.
            floor = 0.5 / n_neighbors
        found = estimator.fit(embedding, codes).predict_proba(queries)
        scores = np.full((len(queries), n_classes), -np.inf)
        scores[:, estimator.classes_] = np.log(np.maximum(found, floor))
        return scores


@dataclass(frozen=True)
class Calibration:
    """The temperature, and what the cross-validated predictions that it was fitted on are worth.

    Attributes
    ----------
    temperature
        Above 1: the classifier was too sure of itself.
    probability
        Cross-validated probabilities of the reference (n_spots, n_classes), at this temperature.
    loss
        Their mean log loss.
    """

    temperature: float
    probability: NDArray[np.float64]
    loss: float


def calibrate(
    learner: Learner,
    embedding: NDArray[np.float64],
    codes: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> Calibration:
    """Predict each fold from the others and fit the temperature on that.

    Raises
    ------
    ArgumentError
        Without some fold, fewer than two classes are left, or no class is in two folds.
    """
    n_classes = int(codes.max()) + 1
    scores = np.empty((len(codes), n_classes))
    for fold in np.unique(folds):
        held = folds == fold
        if len(np.unique(codes[~held])) < 2:
            raise ArgumentError(
                "Without one of its folds the reference has fewer than two classes. Give a reference with the classes "
                "in several sections, or leave reference_library_key out."
            )
        scores[held] = learner.log_probability(embedding[~held], codes[~held], embedding[held], n_classes)
    # A class that is in one fold alone cannot be predicted there: an error, but none that a temperature explains.
    possible = np.isfinite(scores[np.arange(len(codes)), codes])
    if not possible.any():
        raise ArgumentError(
            "No class is in two folds of the reference. Give a reference with the classes in several sections, or "
            "leave reference_library_key out."
        )
    temperature = fit_temperature(scores[possible], codes[possible])
    probability = to_probability(scores, temperature)
    of_label = probability[possible, codes[possible]]
    return Calibration(temperature, probability, -float(np.log(np.maximum(of_label, np.finfo(float).tiny)).mean()))


def select(
    learner: Learner,
    embedding: NDArray[np.float64],
    codes: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> tuple[Learner, Calibration]:
    """Calibrate a learner; of a logistic regression, at the penalty of the least cross-validated log loss."""
    tried = [learner] if learner.method == "neighbors" else [replace(learner, strength=c) for c in STRENGTHS]
    found = [(one, calibrate(one, embedding, codes, folds)) for one in tried]
    return min(found, key=lambda pair: pair[1].loss)


def fit_temperature(scores: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Return the temperature, from 1/10 to 10, of the least mean log loss."""

    def log_loss(log_temperature: float) -> float:
        return -float(
            special.log_softmax(scores / np.exp(log_temperature), axis=1)[np.arange(len(codes)), codes].mean()
        )

    # The loss is convex in 1/T, so that it has one minimum in log T.
    bound = float(np.log(_MAX_TEMPERATURE))
    return float(np.exp(optimize.minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded").x))


def to_probability(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return probabilities (n_spots, n_classes) of log-probabilities at a temperature."""
    probability: NDArray[np.float64] = special.softmax(scores / temperature, axis=1)
    return probability


def assign_spots(
    codes: NDArray[np.int64], libraries: NDArray[np.int64] | None, n_folds: int, rng: int
) -> NDArray[np.int64]:
    """Return the fold of each spot (n_spots,): whole libraries, or each class spread evenly where there are none."""
    folds = np.empty(len(codes), dtype=np.int64)
    if libraries is None:
        shuffled = np.random.default_rng(rng).permutation(len(codes))
        folds[shuffled[np.argsort(codes[shuffled], kind="stable")]] = np.arange(len(codes)) % n_folds
        return folds
    from sklearn.model_selection import GroupKFold

    splits = GroupKFold(min(n_folds, len(np.unique(libraries)))).split(codes, groups=libraries)
    for fold, (_, held) in enumerate(splits):
        folds[held] = fold
    return folds
