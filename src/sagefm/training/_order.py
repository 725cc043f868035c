"""The order of training: which spots of which sections make a batch, on which process."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    #: Some spots of one section: its index, and rows, increasing.
    Part = tuple[int, NDArray[np.int64]]


def shard_spots(spots: Sequence[NDArray[np.int64]], n_shards: int) -> list[list[NDArray[np.int64]]]:
    """Share out spots among processes: whole sections, evenly, so that a process reads no other's.

    Where there are fewer sections than shards, each section's spots are dealt out in turn. Returns the spots of each
    section, of which there may be none, for each shard.
    """
    sizes = np.array([len(rows) for rows in spots])
    if np.count_nonzero(sizes) < n_shards:
        return [[rows[shard::n_shards] for rows in spots] for shard in range(n_shards)]
    loads = np.zeros(n_shards, dtype=np.int64)
    shards = [[np.arange(0) for _ in spots] for _ in range(n_shards)]
    for section in np.argsort(-sizes, kind="stable"):
        shard = int(np.argmin(loads))
        shards[shard][section] = spots[section]
        loads[shard] += sizes[section]
    return shards


def count_batches(spots: Sequence[NDArray[np.int64]], batch_size: int) -> int:
    """Return the number of batches of :func:`plan_batches`."""
    n_spots = sum(len(rows) for rows in spots)
    return max(round(n_spots / batch_size), 1) if n_spots else 0


def plan_batches(
    spots: Sequence[NDArray[np.int64]],
    batch_size: int,
    rng: np.random.Generator | None = None,
    window: int | None = None,
) -> list[list[Part]]:
    """Return the batches of an epoch, each a list of the spots it has of some sections.

    Every spot is in one batch. Without `window`, any spots may meet in a batch. With it, sections begin one after
    the other in random order, and the spots of each are strewn over the time that `window` sections take: a batch
    mixes about as many sections, and no more need be in memory. Without `rng`, spots come in order. Batches differ by
    one spot at most.
    """
    n_batches = count_batches(spots, batch_size)
    if n_batches == 0:
        return []
    sizes = np.array([len(rows) for rows in spots])
    section = np.repeat(np.arange(len(spots)), sizes)
    rows = np.concatenate(spots)
    if rng is not None:
        time = rng.random(len(rows))
        if window is not None:
            order = rng.permutation(len(spots))
            begin = np.empty(len(spots))
            begin[order] = np.cumsum(sizes[order]) - sizes[order]
            time = begin[section] + time * window * sizes[sizes > 0].mean()
        by_time = np.argsort(time, kind="stable")
        section, rows = section[by_time], rows[by_time]
    edges = np.linspace(0, len(rows), n_batches + 1).round().astype(int)
    return [_parts(section[a:b], rows[a:b]) for a, b in pairwise(edges)]


def _parts(section: NDArray[np.int64], rows: NDArray[np.int64]) -> list[Part]:
    order = np.lexsort((rows, section))
    section, rows = section[order], rows[order]
    cuts = np.flatnonzero(np.diff(section)) + 1
    return [(int(s[0]), r) for s, r in zip(np.split(section, cuts), np.split(rows, cuts), strict=True)]
