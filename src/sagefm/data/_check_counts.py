"""Whole numbers that are no counts, and counts that cannot be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sagefm.data._check_sections import find_whole_array
from sagefm.data._findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

#: Spots that are looked at, evenly spaced, and how many there must be to say anything.
_MAX_ROWS, _MIN_ROWS = 1000, 20
#: Of scaled counts: least share of a spot's values that are its smallest, which is not 1; least share of such spots.
_MIN_TIED, _MIN_SCALED = 0.2, 0.05
#: Variance by mean of the most abundant genes below which values are no counts: counts give 1 and more, rounded
#: logarithms about 0.1.
_MAX_DISPERSION, _N_ABUNDANT = 0.7, 10
#: Coefficient of variation of the sums of spots; 77 real sections have 0.3 and more.
_MIN_DEPTH_CV = 0.05
#: A count is wild if it is large, more than the others of its spot together, and so many times the largest elsewhere.
_WILD_COUNT, _WILD_RATIO = 1000, 10


def find_processed(counts: sparse.csr_matrix) -> str | None:
    """Return why whole numbers (n_spots, n_genes) are no raw counts, or None.

    - Only zeros and ones, where counts of the same genes would repeat.
    - No value of 1 at many spots, whose smallest value is shared by many genes: counts were scaled and rounded.
    - Variance below that of a Poisson count: logarithms were rounded.
    """
    rows = np.unique(np.linspace(0, max(counts.shape[0] - 1, 0), min(_MAX_ROWS, counts.shape[0])).astype(np.int64))
    sample = sparse.csr_matrix(counts[rows], dtype=np.float32)
    sample.eliminate_zeros()
    if sample.shape[0] < _MIN_ROWS or sample.nnz == 0:
        return None
    n_spots = sample.shape[0]
    means = np.asarray(sample.mean(axis=0)).ravel()
    if sample.data.max() == 1:
        rates = -np.log1p(-np.minimum(means, 1 - 1 / (2 * n_spots)))
        n_expected = n_spots * (1 - np.exp(-rates) * (1 + rates)).sum()
        detected = "holds no value but 0 and 1: whether a gene was detected, not how often."
        return detected if n_expected >= _MIN_ROWS else None
    sizes = np.diff(sample.indptr)
    full = sample[sizes >= _MIN_ROWS]
    if full.shape[0] >= _MIN_ROWS:
        sizes, starts = np.diff(full.indptr), full.indptr[:-1]
        smallest = np.minimum.reduceat(full.data, starts)
        n_tied = np.add.reduceat((full.data == np.repeat(smallest, sizes)).astype(np.int64), starts)
        scaled = (smallest > 1) & (n_tied >= _MIN_TIED * sizes)
        if scaled.mean() >= _MIN_SCALED:
            example = float(smallest[scaled][0])
            return (
                f"holds whole numbers that are no counts: at {scaled.mean():.0%} of the spots nothing is 1, and many genes "
                f"share the smallest value, e.g. {example:g}. Counts that were scaled (CPM, median) or logged, and rounded?"
            )
    abundant = np.argsort(-means)[:_N_ABUNDANT]
    abundant = abundant[means[abundant] >= 0.5]
    if len(abundant) >= _N_ABUNDANT // 2:
        dense = sample[:, abundant].toarray().astype(np.float64)
        dispersion = float(np.median(dense.var(axis=0) / dense.mean(axis=0)))
        if dispersion < _MAX_DISPERSION:
            return (
                f"holds whole numbers that are no counts: the most abundant genes have a variance of {dispersion:.2g} times "
                f"their mean, where counts have 1 and more. Logarithms that were rounded?"
            )
    return None


def find_depths(table: AnnData, counts: sparse.csr_matrix) -> Iterator[Finding]:
    """Yield findings on the sums of spots: none at all, nearly equal, or those of a whole array with its background."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    n_empty = int((totals == 0).sum())
    if n_empty:
        yield Finding(
            "empty spots",
            "warning",
            f"{n_empty} of {table.n_obs} spots have no counts; they are described by their neighbors alone. "
            f"To leave them out",
            "scanpy.pp.filter_cells(adata, min_counts=1)",
        )
    yield from find_whole_array(table, totals)
    totals = totals[totals > 0]
    if len(totals) >= _MIN_ROWS and totals.mean() >= 100 and totals.std() < _MIN_DEPTH_CV * totals.mean():
        yield Finding(
            "equal depths",
            "warning",
            f"All spots have nearly the same sum, {np.median(totals):,.0f} (they differ by {totals.std() / totals.mean():.1%}), "
            f"where raw counts of spots differ by 30 % and more. If these were scaled to one sum, pass the layer that holds "
            f"the raw counts, layer=...",
        )


def cap_wild(
    counts: sparse.csr_matrix, libraries: NDArray[np.int64], spots: Sequence[str], genes: Sequence[str]
) -> tuple[sparse.csr_matrix, list[Finding]]:
    """Return counts (n_spots, n_genes) without those that cannot be true, and what was found.

    A value that wrapped around (65,535 for -1) or was corrupted would rule the profile of its section, and so the result
    at every spot. It is read as the largest count of the gene elsewhere in the section. Counts are copied if any is wild.
    """
    if not counts.nnz or counts.data.max() < _WILD_COUNT:
        return counts, []
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    places = np.flatnonzero(counts.data >= _WILD_COUNT)
    rows = np.searchsorted(counts.indptr, places, side="right") - 1
    # Several in one spot do not hide each other: those of half its largest count and more are left out of its sum.
    largest = np.zeros(len(totals))
    np.maximum.at(largest, rows, counts.data[places])
    high = counts.data[places] >= largest[rows] / 2
    totals -= np.bincount(rows[high], counts.data[places[high]], len(totals))
    large = high & (counts.data[places] > totals[rows])
    places, rows = places[large], rows[large]
    columns = counts.indices[places]
    values = counts.data.copy()
    values[places] = 0
    others = sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
    wild: list[tuple[int, int, int, float]] = []
    for gene, library in sorted(set(zip(columns.tolist(), libraries[rows].tolist(), strict=True))):
        column = others[:, [gene]].toarray().ravel()
        highest = max(float(column[libraries == library].max()), 1.0)
        own = np.flatnonzero((columns == gene) & (libraries[rows] == library))
        # Upwards: what is above a gap is wild, but a count near the next one may be that of a hot spot.
        for i in own[np.argsort(counts.data[places[own]], kind="stable")]:
            value = float(counts.data[places[i]])
            if value >= _WILD_RATIO * highest:
                wild.append((int(places[i]), int(rows[i]), gene, highest))
            else:
                highest = value
    if not wild:
        return counts, []
    data = counts.data.copy()
    for place, _, _, highest in wild:
        data[place] = highest
    place, row, gene, highest = wild[0]
    names = sorted({str(spots[row]) for _, row, _, _ in wild})
    finding = Finding(
        "wild counts",
        "warning",
        f"{len(wild)} of the counts cannot be true, e.g. {counts.data[place]:,.0f} of {genes[gene]} in spot "
        f"{str(spots[row])!r}, where the largest elsewhere is {highest:,.0f}; it is read as that. To leave the spots out",
        f"adata = adata[~adata.obs_names.isin({names})].copy()",
    )
    return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape), [finding]
