"""Hostile checkpoints: an error of ours or a whole network, within 5 seconds and 1 GB each; see campaign.py."""

from __future__ import annotations

import pytest

from tests.reliability.campaign import run


def _bad(kind: str, seed: int, n: int) -> list[dict[str, object]]:
    return [record for record in run(kind, seed, range(n)) if record["result"] not in ("refused", "loaded")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n"), [("folders", 100), ("archives", 60)])
def test_a_part_of_the_campaign(kind, n):
    assert not _bad(kind, 1, n)


@pytest.mark.reliability
@pytest.mark.parametrize(("kind", "n"), [("folders", 10_000), ("archives", 3_000)])
def test_campaign(kind, n):
    assert not _bad(kind, 0, n)
