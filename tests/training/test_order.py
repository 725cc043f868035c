"""The order of training: every spot once, sections mixed, the same parts on one process and on several."""

from __future__ import annotations

import numpy as np
import pytest

from sagefm.training._order import count_batches, plan_batches, shard_spots

SPOTS = [np.arange(0, 50, 2), np.arange(0), np.arange(33), np.arange(90)]


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
def test_every_spot_once(batch_size, seed, window):
    rng = None if seed is None else np.random.default_rng(seed)
    batches = plan_batches(SPOTS, batch_size, rng, window)
    assert len(batches) == count_batches(SPOTS, batch_size)
    sizes = [sum(len(rows) for _, rows in parts) for parts in batches]
    assert max(sizes) - min(sizes) <= 1
    assert abs(np.mean(sizes) - batch_size) <= 0.5 * batch_size or len(batches) == 1
    seen: list[list[int]] = [[] for _ in SPOTS]
    for parts in batches:
        for section, rows in parts:
            assert (np.diff(rows) > 0).all()
            seen[section] += rows.tolist()
    assert [sorted(rows) for rows in seen] == [rows.tolist() for rows in SPOTS]


def test_seed():
    orders = [
        [[(i, *rows) for i, rows in parts] for parts in plan_batches(SPOTS, 16, np.random.default_rng(seed))]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    in_order = [i for parts in plan_batches(SPOTS, 16) for i, _ in parts]
    assert in_order == sorted(in_order)


def test_window_bounds_what_is_in_memory():
    spots = [np.arange(100 + 10 * i) for i in range(40)]
    for window, most in ((1, 3), (4, 8)):
        batches = plan_batches(spots, 50, np.random.default_rng(0), window)
        first, last = {}, {}
        for step, parts in enumerate(batches):
            for i, _ in parts:
                first.setdefault(i, step)
                last[i] = step
        together = [sum(first[i] <= step <= last[i] for i in first) for step in range(len(batches))]
        assert max(together) <= most
    mixed = plan_batches(spots, 50, np.random.default_rng(0), 4)
    assert np.mean([len(parts) for parts in mixed]) > 3


@pytest.mark.parametrize("n_shards", [1, 2, 3, 5])
def test_shards(n_shards):
    shards = shard_spots(SPOTS, n_shards)
    for i, rows in enumerate(SPOTS):
        np.testing.assert_array_equal(np.sort(np.concatenate([shard[i] for shard in shards])), rows)
    if n_shards <= 3:
        assert all(sum(len(shard[i]) > 0 for shard in shards) <= 1 for i in range(len(SPOTS))), "whole sections"
    else:
        loads = [sum(len(rows) for rows in shard) for shard in shards]
        assert max(loads) - min(loads) <= len(SPOTS)


def test_shards_are_even():
    loads = [sum(len(rows) for rows in shard) for shard in shard_spots([np.arange(n) for n in (9, 8, 3, 3, 1)], 2)]
    assert loads == [12, 12]
    assert plan_batches([np.arange(0)], 4) == []
