"""Batches of spots as tensors, for Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from sagefm.data._corpus import iter_batches
from sagefm.module._objective import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sagefm.data._corpus import SectionInput


class SpotBatches(IterableDataset):
    """Batches of spots of some sections, a batch of one section.

    Parameters
    ----------
    inputs
        What the network reads of each section.
    spots
        Spots to go through, one array a section.
    n_vocabulary
        Size of the vocabulary.
    batch_size
        Spots of a batch.
    seed
        Seed of the order, different in each epoch; None keeps the order of the sections.
    """

    def __init__(
        self,
        inputs: Sequence[SectionInput],
        spots: Sequence[NDArray[np.int64]],
        *,
        n_vocabulary: int,
        batch_size: int,
        seed: int | None,
    ) -> None:
        self.inputs = inputs
        self.spots = spots
        self.n_vocabulary = n_vocabulary
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return sum(1 for _ in iter_batches(self.spots, self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        rng = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        for section, rows in iter_batches(self.spots, self.batch_size, rng):
            yield self._batch(self.inputs[section], rows)

    def _batch(self, inputs: SectionInput, rows: NDArray[np.int64]) -> Batch:
        section = inputs.section
        complete = section.n_genes == self.n_vocabulary
        return Batch(
            genes=None if complete else torch.from_numpy(section.genes),
            counts=torch.from_numpy(inputs.dense_counts(rows)),
            values=torch.from_numpy(inputs.dense_values(rows)),
            neighborhood=torch.from_numpy(inputs.dense_neighborhood(rows)),
            center_weight=torch.from_numpy(inputs.center_weight[rows, None]),
            mean=torch.from_numpy(inputs.mean),
            gene_totals=torch.from_numpy(section.gene_totals),
            n_section=section.n_spots,
        )


def make_loader(batches: SpotBatches) -> DataLoader[Batch]:
    """Return a loader that passes batches on as they are."""
    return DataLoader(batches, batch_size=None)
