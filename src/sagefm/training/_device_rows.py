"""Sections kept on a GPU as CSR, of which batches are made dense there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sagefm.data._blocks import to_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.data._input import SectionInput


class DeviceRows:
    """Rows of a CSR float32 matrix on a device, made dense without waiting for it: all sizes are known on the host."""

    def __init__(self, matrix: sparse.csr_matrix, device: torch.device) -> None:
        self.n_columns = matrix.shape[1]
        self.indptr = matrix.indptr.astype(np.int64)
        self.indices = torch.from_numpy(matrix.indices).to(device)
        self.data = torch.from_numpy(matrix.data).to(device)

    def dense(self, rows: NDArray[np.int64], out: Tensor | None = None) -> Tensor:
        """Return rows, dense (n_rows, n_columns)."""
        device = self.data.device
        out = torch.empty((len(rows), self.n_columns), device=device) if out is None else out
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        # Position in `data` of each value less its position in the result.
        shift = self.indptr[rows] - (np.cumsum(lengths) - lengths)
        per_row = torch.from_numpy(np.stack([np.arange(len(rows)) * self.n_columns, shift])).to(
            device, non_blocking=True
        )
        repeats = torch.from_numpy(lengths).to(device, non_blocking=True)
        starts, shifts = torch.repeat_interleave(per_row, repeats, dim=1, output_size=int(lengths.sum()))
        source = torch.arange(len(shifts), device=device) + shifts
        out.zero_().view(-1).scatter_(0, starts + self.indices[source], self.data[source])
        return out


class ResidentInput:
    """What a network reads of a section, on a device; as :class:`~sagefm.data._input.SectionInput` is on the CPU."""

    def __init__(self, inputs: SectionInput, device: torch.device) -> None:
        self.device, self.section = device, inputs.section
        self.operator, self.center_weight = inputs.operator, inputs.center_weight
        self._has_mean = bool(inputs.mean.any())
        self._shift = torch.from_numpy(inputs.shift).to(device)
        self._mean = torch.from_numpy(inputs.mean).to(device)
        self._counts = DeviceRows(to_memory(inputs.section.counts), device)
        self._values = DeviceRows(to_memory(inputs.values), device)
        # The same pattern: one copy of it.
        self._values.indices = self._counts.indices

    @staticmethod
    def n_bytes(inputs: SectionInput) -> int:
        """Return the memory that a section takes on a device: positions, counts and values."""
        return 12 * int(to_memory(inputs.values).nnz)

    def dense_counts(self, rows: NDArray[np.int64], out: Tensor | None = None) -> Tensor:
        """Return raw counts at `rows`, dense (n_rows, n_genes)."""
        return self._counts.dense(rows, out)

    def dense_neighborhood(self, rows: NDArray[np.int64], out: Tensor | None = None) -> Tensor:
        """Return ``v`` at `rows`, dense (n_rows, n_genes): a small product with the neighbors' values."""
        device = self.device
        operator = self.operator[rows]
        neighbors, column = np.unique(operator.indices, return_inverse=True)
        weights = np.zeros((len(rows), len(neighbors)), np.float32)
        weights[np.repeat(np.arange(len(rows)), np.diff(operator.indptr)), column] = operator.data
        values = self._values.dense(neighbors.astype(np.int64))
        out = torch.empty((len(rows), self.section.n_genes), device=device) if out is None else out
        torch.mm(torch.from_numpy(weights).to(device, non_blocking=True), values, out=out)
        if self._has_mean:
            out.addcmul_(self._shift[torch.from_numpy(rows).to(device)][:, None], self._mean, value=-1)
        return out
