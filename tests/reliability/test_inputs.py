"""Bad inputs for every verb and every command; see inputs.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.damaged_files import FILE_DAMAGES
from tests.reliability.damages import DAMAGES
from tests.reliability.inputs import case


def campaign(kind: str, n: int, seed: int) -> None:
    """Run the campaign in a process of its own, which a damaged file may crash; nothing may be bad."""
    command = [sys.executable, "-m", "tests.reliability.inputs", kind, "--n", str(n), "--seed", str(seed)]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_cases_are_those_of_their_seed():
    assert len({damage.name for damage in DAMAGES}) == len(DAMAGES) > 200
    assert len(FILE_DAMAGES) > 50
    assert [str(case(3, i)) for i in range(50)] == [str(case(3, i)) for i in range(50)]
    used = {damage.name for i in range(3000) for damage in case(0, i).damages}
    assert used == {damage.name for damage in DAMAGES}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n"), [("verbs", 80), ("commands", 30)])
def test_a_part_of_the_inputs(kind, n):
    campaign(kind, n, 1)


@pytest.mark.reliability
@pytest.mark.parametrize(("kind", "n"), [("verbs", 3000), ("commands", 800)])
def test_inputs(kind, n):
    campaign(kind, n, 0)
