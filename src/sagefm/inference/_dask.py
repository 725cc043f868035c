"""The products of a section's counts with the first layer's weights, computed by the workers of a Dask cluster."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import torch
from distributed import Client

from sagefm.data._blocks import StoredMatrix, as_csr, iter_blocks
from sagefm.errors import ArgumentError
from sagefm.inference._products import Products, project_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.inference._products import Projector

#: Spots of a task, where the counts are not in chunks already.
_TASK_ROWS = 4096


@contextmanager
def cluster_projector(client: Any) -> Iterator[Projector]:
    """Yield a projector that runs on a Dask client, connected to the scheduler at `client` if that is an address."""
    if isinstance(client, Client):
        yield partial(_project_on_cluster, client)
        return
    if not isinstance(client, str):
        raise ArgumentError(f"Found client of type {type(client).__name__}; expected distributed.Client or an address.")
    try:
        connected = Client(client, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ArgumentError(f"client={client!r}: no Dask scheduler answers there. ({error})") from error
    with connected:
        yield partial(_project_on_cluster, connected)


def _project_on_cluster(
    client: Client,
    counts: sparse.csr_matrix | StoredMatrix,
    transforms: Sequence[Callable[[sparse.csr_matrix], sparse.csr_matrix]],
    weights: Sequence[torch.Tensor],
    *,
    block_rows: int,
    done: Callable[[int], object] | None = None,
) -> Products:
    """Return what :func:`~sagefm.inference._products.project_counts` does.

    A chunk of a Dask array is read, checked and multiplied where it is; other counts are sent in blocks. What comes
    back has the width of the first layer.
    """
    n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
    if n_workers == 0:
        raise ArgumentError(f"The Dask scheduler at {client} has no workers. Start some: dask worker")
    n_spots, n_genes = counts.shape
    result = Products.empty(n_spots, n_genes, [weight.cpu() for weight in weights])
    shared = client.scatter([weight.cpu().numpy() for weight in weights], broadcast=True, hash=False)
    run = dask.delayed(_project_rows)
    pending: deque[tuple[NDArray[np.int64], Any]] = deque()

    def collect() -> None:
        rows, future = pending.popleft()
        parts, result.sizes[rows], gene_totals = future.result()
        for product, part in zip(result.products, parts, strict=True):
            product[torch.from_numpy(rows)] = torch.from_numpy(part)
        result.gene_totals[:] += gene_totals
        if done is not None:
            done(len(rows))

    for rows, *task in _tasks(counts):
        pending.append((rows, client.compute(run(*task, transforms, block_rows, *shared))))
        # Few at a time: each holds a block of counts.
        if len(pending) == 2 * n_workers:
            collect()
    while pending:
        collect()
    return result


def _tasks(counts: sparse.csr_matrix | StoredMatrix) -> Iterator[tuple[Any, ...]]:
    """Yield rows of the product, a block of counts, its rows that they are computed from, and what prepares these."""
    if not (isinstance(counts, StoredMatrix) and hasattr(counts.matrix, "dask")):
        for span, block in iter_blocks(counts, _TASK_ROWS):
            yield np.arange(span.start, span.start + block.shape[0]), block, slice(None), as_csr
        return
    chosen = np.arange(counts.shape[0]) if counts.rows is None else counts.rows
    for start, stop in pairwise(np.cumsum((0, *counts.matrix.chunks[0]))):
        rows = np.arange(*np.searchsorted(chosen, [start, stop]))
        if len(rows):
            yield rows, counts.matrix[start:stop], chosen[rows] - start, counts.prepare


def _project_rows(
    block: Any,
    chosen: NDArray[np.int64] | slice,
    prepare: Callable[[sparse.csr_matrix], sparse.csr_matrix],
    transforms: Sequence[Callable[[sparse.csr_matrix], sparse.csr_matrix]],
    block_rows: int,
    *weights: NDArray[np.float32],
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32], NDArray[np.float64]]:
    """Return the products of some rows, their sizes, and the counts of each gene in them; runs on a worker."""
    with torch.inference_mode():
        # Arrays that come from the scheduler are read only, and torch warns of these.
        tensors = [torch.from_numpy(np.array(weight)) for weight in weights]
        result = project_counts(prepare(as_csr(block)[chosen]), transforms, tensors, block_rows=block_rows)
    return [product.numpy() for product in result.products], result.sizes, result.gene_totals
