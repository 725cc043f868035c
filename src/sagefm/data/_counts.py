"""Raw counts: the choice of layer, the check, and what the networks read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import sparse

from sagefm._constants import BLOCK_ROWS
from sagefm.data._blocks import StoredMatrix, as_csr, is_stored
from sagefm.data._check_counts import find_processed
from sagefm.errors import CountsError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

_EXPECTED: Final = (
    "Expected raw counts (whole numbers of at least 0): pass the layer that holds them, layer=..., "
    "e.g. layer='counts' after adata.layers['counts'] = adata.X.copy() before normalizing."
)
#: Values that differ from whole numbers by less are counts with rounding errors.
_ALMOST: Final = 0.05


def get_counts(table: AnnData, layer: str | None = None) -> sparse.csr_matrix | StoredMatrix:
    """Return the raw counts of a layer, or of ``X`` (n_spots, n_vars); the table is not changed.

    Dense, CSR and CSC matrices of any numeric type, views, backed files and Dask arrays give equal results.
    Those in memory are checked and returned as CSR float32, which may share memory with the table and is read only.
    Those in a file (dense or CSR) or a Dask array stay there, and are checked as they are read.
    """
    if layer is not None and layer not in table.layers:
        layers = [key for key in table.layers if key is not None]
        hint = f" {_elsewhere(table, layer)}".rstrip()
        raise MissingKeyError(f"layer={layer!r} is not in adata.layers; found {layers}.{hint}")
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    matrix: Any = table.X if layer is None else table.layers[layer]
    if matrix is None:
        hint = _elsewhere(table, layer) or "Pass the layer that holds raw counts: layer=..."
        raise MissingKeyError(f"{where} is empty. {hint}")
    if getattr(getattr(matrix, "dtype", None), "kind", "f") not in "biuf":
        raise CountsError(f"{where} holds values of type {matrix.dtype}. {_elsewhere(table, layer) or _EXPECTED}")
    if is_stored(matrix):
        # Without the table: a Dask cluster sends the check to its workers.
        return StoredMatrix(matrix, partial(_checked, where=where, elsewhere=str))
    if hasattr(matrix, "to_memory"):  # backed CSC
        matrix = matrix.to_memory()
    elif type(matrix).__module__.startswith("cupy"):  # on a GPU, as rapids-singlecell keeps it
        matrix = matrix.get()
    if not sparse.issparse(matrix):
        matrix = np.asarray(matrix)
    return _checked(matrix, where, partial(_elsewhere, table, layer))


def _checked(matrix: Any, where: str, elsewhere: Callable[[], str]) -> sparse.csr_matrix:
    """Return a matrix as CSR, or raise an error that says where raw counts are."""
    is_sparse = sparse.issparse(matrix)
    check_counts(matrix.data if is_sparse else matrix, where=where, is_sparse=is_sparse, elsewhere=elsewhere)
    counts = as_csr(matrix)
    processed = find_processed(counts)
    if processed is not None:
        raise CountsError(f"{where} {processed} {elsewhere() or _EXPECTED}")
    return counts


def _elsewhere(table: AnnData, layer: str | None) -> str:
    """Return a sentence that names where else in a table raw counts are, if anywhere."""
    places = {f"adata.layers[{key!r}]: pass layer={key!r}": table.layers[key] for key in table.layers if key != layer}
    places["adata.X: pass layer=None"] = None if layer is None else table.X
    places["adata.raw: adata = adata.raw.to_adata()"] = None if table.raw is None else table.raw.X
    places.pop("adata.layers[None]: pass layer=None", None)  # anndata 0.13 names X so
    where = next((place for place, matrix in places.items() if matrix is not None and _are_counts(matrix)), None)
    return f"Expected raw counts, which were found in {where}" if where else ""


def _are_counts(matrix: Any) -> bool:
    """Tell whether the first rows of a matrix are raw counts."""
    rows = matrix[:BLOCK_ROWS]
    rows = rows.compute() if hasattr(rows, "compute") else rows
    try:
        check_counts(rows.data if sparse.issparse(rows) else np.asarray(rows), where="")
        return find_processed(as_csr(rows)) is None
    except (CountsError, TypeError, ValueError):
        return False


def check_counts(
    values: NDArray[Any], *, where: str, is_sparse: bool = True, elsewhere: Callable[[], str] = str
) -> None:
    """Raise unless all stored values are whole and not negative: logged data often begin with zeros and ones."""
    if values.dtype == bool or values.size == 0:
        return
    if values.dtype.kind not in "iuf":
        raise CountsError(f"{where} holds values of type {values.dtype}. {elsewhere() or _EXPECTED}")
    if not np.issubdtype(values.dtype, np.integer):
        if not np.isfinite(values).all():
            raise CountsError(f"{where} holds NaN or infinite values. {elsewhere() or _without_nan(values, where)}")
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            off = np.abs(values - whole)
            rounded = f"{where} = {where}.rint()" if is_sparse else f"{where} = np.rint({where})"
            raise CountsError(f"{where} {_fractional(values, off, rounded, elsewhere())}")
    if values.min() < 0:
        raise CountsError(f"{where} holds negative values, e.g. {float(values.min()):.4g}. {elsewhere() or _EXPECTED}")


def _without_nan(values: NDArray[Any], where: str) -> str:
    """Return how to leave out genes that hold NaN, of a dense matrix where some genes hold none."""
    has_nan = np.isnan(values).any(axis=0)
    if values.ndim != 2 or has_nan.all() or not has_nan.any():
        return _EXPECTED
    return (
        f"{_EXPECTED} If {has_nan.sum():,} genes were not measured in all sections (an outer join), leave them out: "
        f"adata = adata[:, ~np.isnan({where}).any(axis=0)].copy()"
    )


def _fractional(values: NDArray[Any], off: NDArray[Any], rounded: str, elsewhere: str) -> str:
    """Return what fractional values may be, and how to repair them."""
    example, share = float(values[off > 0][0]), np.mean(off > 0)
    if off.max() < _ALMOST:
        return (
            f"holds fractional values, e.g. {example:.8g}, all within {off.max():.1g} of whole numbers, as counts are that "
            f"were won back from normalized ones. {elsewhere or f'Round them, or pass layer=...: {rounded}'}"
        )
    what = f"holds fractional values, e.g. {example:.4g} ({share:.0%} of those stored): normalized or log-transformed data?"
    cleaned = f"If ambient RNA was removed from raw counts (SoupX, SpotClean), round what is left: {rounded}"
    return f"{what} {elsewhere or f'{_EXPECTED} {cleaned}'}"


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
