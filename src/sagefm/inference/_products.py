"""The first layer of a section: one product per spot, from which every neighborhood is averaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sagefm._arguments import whole_number
from sagefm._constants import BLOCK_ROWS, PROFILE_PRIOR
from sagefm.data._blocks import iter_blocks, prefetch
from sagefm.data._input import Log1pInput, depth_grid, expected_roots, sparse_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from sagefm.data._blocks import StoredMatrix
    from sagefm.data._input import SectionInput
    from sagefm.module._reading import SpotNetwork

#: Share of stored values below which a sparse product on the CPU is faster than one made dense. Two cores, 14,558
#: genes to 512: 8 against 99 ms at 1 %, 40 against 95 ms at 4 %, 77 against 85 ms at 8 % (benchmarks/embed.py).
SPARSE_BELOW: Final = 0.05


@dataclass(frozen=True)
class FirstLayer:
    """The first layer of a section: products of every spot, once, from which any spot's output is averaged.

    With P = U W_neigh^T, ``h_i = W_center c_i + (O P)_i - s_i W_neigh u_mean + b``: averaging and product commute, so
    that a spot is multiplied once and not once for each neighborhood it is in.

    Attributes
    ----------
    inputs
        What the network reads of the section.
    center, neighborhood
        ``W_center c`` and ``P`` (n_spots, hidden).
    neighborhood_mean, bias
        ``W_neigh u_mean`` and ``b`` (hidden,).
    sizes
        Counts of each spot (n_spots,).
    """

    inputs: SectionInput
    center: Tensor
    neighborhood: Tensor
    neighborhood_mean: Tensor
    bias: Tensor
    sizes: NDArray[np.float32]

    def h(self, rows: slice) -> Tensor:
        """Return the output of the first layer at some spots (n_rows, hidden)."""
        return (
            self.center[rows] + neighborhood(self.inputs, self.neighborhood, self.neighborhood_mean, rows) + self.bias
        )


@dataclass(frozen=True)
class Products:
    """Transformed counts times weights (n_spots, n_out), one product a transform, and what was summed on the way.

    `sizes` are the counts of each spot (n_spots,), `gene_totals` those of each gene (n_genes,).
    """

    products: list[Tensor]
    sizes: NDArray[np.float32]
    gene_totals: NDArray[np.float64]

    @classmethod
    def empty(cls, n_spots: int, n_genes: int, weights: Sequence[Tensor]) -> Products:
        """Return products to be filled in, on the device of the weights."""
        products = [torch.empty((n_spots, len(weight)), device=weight.device) for weight in weights]
        return cls(products, np.empty(n_spots, np.float32), np.zeros(n_genes))


#: Computes :class:`Products` of counts: :func:`project_counts` here, or the workers of a Dask cluster.
Projector: TypeAlias = Callable[..., Products]


def project_counts(
    counts: sparse.csr_matrix | StoredMatrix,
    transforms: Sequence[Callable[[sparse.csr_matrix], sparse.csr_matrix]],
    weights: Sequence[Tensor],
    *,
    block_rows: int = BLOCK_ROWS,
    done: Callable[[int], object] | None = None,
) -> Products:
    """Return the products of a section's counts, which are read once, `block_rows` at a time.

    A thread makes the next block dense while one is multiplied. `done` is told how many spots each block has.
    """
    n_spots, n_genes = counts.shape
    result = Products.empty(n_spots, n_genes, weights)
    factors = [Factor(weight) for weight in weights]
    buffers = cycle([_dense_buffer(counts, block_rows) for _ in range(2)])

    def operands() -> Iterator[tuple[slice, Factor, Tensor, Tensor]]:
        for rows, block in iter_blocks(counts, block_rows):
            result.sizes[rows] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
            result.gene_totals[:] += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
            for transform, factor, product in zip(transforms, factors, result.products, strict=True):
                yield rows, factor, product, as_operand(transform(block), product.device, next(buffers))

    for rows, factor, product, operand in prefetch(operands()):
        factor.multiply(operand, out=product[rows])
        if done is not None and factor is factors[-1]:
            done(operand.shape[0])
    return result


def project(
    values: sparse.csr_matrix | StoredMatrix, weights: Sequence[Tensor], *, block_rows: int = BLOCK_ROWS
) -> list[Tensor]:
    """Return ``values @ weight.T`` for weights on consecutive ranges of columns, each (n_spots, n_out)."""
    device = weights[0].device
    products = [torch.empty((values.shape[0], weight.shape[0]), device=device) for weight in weights]
    factors = [Factor(weight) for weight in weights]
    ranges = list(pairwise(np.cumsum([0] + [weight.shape[1] for weight in weights]).tolist()))
    buffer = _dense_buffer(values, block_rows)
    for rows, block in iter_blocks(values, block_rows):
        operand = as_operand(block, device, buffer)
        for factor, product, (start, stop) in zip(factors, products, ranges, strict=True):
            part = as_torch(block[:, start:stop], device) if is_sparse(operand) else operand[:, start:stop]
            factor.multiply(part, out=product[rows])
    return products


@dataclass(frozen=True)
class Factor:
    """Weights (n_out, n_genes) that blocks of values are multiplied with."""

    weight: Tensor

    @cached_property
    def by_gene(self) -> Tensor:
        """The weights with the genes as rows, which a sparse product reads."""
        return self.weight.T.contiguous()

    def multiply(self, values: Tensor, out: Tensor) -> None:
        """Write ``values @ weight.T`` (n_rows, n_out) to `out`."""
        torch.mm(values, self.by_gene if is_sparse(values) else self.weight.T, out=out)


def is_sparse(values: Tensor) -> bool:
    """Tell whether a block is multiplied as it is stored."""
    return values.layout != torch.strided


def as_operand(block: sparse.csr_matrix, device: torch.device, buffer: NDArray[np.float32]) -> Tensor:
    """Return rows as they are multiplied fastest: dense at the density of expression data, in `buffer` on the CPU.

    A CPU multiplies rows with fewer than `SPARSE_BELOW` of their values stored as they are.
    """
    if device.type != "cpu":
        # A fifth of the bytes of a dense block on their way.
        return as_torch(block, device).to_dense()
    if block.nnz < SPARSE_BELOW * block.shape[0] * block.shape[1]:
        return as_torch(block, device)
    return torch.from_numpy(block.toarray(out=buffer[: block.shape[0]]))


def _dense_buffer(values: sparse.csr_matrix | StoredMatrix, block_rows: int) -> NDArray[np.float32]:
    """Return room for a dense block of rows."""
    return np.empty((min(block_rows, values.shape[0]), values.shape[1]), np.float32)


def neighborhood(inputs: SectionInput, product: Tensor, mean: Tensor, rows: slice = slice(None)) -> Tensor:
    """Return ``W_neigh v`` at some spots (n_rows, n_out) from ``U W_neigh^T`` of all spots and ``W_neigh u_mean``."""
    shift = torch.from_numpy(inputs.shift[rows, None]).to(product.device)
    return average(inputs.operator[rows], product) - shift * mean


def average(operator: sparse.csr_matrix, product: Tensor) -> Tensor:
    """Return ``operator @ product`` (n_spots, n_out)."""
    if product.device.type == "cpu":
        return torch.from_numpy(operator @ product.numpy())
    return as_torch(operator, product.device) @ product


def as_torch(matrix: sparse.csr_matrix, device: torch.device) -> Tensor:
    """Return a matrix as torch's CSR on a device; on the CPU it shares memory."""
    indptr, indices, data = (torch.from_numpy(part).to(device) for part in (matrix.indptr, matrix.indices, matrix.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(indptr, indices, data, matrix.shape, check_invariants=False)


def first_layer(
    network: SpotNetwork,
    inputs: SectionInput,
    device: torch.device,
    *,
    block_rows: int = BLOCK_ROWS,
    projector: Projector = project_counts,
) -> FirstLayer:
    """Return the first layer of a section: the one product that is of the size of its counts."""
    section = inputs.section
    # A whole vocabulary in its order needs no copy of the weights.
    is_whole = np.array_equal(section.genes, np.arange(network.config.n_genes))
    genes = None if is_whole else torch.from_numpy(section.genes).to(device)
    w_center, w_neighborhood, bias = network.first_layer(genes)
    if isinstance(inputs, Log1pInput):
        # The center has the weights of its neighbors: one product serves both.
        result = projector(section.counts, [inputs.transform], [w_neighborhood], block_rows=block_rows)
        product = result.products[0].to(device)
        weight = torch.from_numpy(inputs.center_weight[:, None]).to(device)
        return FirstLayer(inputs, product * weight, product, torch.zeros_like(bias), bias, result.sizes)
    transforms, weights = [sparse_root, inputs.transform], [w_center, w_neighborhood]
    result = projector(section.counts, transforms, weights, block_rows=block_rows)
    center, around = (product.to(device) for product in result.products)
    # What the profile gives at a spot's depth is a function of depth.
    between, depths = depth_grid(result.sizes)
    expected = torch.from_numpy(expected_roots(depths, section_profile(result.gene_totals))).to(device) @ w_center.T
    center.sub_(average(between, expected))
    # The product of the mean is the mean of the products.
    return FirstLayer(inputs, center, around, around.mean(dim=0), bias, result.sizes)


def section_profile(gene_totals: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the share of each gene in the counts of a section (n_genes,)."""
    return gene_totals / max(float(gene_totals.sum(dtype=np.float64)), PROFILE_PRIOR)


def block_rows_of(batch_size: int | None) -> int:
    """Return the spots that are made dense at a time."""
    return BLOCK_ROWS if batch_size is None else whole_number(batch_size, name="batch_size", minimum=1)
