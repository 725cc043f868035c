"""Classes from embeddings by scikit-learn's classifiers, with calibrated probabilities.

A classifier gives probabilities q_ic of class c at spot i. One temperature T makes them honest,

    p_ic = q_ic^(1/T) / sum_k q_ik^(1/T),

where T minimizes the mean of ``-log p_i,label(i)`` over spots that each were predicted without their fold (Guo et al.
2017, "On calibration of modern neural networks"). The order of the classes stays as it is. scikit-learn's own
temperature scaling fails where a class is missing without a fold, as it is if one donor alone has it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sagefm._progress import ProgressBar
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Inverse penalties of the logistic regression that are tried. Donors differ: what fits them best is often too sure.
STRENGTHS: Final = (1.0, 0.1, 0.01, 0.001)
_MAX_TEMPERATURE: Final = 10.0


@dataclass(frozen=True)
class Calibrated:
    """A fitted classifier at its temperature, with cross-validated probabilities of its own spots and their loss."""

    classifier: Any
    strength: float
    floor: float
    temperature: float
    cross_validated: NDArray[np.float64]
    loss: float

    def probability(self, embedding: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities of spots (n_spots, n_classes)."""
        return at_temperature(self.classifier.predict_proba(embedding), self.temperature, self.floor)


def make_folds(
    codes: NDArray[np.int64], libraries: NDArray[np.int64] | None, n_folds: int, rng: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return spots to fit on and spots to predict, by fold: whole libraries, or each class spread evenly."""
    if libraries is not None:
        return list(GroupKFold(min(n_folds, len(np.unique(libraries)))).split(codes, groups=libraries))
    # StratifiedKFold would refuse classes with fewer spots than folds.
    shuffled = np.random.default_rng(rng).permutation(len(codes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    parts = [np.sort(by_class[start::n_folds]) for start in range(min(n_folds, len(codes)))]
    return [(np.setdiff1d(shuffled, part), part) for part in parts]


def fit(
    embedding: NDArray[np.float64],
    codes: NDArray[np.int64],
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    method: str,
    n_neighbors: int,
    progress: bool = False,
) -> Calibrated:
    """Fit and calibrate a classifier; a logistic regression at the penalty of the least cross-validated log loss."""
    repair = "Give a reference with the classes in several sections, or leave reference_library_key out."
    if any(len(np.unique(codes[train])) < 2 for train, _ in folds):
        raise ArgumentError(f"Without one of its folds the reference has fewer than two classes. {repair}")
    # A class that is in one fold alone cannot be predicted there: an error, but none that a temperature explains.
    possible = np.zeros(len(codes), dtype=bool)
    for train, held in folds:
        possible[held] = np.isin(codes[held], codes[train])
    if not possible.any():
        raise ArgumentError(f"No class is in two folds of the reference. {repair}")

    candidates: dict[float, Any]
    tiny = float(np.finfo(np.float64).tiny)
    if method == "neighbors":
        n_neighbors = min(n_neighbors, *(len(train) for train, _ in folds))
        candidates = {1.0: KNeighborsClassifier(n_neighbors)}
        # Half a neighbor: a class that none of them has is not impossible.
        floor = 0.5 / n_neighbors
    else:
        candidates = {c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in STRENGTHS}
        floor = tiny
    fitted = []
    with ProgressBar("annotate: choosing the penalty", len(candidates), "penalty", progress=progress) as bar:
        for strength, classifier in candidates.items():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Number of classes in training fold", RuntimeWarning)
                q = cross_val_predict(classifier, embedding, codes, cv=folds, method="predict_proba")
            temperature = fit_temperature(np.log(np.maximum(q[possible], floor)), codes[possible])
            p = at_temperature(q, temperature, floor)
            loss = -float(np.log(np.maximum(p[possible, codes[possible]], tiny)).mean())
            fitted.append(Calibrated(classifier, strength, floor, temperature, p, loss))
            bar.update()
    best = min(fitted, key=lambda candidate: candidate.loss)
    best.classifier.fit(embedding, codes)
    return best


def fit_temperature(scores: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Return the temperature, from 1/10 to 10, of the least mean log loss of log-probabilities (n_spots, n_classes)."""

    def log_loss(log_temperature: float) -> float:
        log_p = special.log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(log_p[np.arange(len(codes)), codes].mean())

    # The loss is convex in 1/T, so that it has one minimum in log T.
    bound = float(np.log(_MAX_TEMPERATURE))
    return float(np.exp(optimize.minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded").x))


def at_temperature(q: NDArray[np.float64], temperature: float, floor: float) -> NDArray[np.float64]:
    """Return probabilities p of probabilities q (n_spots, n_classes), at least `floor`, at a temperature."""
    return np.asarray(special.softmax(np.log(np.maximum(q, floor)) / temperature, axis=1))
