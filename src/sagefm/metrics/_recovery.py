"""How well hidden counts are recovered, gene by gene, over what the section's mean profile gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy import special, stats

from sagefm._arguments import as_array, number, shown, whole_number
from sagefm._progress import ProgressBar
from sagefm.data._blocks import column_sums
from sagefm.data._counts import check_counts
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.metrics._rows import BLOCK_ROWS, MIN_NULL, PredictedRows, Rows
from sagefm.metrics._spectra import Spectra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: A gene must be detected in this many spots: below, the residuals of spots without a count, which are a function of
#: depth alone, make the correlation.
MIN_DETECTED: Final = 5
#: Smallest rate: one count more is an infinite surprise.
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

    Nearby spots are alike, and chance makes larger correlations than between independent spots. With the coordinates of
    each section (:meth:`begin_section`), p-values of ``r`` know that.

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
    >>> sums.begin_section(adata.obsm["spatial"])
    >>> for rows in np.array_split(np.arange(300), 3):
    ...     sums.update(counts[rows], rates[rows], null=null[rows], genes=np.arange(200), spots=rows)
    ...     sums.add_spots(len(rows))
    >>> sums.result()["d2"].shape
    (200,)
    """

    def __init__(self, n_genes: int) -> None:
        self.n_spots = 0
        n_genes = whole_number(n_genes, name="n_genes", minimum=0, maximum=_MAX_GENES)
        # Moments of the residuals (7), then of the log1p counts (7).
        self._moments, self._raw_moments = np.zeros((2, 7, n_genes))
        # Deviances of prediction and null, detections, and counts over their rates.
        self._sums = np.zeros((4, n_genes))
        self._spectra = Spectra(n_genes)

    def begin_section(self, coordinates: NDArray[np.floating]) -> None:
        """Begin a section, whose spots are those of the next calls of :meth:`update`.

        Parameters
        ----------
        coordinates
            Coordinates of the section's spots (n_spots, 2), in any unit.

        Raises
        ------
        ArgumentError
            Another shape.
        """
        places = as_array(coordinates, name="coordinates", n_dims=2)
        if places.shape[1] != 2:
            raise ArgumentError(f"coordinates has shape {places.shape}; expected (n_spots, 2).")
        self._spectra.begin(places)

    def update(
        self,
        counts: NDArray[np.floating],
        predicted: NDArray[np.floating],
        *,
        null: NDArray[np.floating],
        genes: NDArray[np.int64],
        spots: NDArray[np.int64] | slice | None = None,
    ) -> None:
        """Add some spots, for some of the genes.

        Parameters
        ----------
        counts, predicted, null
            Measured counts, and expected counts of prediction and null (n_spots, n_genes).
        genes
            Positions of these genes in the sums (n_genes,), each once.
        spots
            Positions of these spots in the section that was begun (n_spots,), if one was.

        Raises
        ------
        ArgumentError
            Shapes differ, or a section was begun and `spots` are not given.
        """
        if not counts.shape == predicted.shape == null.shape == (len(counts), len(genes)):
            shapes = [counts.shape, predicted.shape, null.shape]
            raise ArgumentError(f"counts, predicted and null have the shapes {shapes}; expected {len(genes)} genes.")
        root = np.sqrt(null)
        residuals = (counts - null) / root, (predicted - null) / root
        self._moments[:, genes] += moments(*residuals)
        self._raw_moments[:, genes] += moments(np.log1p(counts), np.log1p(predicted))
        self._sums[0, genes] += _deviance(counts, predicted)
        self._sums[1, genes] += _deviance(counts, null)
        self._sums[2, genes] += np.count_nonzero(counts, axis=0)
        self._sums[3, genes] += (counts / null).sum(axis=0, dtype=np.float64)
        if self._spectra.is_begun:
            if spots is None:
                raise ArgumentError("A section was begun: pass spots=..., the positions of these spots in it.")
            self._spectra.add(spots, *residuals, genes)

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
        ``deviance`` and ``null_deviance``; ``detected``, the share of spots with a count; and what counting noise
        allows: ``ceiling``, the r of a perfect prediction, ``of_ceiling``, r as a share of it, and ``of_repeat``, r over
        that of a second measurement of the same spots. Correlations are NaN for genes detected in fewer than 5 spots,
        the two ratios also where a gene's signal does not stand out from the noise of its counts.

        Notes
        -----
        A residual of counts is signal and noise, and the share of signal in its variance is estimated as

            R = sum_i [(x_i - null_i)^2 - x_i] / null_i  /  sum_i (x_i - null_i)^2 / null_i

        (each about its mean), since a Poisson count varies by its mean. A perfect prediction has ``r = sqrt(R)``, the
        ``ceiling``, and a second count of the same spots would have ``r = R`` with the first. The ratios are given where
        R is at least two standard errors of an R of zero, ``2 sqrt(2 / n_spots)``. As in :func:`noise_ceiling`, what is
        not Poisson noise counts as signal.

        The p-value is one-sided. Where sections were begun, r between unrelated fields has the variance of Clifford,
        Richardson and Hemon (1989) and the skewness of a random permutation; its distribution is taken to be Pearson's
        type III. Otherwise it is Student's t of independent spots. ``qval`` is the Benjamini-Hochberg false discovery
        rate.
        """
        deviance, null_deviance, detected, noise = self._sums
        is_tested = detected >= MIN_DETECTED
        r, pval, qval = correlation(
            self._moments, self.n_spots, is_tested, self._spectra.variance() if self._spectra.is_begun else None
        )
        raw_r, _, raw_qval = correlation(self._raw_moments, self.n_spots, is_tested)
        n = max(self.n_spots, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            d2 = np.where(null_deviance > 0, 1 - deviance / null_deviance, np.nan)
            spread = self._moments[2] - self._moments[0] ** 2 / n
            reliability = np.where(is_tested & (spread > 0), 1 - noise / spread, np.nan)
        is_clear = reliability >= least_reliability(n)
        ceiling = np.sqrt(np.maximum(reliability, 0))
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
                "detected": detected / n,
                "ceiling": ceiling,
                "of_ceiling": np.divide(r, ceiling, out=np.full_like(r, np.nan), where=is_clear),
                "of_repeat": np.divide(r, reliability, out=np.full_like(r, np.nan), where=is_clear),
            }
        )


def least_reliability(n_spots: int) -> float:
    """Return the smallest share of signal in the variance of a count that stands out from Poisson noise."""
    return float(2 * np.sqrt(2 / n_spots))


def recovery(
    counts: Any,
    predicted: Any,
    *,
    null: Any = None,
    coordinates: NDArray[np.floating] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
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
    coordinates
        Coordinates of the spots of one section (n_spots, 2). Default: p-values are those of independent spots, which are
        too small.
    progress
        As in :func:`sagefm.tl.embed`.

    Returns
    -------
    One row per gene, with the columns of :meth:`Recovery.result`. Of genes that were not predicted, ``detected``,
    ``null_deviance`` and ``ceiling`` are given and the others are NaN.

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
    >>> recovered = sagefm.metrics.recovery(adata.X, adata.layers["rate"], coordinates=adata.obsm["spatial"])
    >>> recovered[["r", "qval", "d2"]].shape
    (200, 3)
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
    if coordinates is not None:
        coordinates = as_array(coordinates, name="coordinates", n_dims=2)
        if len(coordinates) != n_spots:
            raise ArgumentError(f"coordinates has {len(coordinates)} rows; expected the {n_spots} spots of counts.")
        sums.begin_section(coordinates)
    with ProgressBar("recovery", n_spots, "spot", progress=progress) as bar:
        for start in range(0, n_spots, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, n_spots))
            x = measured[rows]
            check_counts(x, where="counts")
            expected = x.sum(axis=1, keepdims=True) * profile if null is None else null[rows]
            sums.update(x, model[rows], null=np.maximum(expected, MIN_NULL), genes=genes, spots=rows)
            sums.add_spots(len(x))
            bar.update(len(x))
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
    check_table(table, ("detected", "deviance", "null_deviance"))
    min_detected = number(
        min_detected, name="min_detected", is_valid=lambda x: 0 <= x <= 1, expected="a share of spots"
    )
    kept = table[(table["detected"] >= min_detected) & table["deviance"].notna()]
    null = float(kept["null_deviance"].sum())
    return 1 - float(kept["deviance"].sum()) / null if null > 0 else float("nan")


def check_table(table: object, columns: Sequence[str]) -> None:
    """Raise unless `table` is a result of :func:`recovery` with these columns."""
    if not isinstance(table, pd.DataFrame):
        raise ArgumentError(f"table is {shown(table)}; expected the result of sagefm.metrics.recovery(...).")
    missing = [name for name in columns if name not in table]
    if missing:
        raise MissingKeyError(f"The table lacks {missing}; expected the result of sagefm.metrics.recovery(...).")


def moments(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sums over spots of a, b, a^2, b^2, ab, a^3, b^3 (7, n_genes)."""
    sums = [values.sum(axis=0, dtype=np.float64) for values in (a, b)]
    # einsum makes no array of the products.
    products = [np.einsum("ij,ij->j", left, right, dtype=np.float64) for left, right in ((a, a), (b, b), (a, b))]
    cubes = [np.einsum("ij,ij,ij->j", values, values, values, dtype=np.float64) for values in (a, b)]
    return np.stack([*sums, *products, *cubes])


