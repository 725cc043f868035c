"""The products of a section's counts with the first layer's weights, shared out among the workers of a Dask cluster."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sagefm.data._blocks import StoredMatrix, as_csr, iter_blocks
from sagefm.errors import ArgumentError
from sagefm.inference._products import Products, project_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

#: Spots of a task, where the counts are not in chunks already.
_TASK_ROWS = 4096


@contextmanager
def connected(client: Any) -> Iterator[Any]:
    """Yield a Dask client, connected to the scheduler at `client` if that is an address."""
    from distributed import Client

    if isinstance(client, Client):
        yield client
        return
    if not isinstance(client, str):
        raise ArgumentError(f"Found client of type {type(client).__name__}; expected distributed.Client or an address.")
    try:
        made = Client(client, timeout="30s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ArgumentError(f"client={client!r}: no Dask scheduler answers there. ({error})") from error
    with made:
        yield made


def project_on_cluster(
    client: Any,
    counts: sparse.csr_matrix | StoredMatrix,
    transforms: Sequence[Callable[[sparse.csr_matrix], sparse.csr_matrix]],
    weights: Sequence[torch.Tensor],
    *,
    block_rows: int,
) -> Products:
    """Return the products of a section's counts, as :func:`~sagefm.inference._products.project_counts` does.

    A chunk of a Dask array is read, checked and multiplied where it is; other counts are sent in blocks. What comes
    back is of the width of the first layer.

    Parameters
    ----------
    client
        A :class:`distributed.Client`.
    counts
        CSR float32 (n_spots, n_genes), in memory or stored.
    transforms
        Take rows of counts to values.
    weights
        Weights (n_out, n_genes) on the values of each transform.
    block_rows
        Rows of a block that a worker makes dense.
    """
    from distributed import as_completed

    n_spots, n_genes = counts.shape
    whole = Products.empty(n_spots, n_genes, weights, torch.device("cpu"))
    n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
    if n_workers == 0:
        raise ArgumentError(f"The Dask scheduler at {client.scheduler.address} has no workers. Start some: dask worker")
    shared = client.scatter([weight.cpu().numpy() for weight in weights], broadcast=True, hash=False)
    tasks = _tasks(counts)
    # Few at a time: each holds a block of counts.
    n_ahead = 2 * n_workers
    rows_of: dict[Any, Any] = {}

    def submit() -> Any:
        rows, block, chosen, prepare = next(tasks, (None, None, None, None))
        if rows is None:
            return None
        arguments = (chosen, prepare, transforms, block_rows, *shared)
        if hasattr(block, "dask"):
            import dask

            future = client.compute(dask.delayed(_project_rows)(block, *arguments))
        else:
            future = client.submit(_project_rows, block, *arguments, pure=False)
        rows_of[future.key] = rows
        return future

    first = [future for future in (submit() for _ in range(n_ahead)) if future is not None]
    running = as_completed(first, with_results=True)
    for future, (parts, sizes, sums) in running:
        rows = rows_of.pop(future.key)
        for product, part in zip(whole.products, parts, strict=True):
            product[torch.from_numpy(rows)] = torch.from_numpy(part)
        whole.sizes[rows] = sizes
        whole.sums[:] += sums
        future.release()
        following = submit()
        if following is not None:
            running.add(following)
    return whole


def _tasks(
    values: sparse.csr_matrix | StoredMatrix,
) -> Iterator[tuple[NDArray[np.int64], Any, NDArray[np.int64] | None, Callable[[Any], Any]]]:
    """Yield rows of the product, the counts they come from, the rows of these, and what is to be done to them."""
    if not (isinstance(values, StoredMatrix) and hasattr(values.matrix, "dask")):
        for span, block in iter_blocks(values, _TASK_ROWS):
            yield np.arange(span.start, span.start + block.shape[0]), block, None, _as_it_is
        return
    edges = np.cumsum((0, *values.matrix.chunks[0]))
    chosen = np.arange(values.shape[0]) if values.rows is None else values.rows
    for start, stop in pairwise(edges):
        rows = np.arange(*np.searchsorted(chosen, [start, stop]))
        if len(rows):
            yield rows, values.matrix[start:stop], chosen[rows] - start, values.prepare


def _as_it_is(block: sparse.csr_matrix) -> sparse.csr_matrix:
    return block


def _project_rows(
    block: Any,
    rows: NDArray[np.int64] | None,
    prepare: Callable[[sparse.csr_matrix], sparse.csr_matrix],
    transforms: Sequence[Callable[[sparse.csr_matrix], sparse.csr_matrix]],
    block_rows: int,
    *weights: NDArray[np.float32],
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32], NDArray[np.float64]]:
    """Run on a worker: the products of some rows, their sizes, and sums over them."""
    counts = as_csr(block)
    counts = prepare(counts if rows is None else counts[rows])
    with torch.inference_mode():
        # Arrays that come from the scheduler are read only, and torch warns of these.
        tensors = [torch.from_numpy(np.array(weight)) for weight in weights]
        made = project_counts(counts, transforms, tensors, block_rows=block_rows)
    return [product.numpy() for product in made.products], made.sizes, made.sums
