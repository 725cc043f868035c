"""How well hidden counts are recovered, gene by gene, over what the section's mean profile gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy import sparse, special, stats

from sagefm._arguments import as_array, as_seed, number, shown, whole_number
from sagefm.data._blocks import StoredMatrix, column_sums, is_stored
from sagefm.data._counts import check_counts
from sagefm.errors import ArgumentError, MissingKeyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A gene must be detected in this many spots: below, the residuals of spots without a count, which are a function of
#: depth alone, make the correlation.
MIN_DETECTED: Final = 5
#: Rows made dense at a time: some ten arrays of float64, 180 MB for 18,000 genes.
_BLOCK_ROWS: Final = 128
#: Smallest rates: with a rate of zero a residual is not defined, and one count is an infinite surprise.
_MIN_NULL: Final = float(np.finfo(np.float32).tiny)
_MIN_RATE: Final = 1e-6
_MAX_GENES: Final = 1_000_000


class Recovery:
    """Sums over spots from which recovery is computed; blocks of spots may come in any order.

    The null model of a spot is its section's mean profile times its size factor: it knows depth and
    learns nothing. Correlations of raw or log-normalized counts are mostly depth, so recovery is measured
    over that null:

    - ``r``: correlation, over spots, of the Pearson residuals ``(x - null)/sqrt(null)`` of measured counts
      with ``(predicted - null)/sqrt(null)``;
    - ``d2``: share of the null's Poisson deviance that the prediction explains, 0 for the null itself.

    The correlation of log1p counts, ``raw_r``, is kept for comparison with published figures.

    Parameters
    ----------
    n_genes
        Number of genes.

    Examples
    --------
    >>> import numpy as np
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> counts, rates = adata.X.toarray(), adata.layers["rate"]
    >>> null = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    >>> sums = sagefm.metrics.Recovery(200)
    >>> for rows in np.array_split(np.arange(300), 3):
    ...     sums.update(counts[rows], rates[rows], null=null[rows], genes=np.arange(200))
    ...     sums.add_spots(len(rows))
    >>> sums.result()["d2"].shape
    (200,)
    """

    def __init__(self, n_genes: int) -> None:
        self.n_spots = 0
        # Moments of the residuals (5), then of the log1p counts (5); deviances of prediction and null; detections.
        self._sums = np.zeros((13, whole_number(n_genes, name="n_genes", minimum=0, maximum=_MAX_GENES)))

    def update(
        self,
        counts: NDArray[np.floating],
        predicted: NDArray[np.floating],
        *,
        null: NDArray[np.floating],
        genes: NDArray[np.int64],
    ) -> None:
        """Add some spots, for some of the genes.

        Parameters
        ----------
        counts, predicted, null
            Measured counts, and expected counts of prediction and null (n_spots, n_genes).
        genes
            Positions of these genes in the sums (n_genes,), each once.

        Raises
        ------
        ArgumentError
            Shapes differ.
        """
        if not counts.shape == predicted.shape == null.shape == (len(counts), len(genes)):
            shapes = [counts.shape, predicted.shape, null.shape]
            raise ArgumentError(f"counts, predicted and null have the shapes {shapes}; expected {len(genes)} genes.")
        root = np.sqrt(null)
        self._sums[:5, genes] += _moments((counts - null) / root, (predicted - null) / root)
        self._sums[5:10, genes] += _moments(np.log1p(counts), np.log1p(predicted))
        self._sums[10, genes] += _deviance(counts, predicted)
        self._sums[11, genes] += _deviance(counts, null)
        self._sums[12, genes] += np.count_nonzero(counts, axis=0)

    def add_spots(self, n_spots: int) -> None:
        """Count spots, once for all genes.

        Parameters
        ----------
        n_spots
            Number of spots that :meth:`update` was given.

        Raises
        ------
        ArgumentError
            Not a whole number of at least 0.
        """
        self.n_spots += whole_number(n_spots, name="n_spots", minimum=0)

    def result(self) -> pd.DataFrame:
        """Return the recovery of each gene.

        Returns
        -------
        One row per gene: ``r``, ``pval``, ``qval``, ``d2``; the same of log1p counts, ``raw_r``, ``raw_qval``;
        ``deviance`` and ``null_deviance``; ``detected``, the share of spots with a count. Correlations are NaN for
        genes detected in fewer than 5 spots.

        Notes
        -----
        The p-value is one-sided, from Student's t with n_spots - 2 degrees of freedom. Neighboring spots are not
        independent, so p-values are too small. ``qval`` is the Benjamini-Hochberg false discovery rate.
        """
        deviance, null_deviance, detected = self._sums[10:]
        is_tested = detected >= MIN_DETECTED
        r, pval, qval = _correlation(self._sums[:5], self.n_spots, is_tested)
        raw_r, _, raw_qval = _correlation(self._sums[5:10], self.n_spots, is_tested)
        with np.errstate(divide="ignore", invalid="ignore"):
            d2 = np.where(null_deviance > 0, 1 - deviance / null_deviance, np.nan)
        return pd.DataFrame(
            {
                "r": r,
                "pval": pval,
                "qval": qval,
                "d2": d2,
                "raw_r": raw_r,
                "raw_qval": raw_qval,
                "deviance": deviance,
                "null_deviance": null_deviance,
                "detected": detected / max(self.n_spots, 1),
            }
        )


def recovery(counts: Any, predicted: Any, *, null: Any = None) -> pd.DataFrame:
    """Return how well predicted counts recover measured ones, gene by gene; see :class:`Recovery`.

    Matrices may be dense, sparse, Dask arrays or backed by a file. They are read in blocks of spots, so memory does
    not grow with their number.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    predicted
        Expected counts at the depth of each spot (n_spots, n_genes). A gene that was not predicted is a column of NaN,
        or, in a sparse matrix, one without stored values.
    null
        Expected counts of the null model (n_spots, n_genes); default: the mean profile of `counts` times the size
        factor of each spot.

    Returns
    -------
    One row per gene, with the columns of :meth:`Recovery.result`. Of genes that were not predicted, ``detected`` and
    ``null_deviance`` are given and the others are NaN.

    Raises
    ------
    ArgumentError
        Shapes differ.
    CountsError
        `counts` holds values that are not raw counts.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> recovered = sagefm.metrics.recovery(adata.X, adata.layers["rate"])  # of the truth
    >>> recovered[["r", "d2"]].shape
    (200, 2)
    """
    measured = Rows(counts, name="counts")
    n_spots, n_genes = shape = measured.shape
    model = PredictedRows(predicted, shape)
    if null is None:
        profile = column_sums(measured.matrix)
        profile /= max(profile.sum(), 1)
    else:
        null = Rows(null, name="null", shape=shape)

    sums, genes = Recovery(n_genes), np.arange(n_genes)
    for start in range(0, n_spots, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        x = measured[rows]
        check_counts(x, where="counts")
        expected = x.sum(axis=1, keepdims=True) * profile if null is None else null[rows]
        sums.update(x, model[rows], null=np.maximum(expected, _MIN_NULL), genes=genes)
        sums.add_spots(len(x))
    return sums.result()


def pooled_d2(table: pd.DataFrame, min_detected: float = 0.1) -> float:
    """Return the share of the null's deviance that is explained, pooled over genes.

    Unlike in the median of ``d2``, genes with many counts have more weight.

    Parameters
    ----------
    table
        Result of :func:`recovery`, or of :meth:`Recovery.result`.
    min_detected
        Genes detected in a smaller share of spots are left out.

    Returns
    -------
    The share; NaN if no gene is left.

    Raises
    ------
    MissingKeyError
        `table` lacks a column.
    ArgumentError
        `table` is no DataFrame, or `min_detected` no share.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> sagefm.metrics.pooled_d2(sagefm.metrics.recovery(adata.X, adata.layers["rate"])) > 0
    True
    """
    if not isinstance(table, pd.DataFrame):
        raise ArgumentError(f"table is {shown(table)}; expected the result of sagefm.metrics.recovery(...).")
    min_detected = number(
        min_detected, name="min_detected", is_valid=lambda x: 0 <= x <= 1, expected="a share of spots"
    )
    missing = [name for name in ("detected", "deviance", "null_deviance") if name not in table]
    if missing:
        raise MissingKeyError(f"The table lacks {missing}; expected the result of sagefm.metrics.recovery(...).")
    kept = table[(table["detected"] >= min_detected) & table["deviance"].notna()]
    null = float(kept["null_deviance"].sum())
    return 1 - float(kept["deviance"].sum()) / null if null > 0 else float("nan")


def noise_ceiling(counts: sparse.csr_matrix | NDArray[np.floating], rng: int | np.random.Generator = 0) -> pd.DataFrame:
    """Return the correlation of residuals that no predictor can exceed except by chance, gene by gene.

    Every count is split into two independent halves by a fair coin for each molecule. With r_half the correlation,
    over spots, of the halves' Pearson residuals, each over its own profile times size factor, the reliability of the
    full count's residual is ``R = 2 r_half / (1 + r_half)`` (Spearman and Brown). A perfect prediction correlates
    with it by ``ceiling = sqrt(R)``, the bound of ``r`` in :func:`recovery`.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    rng
        Seed of the split.

    Returns
    -------
    ``r_half`` and ``ceiling``, one row per gene: NaN for genes detected in fewer than 5 spots, and a ceiling of 0 where
    r_half is not positive.

    Raises
    ------
    CountsError
        Values that are not raw counts.
    ArgumentError
        `counts` is not a matrix, or `rng` is no seed.

    Notes
    -----
    The ceiling of a single gene is noisy; take medians over genes. It holds for predictors that read other genes, too:
    it is set by the noise of the predicted counts. Depth and the section's profile belong to the null, not to the bound.

    Examples
    --------
    >>> import sagefm
    >>> ceiling = sagefm.metrics.noise_ceiling(sagefm.datasets.synovium().X)["ceiling"]
    >>> ceiling.shape
    (15005,)
    """
    whole = sparse.csr_matrix(Rows(counts, name="counts").matrix)
    check_counts(whole.data, where="counts")
    n_spots, n_genes = whole.shape
    first = whole.astype(np.float64)
    first.data = np.random.default_rng(as_seed(rng)).binomial(whole.data.astype(np.int64), 0.5).astype(np.float64)
    halves = first, sparse.csr_matrix(whole - first)
    profiles = [column_sums(half) / max(half.sum(), 1) for half in halves]
    sums = np.zeros((5, n_genes))
    for start in range(0, n_spots, _BLOCK_ROWS):
        residuals = []
        for half, profile in zip(halves, profiles, strict=True):
            x = half[start : start + _BLOCK_ROWS].toarray()
            null = np.maximum(x.sum(axis=1, keepdims=True) * profile, _MIN_NULL)
            residuals.append((x - null) / np.sqrt(null))
        sums += _moments(*residuals)
    detected = np.asarray((whole > 0).sum(axis=0)).ravel()
    r_half = _correlation(sums, n_spots, detected >= MIN_DETECTED)[0]
    positive = np.maximum(r_half, 0)
    return pd.DataFrame({"r_half": r_half, "ceiling": np.sqrt(2 * positive / (1 + positive))})


def _is_numeric(matrix: Any) -> bool:
    """Whether a matrix is an array of real numbers already, which is read as it is."""
    return isinstance(matrix, np.ndarray) and matrix.ndim == 2 and matrix.dtype.kind in "biuf"


class Rows:
    """A matrix (dense, sparse, stored or Dask) whose rows are made dense, float64, as they are read."""

    def __init__(self, matrix: Any, *, name: str, shape: tuple[int, int] | None = None) -> None:
        if isinstance(matrix, pd.DataFrame):
            matrix = matrix.to_numpy()
        if np.isscalar(matrix):
            raise ArgumentError(f"{name} is {shown(matrix)}; expected a matrix (n_spots, n_genes).")
        if is_stored(matrix):
            self.matrix: Any = StoredMatrix(matrix, lambda block: block)
        else:
            self.matrix = matrix if sparse.issparse(matrix) or _is_numeric(matrix) else as_array(matrix, name=name)
        self.shape: tuple[int, int] = self.matrix.shape
        if len(self.shape) != 2 or shape not in (None, self.shape):
            expected = "(n_spots, n_genes)" if shape is None else f"that of counts, {shape}"
            raise ArgumentError(f"{name} has shape {self.shape}; expected {expected}.")

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        matrix = self.matrix
        if isinstance(matrix, StoredMatrix) and not isinstance(rows, slice):
            matrix, rows = matrix.with_rows(rows), slice(None)
        part = matrix[rows]
        return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)


class PredictedRows(Rows):
    """Expected counts (n_spots, n_genes), NaN for genes that were not predicted."""

    def __init__(self, matrix: Any, shape: tuple[int, int], *, is_log: bool = False) -> None:
        super().__init__(matrix, name="predicted", shape=shape)
        self.is_log = is_log
        self.absent = np.zeros(shape[1], dtype=bool)
        if sparse.issparse(self.matrix):
            # The sparse layer of tl.impute(genes=...) stores all values of its genes, and none of the others.
            starts = range(0, shape[0], _BLOCK_ROWS)
            self.absent = sum(self.matrix[start : start + _BLOCK_ROWS].getnnz(axis=0) for start in starts) == 0

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        values = super().__getitem__(rows)
        rates: NDArray[np.float64] = np.maximum(np.expm1(values) if self.is_log else values, 0)
        rates[:, self.absent] = np.nan
        return rates


def _moments(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sums over spots of a, b, a^2, b^2, ab (5, n_genes)."""
    sums = [values.sum(axis=0, dtype=np.float64) for values in (a, b)]
    # einsum makes no array of the products.
    products = [np.einsum("ij,ij->j", left, right, dtype=np.float64) for left, right in ((a, a), (b, b), (a, b))]
    return np.stack([*sums, *products])


def _deviance(counts: NDArray[np.floating], rates: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Poisson deviance of expected counts, ``2 sum_i x log(x / rate) - x + rate`` (n_genes,)."""
    terms = special.kl_div(counts, np.maximum(rates, _MIN_RATE))
    return np.asarray(2 * terms.sum(axis=0, dtype=np.float64))


def _correlation(
    moments: NDArray[np.float64], n: int, is_tested: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return correlations of the genes that are tested, one-sided p-values and false discovery rates."""
    a, b, aa, bb, ab = moments
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt((n * aa - a**2) * (n * bb - b**2))
        r = np.where(is_tested & (spread > 0), (n * ab - a * b) / spread, np.nan).clip(-1, 1)
        t = r * np.sqrt((n - 2) / (1 - r**2))
    pval = stats.t.sf(t, n - 2)
    return r, pval, false_discovery(pval)


def false_discovery(pval: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return false discovery rates (Benjamini and Hochberg) of p-values, NaN where these are."""
    qval, known = np.full_like(pval, np.nan), np.isfinite(pval)
    qval[known] = stats.false_discovery_control(pval[known])
    return qval
