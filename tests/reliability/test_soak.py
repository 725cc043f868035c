"""One process that works for a long time; see soak.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.soak import FLAT, Sample, judge

N_LOOPS = 300


def samples(growth: float) -> list[Sample]:
    """What a process holds that grows by some bytes in each loop, with noise of a megabyte."""
    noise = np.random.default_rng(0).normal(0, 1e6, N_LOOPS)
    held = [int(5e8 + growth * loop + noise[loop]) for loop in range(N_LOOPS)]
    return [Sample(before=size, held=size, files=10, python_threads=2, threads=4, left=0) for size in held]


def test_growth_is_told_from_noise() -> None:
    assert judge(samples(0)) == []
    (problem,) = judge(samples(2 * FLAT))
    assert "memory grows" in problem


@pytest.mark.parametrize("name", ["files", "python_threads", "threads", "left"])
def test_what_is_left_is_counted(name: str) -> None:
    """A single loop that has more is none of it."""
    for n_loops, n_problems in ((1, 0), (100, 1)):
        more = samples(0)
        more[-n_loops:] = [replace(sample, **{name: getattr(sample, name) + 1}) for sample in more[-n_loops:]]
        assert len(judge(more)) == n_problems


@pytest.mark.reliability
def test_soak() -> None:
    command = [sys.executable, "-m", "tests.reliability.soak", "--loops", "500", "--seed", "0"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
