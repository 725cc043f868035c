"""Processes killed at random moments; see kills.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and forks")


def kill(n_kills: int, seed: int, log: Path) -> None:
    """Run the campaign in a process that has no threads; all its kills must be without a problem."""
    command = [sys.executable, "-m", "tests.reliability.kills", "--kills", str(n_kills), "--seed", str(seed), "--log"]
    run = subprocess.run(
        [*command, str(log)], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(log.read_text().splitlines()) == n_kills


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path) -> None:
    """One of each kind of work."""
    kill(9, 1, tmp_path / "log")


@pytest.mark.reliability
def test_kills(tmp_path: Path) -> None:
    kill(200, 0, tmp_path / "log")
