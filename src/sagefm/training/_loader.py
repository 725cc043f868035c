"""Batches of spots as tensors, for Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sagefm._constants import PROFILE_PRIOR
from sagefm.data._blocks import prefetch
from sagefm.module._reading import Batch
from sagefm.training._device_rows import ResidentInput
from sagefm.training._order import count_batches, plan_batches, shard_spots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.data._input import SectionInput
    from sagefm.training._sections import Sections

    Input = SectionInput | ResidentInput


class SpotBatches:
    """Batches of spots of some sections, each made in a thread while the one before is computed.

    An epoch depends on `seed`, its number and `n_shards` alone: the same parts make the same batches on one process
    or on several, and a run that was interrupted goes on as it would have. Sections are read when first needed, and
    dropped when no batch of the epoch needs them any more. With :attr:`device` a GPU, sections are kept there while
    they are needed and fit, and batches made there.

    Parameters
    ----------
    spots
        Spots of each section to go through.
    batch_size
        Spots that each of the `n_shards` parts of the sections gives to a batch.
    shuffle
        Another order and other masks in each epoch. Else: spots in order, and the same masks.
    window
        Sections that are mixed at a time; None: all.
    """

    def __init__(
        self,
        sections: Sections,
        spots: Sequence[NDArray[np.int64]],
        *,
        n_vocabulary: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        window: int | None = None,
        n_shards: int = 1,
    ) -> None:
        self.sections, self.shards = sections, shard_spots(spots, n_shards)
        self.n_vocabulary, self.batch_size, self.window = n_vocabulary, batch_size, window
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0
        #: Shards of this process.
        self.own = range(n_shards)
        #: Where batches are made.
        self.device = torch.device("cpu")
        self._resident: dict[int, ResidentInput] = {}

    def __len__(self) -> int:
        return max(count_batches(spots, self.batch_size) for spots in self.shards)

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(self._batches())

    def profile(self) -> NDArray[np.float64]:
        """Return the sum of the profiles of the sections of this process, each summing to one (n_vocabulary,)."""
        total = np.zeros(self.n_vocabulary)
        for i in range(len(self.shards[0])):
            # Several shards may share a section: it counts for the first.
            owner = next((shard for shard, spots in enumerate(self.shards) if len(spots[i])), None)
            if owner in self.own:
                section = self.sections[i].section
                counts = section.gene_totals.astype(np.float64) + PROFILE_PRIOR
                total[section.genes] += counts / counts.sum()
        return total

    def _batches(self) -> Iterator[Batch]:
        epoch = [self.epoch] if self.shuffle else []
        plans = {}
        for shard in self.own:
            rng = np.random.default_rng([self.seed, shard, *epoch]) if self.shuffle else None
            plans[shard] = plan_batches(self.shards[shard], self.batch_size, rng, self.window)
        last: dict[int, int] = {}
        for plan in plans.values():
            for step, parts in enumerate(plan):
                last |= {i: max(step, last.get(i, step)) for i, _ in parts}
        loaded: dict[int, Input] = {}
        for step in range(len(self)):
            parts = []
            seeds = []
            for shard, plan in plans.items():
                own = plan[step] if step < len(plan) else []
                seed = np.random.default_rng([self.seed, int(self.shuffle), shard, step, *epoch]).integers(2**63)
                seeds.append((sum(len(rows) for _, rows in own), int(seed)))
                parts += own
            if not parts:
                # This process has no spots left; the others wait for its gradients.
                parts = [(next(iter(loaded), 0), np.arange(0))]
            for i, _ in parts:
                if i not in loaded:
                    loaded[i] = self._load(i)
            yield make_batch([(loaded[i], rows) for i, rows in parts], self.n_vocabulary, tuple(seeds))
            loaded = {i: inputs for i, inputs in loaded.items() if last.get(i, -1) > step or len(loaded) == 1}

    def _load(self, i: int) -> Input:
        if i in self._resident:
            return self._resident[i]
        inputs = self.sections[i]
        if self.device.type == "cpu":
            return inputs
        free, total = torch.cuda.mem_get_info(self.device)
        if free - ResidentInput.n_bytes(inputs) < total / 3:
            return inputs  # room for batches comes first
        resident = ResidentInput(inputs, self.device)
        if self.window is None:
            self._resident[i] = resident
        return resident


def make_batch(
    parts: Sequence[tuple[Input, NDArray[np.int64]]], n_vocabulary: int, seeds: tuple[tuple[int, int], ...]
) -> Batch:
    """Return spots of some sections as one batch, with the `seeds` of its masks.

    Its columns are the sections' genes where these are the same, and otherwise the vocabulary, a gene that a section
    did not measure marked as such.
    """
    genes = parts[0][0].section.genes
    is_same = all(np.array_equal(inputs.section.genes, genes) for inputs, _ in parts[1:])
    n_genes = len(genes) if is_same else n_vocabulary
    device = next((part.device for part, _ in parts if isinstance(part, ResidentInput)), torch.device("cpu"))
    sizes = [len(rows) for _, rows in parts]
    counts, neighborhood = (torch.empty((sum(sizes), n_genes), device=device) for _ in range(2))
    gene_totals = np.zeros((len(parts), n_genes), np.float32)
    measured = np.zeros((len(parts), n_genes), dtype=bool)
    blocks = zip(counts.split(sizes), neighborhood.split(sizes), strict=True)
    for i, ((inputs, rows), (own_counts, own_neighborhood)) in enumerate(zip(parts, blocks, strict=True)):
        columns: Any = slice(None) if is_same else inputs.section.genes
        fills: Any = ((inputs.dense_counts, own_counts), (inputs.dense_neighborhood, own_neighborhood))
        for fill, own in fills:
            if is_same and isinstance(inputs, ResidentInput):
                fill(rows, out=own)
            elif is_same and device.type == "cpu":
                fill(rows, out=own.numpy())
            else:
                own.zero_()[:, columns] = torch.as_tensor(fill(rows), device=device)
        gene_totals[i, columns] = inputs.section.gene_totals
        measured[i, columns] = True
    weight = np.concatenate([inputs.center_weight[rows] for inputs, rows in parts])
    section = np.repeat(np.arange(len(parts)), sizes)
    batch = Batch(
        genes=None if n_genes == n_vocabulary else torch.from_numpy(genes),
        counts=counts,
        neighborhood=neighborhood,
        center_weight=torch.from_numpy(weight[:, None]),
        gene_totals=torch.from_numpy(gene_totals),
        section=None if len(parts) == 1 else torch.from_numpy(section),
        measured=None if is_same else torch.from_numpy(measured),
        seeds=seeds,
    )
    return batch if device.type == "cpu" else batch.to(device, non_blocking=True)
