"""The variance of correlations between autocorrelated fields, and p-values that know of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter

import sagefm
from sagefm.errors import ArgumentError
from sagefm.metrics import Recovery
from sagefm.metrics._spectra import SpatialModes, Spectra

SIDE, N_GENES = 20, 400
GRID = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2).astype(float)


def fields(seed: int, smooth: float) -> np.ndarray:
    """Independent stationary fields on the grid (n_spots, n_genes)."""
    noise = np.random.default_rng(seed).normal(size=(N_GENES, 2 * SIDE, 2 * SIDE))
    smoothed = gaussian_filter(noise, (0, smooth, smooth)) if smooth else noise
    return smoothed[:, :SIDE, :SIDE].reshape(N_GENES, -1).T


@pytest.mark.parametrize("n", [1, 2, 3, 5, 55, 300])
def test_modes_are_orthonormal_and_stand_for_all(n):
    coordinates = np.random.default_rng(n).random((n, 2)) * [100, 40]
    modes = SpatialModes.of(coordinates)
    np.testing.assert_allclose(modes.values.T @ modes.values, np.eye(len(modes.octave)), atol=1e-9)
    np.testing.assert_allclose(modes.values.sum(axis=0), 0, atol=1e-9)
    assert modes.sizes.sum() == n - 1
    assert (np.bincount(modes.octave, minlength=len(modes.sizes)) <= modes.sizes).all()


def test_spots_on_a_line_and_at_one_place():
    for coordinates in (np.column_stack([np.arange(30.0), np.zeros(30)]), np.zeros((30, 2)), GRID[[0, 0, 5]]):
        modes = SpatialModes.of(coordinates)
        assert np.isfinite(modes.values).all()


@pytest.mark.parametrize(("smooth", "least", "most"), [(0, 0.9, 1.1), (2, 5, 60)])
def test_variance_is_that_of_correlations(smooth, least, most):
    """Of independent fields: 1 / (n - 1) where they are white, and many times that where both are smooth."""
    a, b = fields(0, smooth), fields(1, smooth)
    spectra = Spectra(N_GENES)
    spectra.begin(GRID)
    for rows in np.array_split(np.random.default_rng(2).permutation(len(GRID)), 3):
        spectra.add(rows, a[rows], b[rows], np.arange(N_GENES))
    r = np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])
    growth = np.mean(spectra.variance()) * (len(GRID) - 1)
    assert least < growth < most
    assert np.mean(spectra.variance()) / np.mean(r**2) == pytest.approx(1, abs=0.3)


def test_sections_follow_one_another_and_parts_count_by_their_spots():
    a, b = fields(0, 0), fields(1, 0)
    genes, spectra = np.arange(N_GENES), Spectra(N_GENES)
    for _ in range(2):
        spectra.begin(GRID)
        spectra.add(slice(None), a, b, genes)
    assert np.median(spectra.variance()) == pytest.approx(1 / (2 * (len(GRID) - 1)), rel=0.1)
    part = Spectra(N_GENES)
    part.begin(GRID)
    rows = np.random.default_rng(0).permutation(len(GRID))[:200]
    part.add(rows, a[rows], b[rows], genes)
    assert np.median(part.variance()) == pytest.approx(1 / 199, rel=0.15)


def recovered(smooth: float, *, with_places: bool) -> np.ndarray:
    """P-values of predictions that have nothing to do with the counts, of which both are as smooth."""
    ratio = np.exp(fields(3, smooth) / fields(3, smooth).std(axis=0) / 2)
    counts = np.random.default_rng(4).poisson(2 * ratio).astype(float)
    predicted = np.exp(fields(5, smooth) / fields(5, smooth).std(axis=0) / 2) * 2
    sums, spots = Recovery(N_GENES), np.arange(len(GRID))
    if with_places:
        sums.begin_section(GRID)
    sums.update(counts, predicted, null=np.full_like(counts, 2), genes=np.arange(N_GENES), spots=spots)
    sums.add_spots(len(GRID))
    return sums.result()["pval"].to_numpy()


def test_p_values_of_smooth_fields():
    """Independent spots would find many of them."""
    assert np.mean(recovered(2, with_places=False) < 0.05) > 0.12
    assert np.mean(recovered(2, with_places=True) < 0.05) < 0.09
    for with_places in (True, False):
        assert stats.binomtest(int((recovered(0, with_places=with_places) < 0.05).sum()), N_GENES, 0.05).pvalue > 1e-3


def test_recovery_needs_to_know_the_spots():
    sums, ones = Recovery(3), np.ones((4, 3))
    with pytest.raises(ArgumentError, match=r"coordinates has shape \(4, 3\); expected \(n_spots, 2\)"):
        sums.begin_section(ones)
    sums.begin_section(ones[:, :2])
    with pytest.raises(ArgumentError, match=r"pass spots=\.\.\."):
        sums.update(ones, ones, null=ones, genes=np.arange(3))
    with pytest.raises(ArgumentError, match="coordinates has 2 rows; expected the 4 spots"):
        sagefm.metrics.recovery(ones, ones, coordinates=ones[:2, :2])


def test_ceiling_is_the_expectation_of_splits():
    """The noise ceiling of a gene is that of `noise_ceiling`, which splits molecules at random, without the noise of it."""
    adata = sagefm.datasets.simulate(600, n_genes=200, return_rates=True)
    table = sagefm.metrics.recovery(adata.X, adata.layers["rate"])
    split = [sagefm.metrics.noise_ceiling(adata.X, rng=seed)["ceiling"] for seed in range(20)]
    clear = (table["detected"] > 0.3).to_numpy() & (table["ceiling"] > 0.4).to_numpy()
    assert clear.sum() > 20
    np.testing.assert_allclose(table["ceiling"][clear], np.mean(split, axis=0)[clear], atol=0.06)
    np.testing.assert_allclose(table["of_ceiling"][clear], (table["r"] / table["ceiling"])[clear])
    np.testing.assert_allclose(table["of_repeat"][clear], (table["r"] / table["ceiling"] ** 2)[clear])
    # What cannot be told from noise has no ratio.
    unclear = table["ceiling"] ** 2 < 2 * np.sqrt(2 / 600)
    assert unclear.any()
    assert table.loc[unclear, ["of_ceiling", "of_repeat"]].isna().all(axis=None)