def _deviance(counts: NDArray[np.floating], rates: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Poisson deviance of expected counts, ``2 sum_i x log(x / rate) - x + rate`` (n_genes,)."""
    terms = special.kl_div(counts, np.maximum(rates, _MIN_RATE))
    return np.asarray(2 * terms.sum(axis=0, dtype=np.float64))


def correlation(
    moments: NDArray[np.float64], n: int, is_tested: NDArray[np.bool_], variance: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return correlations of the genes that are tested, one-sided p-values and false discovery rates.

    `variance` is that of r between unrelated fields (n_genes,), taken to be at least that of independent spots. Default:
    spots are independent.
    """
    a, b, aa, bb, ab, aaa, bbb = moments
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt((n * aa - a**2) * (n * bb - b**2))
        r = np.where(is_tested & (spread > 0), (n * ab - a * b) / spread, np.nan).clip(-1, 1)
        if variance is None:
            pval = stats.t.sf(r * np.sqrt((n - 2) / (1 - r**2)), n - 2)
        else:
            skewness = [
                np.sqrt(n) * (cubes - 3 * sums * squares / n + 2 * sums**3 / n**2) / (squares - sums**2 / n) ** 1.5
                for sums, squares, cubes in ((a, aa, aaa), (b, bb, bbb))
            ]
            # With a negative skewness, large correlations would be impossible.
            skew = np.maximum(skewness[0] * skewness[1] / np.sqrt(n), 0)
            z = r / np.sqrt(np.maximum(variance, 1 / max(n - 1, 1)))
            pval = np.where(np.isfinite(r), stats.pearson3.sf(z, skew), np.nan)
    return r, pval, false_discovery(pval)


def false_discovery(pval: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return false discovery rates (Benjamini and Hochberg) of p-values, NaN where these are."""
    qval, known = np.full_like(pval, np.nan), np.isfinite(pval)
    qval[known] = stats.false_discovery_control(pval[known])
    return qval
