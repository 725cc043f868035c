"""How well predicted labels agree with an expert's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from sagefm._constants import UNLABELLED
from sagefm.data._labels import read_labels
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence


def annotation(labels: Any, predicted: Any, *, unlabelled: Sequence[str] = UNLABELLED) -> pd.Series:
    """Return how well predicted labels agree with an expert's.

    Parameters
    ----------
    labels
        Labels of the expert (n_spots,).
    predicted
        Predicted labels (n_spots,). "unsure", a missing value, or a class that the expert did not use counts as an
        error.
    unlabelled
        Names in `labels` that mean "no label". Spots with such a name or a missing value are left out.

    Returns
    -------
    ``accuracy``, the share of spots that agree; ``balanced_accuracy``, the mean over the expert's classes of the share
    of their spots that agree; ``macro_f1``, the mean F1 over the expert's classes.

    Raises
    ------
    ArgumentError
        Lengths differ, or no spot has a label.

    Examples
    --------
    >>> import sagefm
    >>> sagefm.metrics.annotation(["a", "a", "a", "b", None], ["a", "a", "b", "b", "b"]).round(3).to_dict()
    {'accuracy': 0.75, 'balanced_accuracy': 0.833, 'macro_f1': 0.733}
    """
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    truth = read_labels(labels, unlabelled)
    answers = read_labels(predicted, unlabelled=(), name="predicted").fillna("")
    if len(answers) != len(truth):
        raise ArgumentError(f"predicted has {len(answers)} spots; expected those of labels, {len(truth)}.")
    labelled = truth.notna().to_numpy()
    if not labelled.any():
        raise ArgumentError(f"None of {len(truth)} spots has a label outside unlabelled={unlabelled!r}.")
    truth, answers = truth[labelled].tolist(), answers[labelled].tolist()
    # scikit-learn's balanced accuracy is this mean of recalls, but warns if a class is only predicted.
    over_classes = {"labels": sorted(set(truth)), "average": "macro", "zero_division": 0}
    return pd.Series(
        {
            "accuracy": accuracy_score(truth, answers),
            "balanced_accuracy": recall_score(truth, answers, **over_classes),
            "macro_f1": f1_score(truth, answers, **over_classes),
        },
        dtype=float,
    )
