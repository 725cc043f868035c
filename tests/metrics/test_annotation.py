"""Scores of predicted labels, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.errors import ArgumentError

#              a: 3 of 4 right        b: 1 of 2 right   c: 0 of 1 right
LABELS = ["a", "a", "a", "a", "b", "b", "c"]
PREDICTED = ["a", "a", "a", "b", "b", "unsure", "z"]
EXPECTED = {
    "accuracy": 4 / 7,
    "balanced_accuracy": (3 / 4 + 1 / 2 + 0) / 3,
    # a: precision 1, recall 3/4; b: precision 1/2, recall 1/2; c: never predicted.
    "macro_f1": (6 / 7 + 1 / 2 + 0) / 3,
}


def test_by_hand():
    assert sagefm.metrics.annotation(LABELS, PREDICTED).to_dict() == pytest.approx(EXPECTED)


def test_all_right():
    assert (sagefm.metrics.annotation(LABELS, LABELS) == 1).all()


@pytest.mark.parametrize("without", [None, np.nan, pd.NA, "undetermined", "unlabelled", "nan", ""])
def test_spots_without_a_label_leave_the_score(without):
    found = sagefm.metrics.annotation([*LABELS, without, without], [*PREDICTED, "a", "z"])
    assert found.to_dict() == pytest.approx(EXPECTED)


@pytest.mark.parametrize("without", [None, np.nan, "", "undetermined"])
def test_a_prediction_that_is_missing_is_wrong(without):
    found = sagefm.metrics.annotation(LABELS, [*PREDICTED[:-1], without])
    assert found.to_dict() == pytest.approx(EXPECTED)


@pytest.mark.parametrize("names", ["c", ["c"], ("c", "z")])
def test_names_of_your_own(names):
    found = sagefm.metrics.annotation(LABELS, PREDICTED, unlabelled=names)
    assert found["accuracy"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("form", [np.array, pd.Series, pd.Categorical, lambda x: pd.Series(x).astype("category")])
def test_forms_and_names_of_labels(form):
    numbers = {"a": 3, "b": 1, "c": 2, "z": 7, "unsure": 9}
    for rename in (str, numbers.get):
        labels, predicted = (form([rename(name) for name in names]) for names in (LABELS, PREDICTED))
        assert sagefm.metrics.annotation(labels, predicted).to_dict() == pytest.approx(EXPECTED)


def test_by_position_and_not_by_index():
    labels = pd.Series(LABELS, index=range(10, 17))
    assert sagefm.metrics.annotation(labels, pd.Series(PREDICTED)).to_dict() == pytest.approx(EXPECTED)


def test_errors():
    with pytest.raises(ArgumentError, match="predicted has 6 spots; expected those of labels, 7"):
        sagefm.metrics.annotation(LABELS, PREDICTED[:-1])
    with pytest.raises(ArgumentError, match="None of 2 spots has a label"):
        sagefm.metrics.annotation([None, "undetermined"], ["a", "b"])
    with pytest.raises(ArgumentError, match=r"labels has shape \(2, 2\)"):
        sagefm.metrics.annotation(np.array([["a", "b"], ["c", "d"]]), ["a", "b"])
