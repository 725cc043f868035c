r"""Intervals of a measured count around the one that is expected, and whether they cover what they say.

Counts of gene g at spot i are taken to be negative binomial about their expected count,

    x_ig ~ NB(mean mu_ig, variance mu_ig + phi_g mu_ig^2),

with the dispersion phi of the gene's *other* spots j, by moments, shrunk to that of all genes of the section about
depth times profile:

    phi_ig = (sum_j [(x_jg - mu_jg)^2 - mu_jg] + S phi) / (sum_j mu_jg^2 + S),    S = 50.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy import sparse, special, stats

from sagefm._arguments import as_array, as_seed
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

#: Sum of squared expected counts that the section's dispersion is worth.
_STRENGTH: Final = 50.0
#: Smallest dispersion and smallest expected count: there the negative binomial is a Poisson, or zero.
_MIN_DISPERSION: Final = 1e-4
_MIN_RATE: Final = 1e-6
#: Genes made float64 at a time.
_BLOCK_GENES: Final = 512
#: Groups of genes by their mean count, and of spots by their depth.
_QUARTERS: Final = ("lowest", "second", "third", "highest")
_THIRDS: Final = ("shallowest", "middle", "deepest")


def section_dispersion(counts: Any, depth: NDArray[np.floating]) -> float:
    """Return the dispersion of all genes together about depth times the section's profile, at least 0.

    It takes no prediction, so that the interval of a gene does not depend on which others are predicted. `counts` may
    be sparse (n_spots, n_genes), `depth` are those of the spots (n_spots,).
    """
    depth = depth.astype(np.float64)
    totals = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    profile = totals / max(depth.sum(), 1.0)
    squares = (depth @ depth) * (profile @ profile)
    values = counts.data if sparse.issparse(counts) else counts
    of_counts = float(np.square(values, dtype=np.float64).sum())
    excess = of_counts - 2 * float((counts.T @ depth) @ profile) + squares - totals.sum()
    return float(max(excess / squares, 0.0)) if squares > 0 else 0.0


def dispersion(counts: NDArray[np.floating], expected: NDArray[np.floating], of_section: float) -> NDArray[np.float64]:
    """Return phi of each spot and gene, from the gene's other spots (n_spots, n_genes)."""
    x, mu = np.asarray(counts, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    excess, squares = (x - mu) ** 2 - mu, mu**2
    others = excess.sum(axis=0) - excess + _STRENGTH * of_section
    return np.asarray(np.maximum(others / (squares.sum(axis=0) - squares + _STRENGTH), _MIN_DISPERSION))


def predictive_interval(
    expected: NDArray[np.floating], phi: NDArray[np.floating], level: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the quantiles of a measured count that leave (1 - level) / 2 on either side (n_spots, n_genes)."""
    mu = np.maximum(np.asarray(expected, dtype=np.float64), _MIN_RATE)
    size, share = 1 / phi, 1 / (1 + phi * mu)
    lower, upper = (stats.nbinom.ppf(q, size, share).astype(np.float32) for q in ((1 - level) / 2, (1 + level) / 2))
    return lower, upper


def pit(
    counts: ArrayLike, expected: ArrayLike, dispersion: ArrayLike, *, rng: int | np.random.Generator = 0
) -> NDArray[np.float64]:
    """Return where each count lies in its predictive distribution, from 0 to 1.

    With F the distribution function and v uniform on (0, 1), ``u = F(x - 1) + v (F(x) - F(x - 1))`` is uniform where the
    distribution is right (randomized probability integral transform; Czado, Gneiting and Held 2009): spread evenly over
    the steps of a discrete distribution.

    Parameters
    ----------
    counts, expected
        Measured counts, and expected ones at the depth of the spot (n_spots, n_genes).
    dispersion
        Dispersion phi of the negative binomial, with variance ``mean + phi mean^2``: a number, or one for each gene
        (n_genes,) or count (n_spots, n_genes). Below 1e-4, counts are practically Poisson.
    rng
        Seed of v, or a generator.

    Returns
    -------
    u (n_spots, n_genes).

    Raises
    ------
    ArgumentError
        Shapes differ, or `rng` is no seed.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> u = sagefm.metrics.pit(adata.X.toarray(), adata.layers["rate"], 0.1)
    >>> u.shape
    (300, 200)
    """
    x, mu = as_array(counts, name="counts"), as_array(expected, name="expected")
    phi = as_array(dispersion, name="dispersion")
    if x.shape != mu.shape or phi.shape not in ((), x.shape[1:], x.shape):
        shapes = [x.shape, mu.shape, phi.shape]
        raise ArgumentError(f"counts, expected and dispersion have the shapes {shapes}; expected the same.")
    below, up_to = _steps(x, mu, phi)
    return np.asarray(below + np.random.default_rng(as_seed(rng)).random(x.shape) * (up_to - below))


def _steps(
    x: NDArray[np.float64], mu: NDArray[np.float64], phi: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of less than each count, and of at most it."""
    phi = np.maximum(phi, _MIN_DISPERSION)
    size, share = 1 / phi, 1 / (1 + phi * np.maximum(mu, _MIN_RATE))
    up_to = special.betainc(size, x + 1, share)
    return np.where(x > 0, special.betainc(size, np.maximum(x, 1), share), 0), up_to


def interval_coverage(
    counts: ArrayLike,
    expected: ArrayLike,
    *,
    levels: Sequence[float] = (0.5, 0.8, 0.95),
    depth: ArrayLike | None = None,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Return how often measured counts lie in their predictive intervals, in all and by genes and spots.

    Intervals are those of :func:`sagefm.tl.impute`: negative binomial, with a dispersion from the other spots.

    Parameters
    ----------
    counts, expected
        Measured counts of one section, and those expected while they were hidden (n_spots, n_genes). Genes that are NaN
        were not predicted, and take no part.
    levels
        What the intervals are meant to cover.
    depth
        Total counts of each spot (n_spots,). Default: the sum over the genes given.
    rng
        Seed of the randomization, or a generator.

    Returns
    -------
    One row per group and level: ``group``, ``level``, ``covered``, ``covered_plain`` and ``n``, the number of counts.
    Groups are ``"all"``, quarters of the genes by mean count, and thirds of the spots by depth.

    Raises
    ------
    ArgumentError
        Shapes differ, a level is not between 0 and 1, or `rng` is no seed.

    Notes
    -----
    ``covered_plain`` is the share of counts within the interval as it is written, ends included. Counts are whole
    numbers, so an interval cannot end where it should, and covers more than it says: nearly everything where a gene has
    few counts. ``covered`` counts the ends in part (:func:`pit`); it is the one to compare with the level.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> table = sagefm.metrics.interval_coverage(adata.X.toarray(), adata.layers["rate"])
    >>> table["group"].nunique()
    8
    """
    x, mu = as_array(counts, name="counts", n_dims=2), as_array(expected, name="expected")
    depths = [] if depth is None else [as_array(depth, name="depth", n_dims=1)]
    if x.shape != mu.shape or any(d.shape != x.shape[:1] for d in depths):
        shapes = [values.shape for values in (x, mu, *depths)]
        raise ArgumentError(f"counts, expected and depth have the shapes {shapes}; expected the same spots and genes.")
    levels = as_array(levels, name="levels", n_dims=1).tolist()
    if not all(0 < level < 1 for level in levels):
        raise ArgumentError(f"levels={levels}; expected numbers between 0 and 1.")
    generator = np.random.default_rng(as_seed(rng))
    depth = depths[0] if depths else x.sum(axis=1)
    known = np.flatnonzero(np.isfinite(mu).all(axis=0))
    x, mu = x[:, known], mu[:, known]
    third = _groups(depth, len(_THIRDS))
    quarter = _groups(x.mean(axis=0), len(_QUARTERS))
    of_section = section_dispersion(x, depth)
    # Counts in each third and quarter, and those covered by level, randomized and plain.
    totals = np.zeros((len(_THIRDS), len(_QUARTERS)))
    covered = np.zeros((2, len(levels), *totals.shape))
    for start in range(0, len(known), _BLOCK_GENES):
        columns = slice(start, start + _BLOCK_GENES)
        block, rates = x[:, columns], mu[:, columns]
        phi = dispersion(block, rates, of_section)
        below, up_to = _steps(block, rates, phi)
        u = below + generator.random(block.shape) * (up_to - below)
        place = third[:, None] * len(_QUARTERS) + quarter[None, columns]
        totals += np.bincount(place.ravel(), minlength=totals.size).reshape(totals.shape)
        for i, level in enumerate(levels):
            # A count is at least the lower end, and at most the upper end, of the interval of quantiles.
            within = (up_to >= (1 - level) / 2) & (below < (1 + level) / 2)
            for kind, inside in enumerate((np.abs(u - 0.5) <= level / 2, within)):
                covered[kind, i] += np.bincount(place[inside], minlength=totals.size).reshape(totals.shape)
    groups = {"all": np.ones_like(totals, dtype=bool)}
    groups |= {f"genes, {name} quarter": _slot(totals, i, axis=1) for i, name in enumerate(_QUARTERS)}
    groups |= {f"spots, {name} third": _slot(totals, i, axis=0) for i, name in enumerate(_THIRDS)}
    rows = []
    for group, kept in groups.items():
        n = totals[kept].sum()
        for i, level in enumerate(levels):
            shares = [covered[kind, i][kept].sum() / n if n else np.nan for kind in (0, 1)]
            rows.append((group, level, *shares, int(n)))
    return pd.DataFrame(rows, columns=["group", "level", "covered", "covered_plain", "n"])


def _groups(values: NDArray[np.floating], n_groups: int) -> NDArray[np.int64]:
    """Return for each value its group of the same size, from the lowest (n_values,)."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(rank * n_groups // max(len(values), 1))


def _slot(table: NDArray[np.float64], i: int, *, axis: int) -> NDArray[np.bool_]:
    """Return where a table's index along `axis` is `i`."""
    return np.asarray(np.indices(table.shape)[axis] == i)
