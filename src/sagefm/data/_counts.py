"""Raw counts: the choice of layer, the check, and what the networks read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sagefm.data._blocks import StoredMatrix, as_csr, is_stored
from sagefm.errors import CountsError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def get_counts(table: AnnData, layer: str | None = None) -> sparse.csr_matrix | StoredMatrix:
    """Return the raw counts of a layer, or of ``X`` (n_spots, n_vars); the table is not changed.

    Dense, CSR and CSC matrices of any numeric type, views, backed files and Dask arrays give equal results.
    Those in memory are checked and returned as CSR float32, which may share memory with the table and is read only.
    Those in a file (dense or CSR) or a Dask array stay there, and are checked as they are read.
    """
    if layer is not None and layer not in table.layers:
        layers = [key for key in table.layers if key is not None]
        raise MissingKeyError(f"layer={layer!r} is not in adata.layers; found {layers}.")
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    matrix: Any = table.X if layer is None else table.layers[layer]
    if matrix is None:
        raise MissingKeyError(f"{where} is empty. Pass the layer that holds raw counts: layer=...")
    if is_stored(matrix):
        return StoredMatrix(matrix, partial(_checked, where=where))
    if hasattr(matrix, "to_memory"):  # backed CSC
        matrix = matrix.to_memory()
    elif type(matrix).__module__.startswith("cupy"):  # on a GPU, as rapids-singlecell keeps it
        matrix = matrix.get()
    if not sparse.issparse(matrix):
        matrix = np.asarray(matrix)
    check_counts(matrix.data if sparse.issparse(matrix) else matrix, where=where)
    return as_csr(matrix)


def _checked(counts: sparse.csr_matrix, where: str) -> sparse.csr_matrix:
    check_counts(counts.data, where=where)
    return counts


def check_counts(values: NDArray[Any], *, where: str) -> None:
    """Raise unless all stored values are whole and not negative: logged data often begin with zeros and ones."""
    if values.dtype == bool or values.size == 0:
        return
    if not np.issubdtype(values.dtype, np.number):
        raise CountsError(f"{where} holds values of type {values.dtype}; expected raw counts.")
    repair = (
        "Expected raw counts (whole numbers of at least 0): pass the layer that holds them, layer=..., "
        "e.g. layer='counts' after adata.layers['counts'] = adata.X.copy() before normalizing."
    )
    if not np.issubdtype(values.dtype, np.integer):
        if not np.isfinite(values).all():
            raise CountsError(f"{where} holds NaN or infinite values. {repair}")
        fractional = values != np.rint(values)
        if fractional.any():
            example = float(values[fractional][0])
            raise CountsError(
                f"{where} holds fractional values, e.g. {example:.4g} ({fractional.mean():.0%} of those stored): "
                f"normalized or log-transformed data? {repair}"
            )
    if values.min() < 0:
        raise CountsError(f"{where} holds negative values, e.g. {float(values.min()):.4g}. {repair}")


def log1p(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return log(1 + x), the published network's input (Zhan et al. 2026)."""
    return with_values(counts, np.log1p(counts.data))


def log_normalize(
    counts: sparse.csr_matrix, scale: float, totals: NDArray[np.floating] | None = None
) -> sparse.csr_matrix:
    """Return u = log(1 + scale x / total); a spot without counts gives zeros. Default of `totals`: those of `counts`."""
    if totals is None:
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64), dtype=np.float32).ravel()
    factors = np.repeat(scale / np.maximum(totals, 1), np.diff(counts.indptr)).astype(np.float32)
    return with_values(counts, np.log1p(counts.data * factors))


def with_values(matrix: sparse.csr_matrix, values: NDArray[np.float32]) -> sparse.csr_matrix:
    """Return a matrix of the same pattern, which is shared, with other stored values."""
    return sparse.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)
