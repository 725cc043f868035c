"""Every argument of every public function, with values that it does not expect; see arguments.py."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reliability.arguments import cases, is_good


def _bad(folder, monkeypatch, n=None, left_out=()):
    # What is written to a relative path is written there.
    monkeypatch.chdir(folder)
    calls = [case for case in cases(folder) if not case[0].startswith(left_out)]
    chosen = range(len(calls)) if n is None else np.random.default_rng(0).choice(len(calls), n, replace=False)
    outcomes = [(*calls[i][:3], calls[i][3]()) for i in chosen]
    return [outcome for outcome in outcomes if not is_good(outcome[-1])]


@pytest.mark.slow
def test_a_part_of_all_arguments(tmp_path, monkeypatch):
    # What trains, and the report, are left to the whole campaign.
    assert not _bad(tmp_path, monkeypatch, 200, ("SAGEFM", "model.", "report"))


@pytest.mark.reliability
def test_all_arguments(tmp_path, monkeypatch):
    assert not _bad(tmp_path, monkeypatch)
