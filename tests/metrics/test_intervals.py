"""Predictive intervals of counts: their ends, their dispersion and what they cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.metrics import Recovery, interval_coverage, pit, trust
from sagefm.metrics._intervals import dispersion, predictive_interval, section_dispersion

N_SPOTS, N_GENES, PHI = 400, 120, 0.4


@pytest.fixture(scope="module")
def case():
    """Negative binomial counts of known dispersion, and what was to be expected (400, 120)."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(4, 0.25, (N_SPOTS, 1)) * np.geomspace(0.05, 8, N_GENES) * rng.gamma(5, 0.2, (N_SPOTS, N_GENES))
    return stats.nbinom.rvs(1 / PHI, 1 / (1 + PHI * mean), random_state=1).astype(float), mean


def test_dispersion_by_its_definition(case):
    counts, mean = case
    phi = dispersion(counts, mean, 0.3)
    spot, gene = 7, 100
    others = np.arange(N_SPOTS) != spot
    x, mu = counts[others, gene], mean[others, gene]
    expected = (((x - mu) ** 2 - mu).sum() + 50 * 0.3) / ((mu**2).sum() + 50)
    assert phi[spot, gene] == pytest.approx(expected)
    # A spot's own count is no part of its dispersion.
    changed = counts.copy()
    changed[spot, gene] += 100
    assert dispersion(changed, mean, 0.3)[spot, gene] == pytest.approx(expected)
    assert abs(np.median(phi[:, 60:]) - PHI) < 0.06


def test_dispersion_of_a_section_is_about_its_profile(case):
    counts, _ = case
    depth = counts.sum(axis=1)
    null = depth[:, None] * counts.sum(axis=0) / counts.sum()
    expected = ((counts - null) ** 2 - null).sum() / (null**2).sum()
    assert section_dispersion(counts, depth) == pytest.approx(expected)
    assert section_dispersion(sparse.csr_matrix(counts), depth) == pytest.approx(expected)
    assert section_dispersion(np.zeros((3, 2)), np.zeros(3)) == 0


def test_ends_are_quantiles(case):
    _, mean = case
    lower, upper = predictive_interval(mean, np.full_like(mean, PHI), 0.8)
    drawn = stats.nbinom.rvs(1 / PHI, 1 / (1 + PHI * mean[:, -1]), size=(2000, N_SPOTS), random_state=2)
    assert (drawn < lower[:, -1]).mean() <= 0.1
    assert (drawn > upper[:, -1]).mean() <= 0.1
    assert (lower <= upper).all()
    poisson = predictive_interval(mean, np.full_like(mean, 1e-9) + 1e-4, 0.8)
    np.testing.assert_allclose(poisson[1], stats.poisson.ppf(0.9, mean), atol=1)


def test_pit_is_uniform_where_the_distribution_is_right(case):
    counts, mean = case
    u = pit(counts, mean, PHI)
    assert ((u >= 0) & (u <= 1)).all()
    shares = np.histogram(u, bins=10, range=(0, 1))[0] / u.size
    np.testing.assert_allclose(shares, 0.1, atol=0.01)
    # A Poisson is too narrow, and puts counts at the ends.
    assert (pit(counts[:, 90:], mean[:, 90:], 0) > 0.9).mean() > 0.15
    np.testing.assert_array_equal(u, pit(counts, mean, PHI))


def test_coverage_is_what_intervals_say(case):
    counts, mean = case
    table = interval_coverage(counts, mean)
    assert (table["covered"] - table["level"]).abs().max() < 0.03
    assert (table["covered_plain"] >= table["covered"] - 0.01).all()
    assert table["group"].tolist()[::3] == [
        "all",
        *(f"genes, {name} quarter" for name in ("lowest", "second", "third", "highest")),
        *(f"spots, {name} third" for name in ("shallowest", "middle", "deepest")),
    ]
    whole = table[table["group"] == "all"]
    for kind in ("genes", "spots"):
        parts = table[table["group"].str.startswith(kind)]
        assert parts.groupby("level")["n"].sum().tolist() == whole["n"].tolist()
    # The plain share is that of the ends that are written.
    phi = dispersion(counts, mean, section_dispersion(counts, counts.sum(axis=1)))
    lower, upper = predictive_interval(mean, phi, 0.8)
    plain = table.query("group == 'all' and level == 0.8")["covered_plain"].item()
    assert ((lower <= counts) & (counts <= upper)).mean() == pytest.approx(plain, abs=1e-3)


def test_coverage_finds_intervals_that_are_wrong(case):
    """Of expectations that know nothing of spots, deep ones are too low."""
    counts, mean = case
    table = interval_coverage(counts, np.tile(mean.mean(axis=0), (N_SPOTS, 1))).query("level == 0.5")
    covered = table.set_index("group")["covered"]
    assert covered["spots, deepest third"] < 0.48 < 0.5 < covered["spots, shallowest third"]


def test_genes_that_were_not_predicted_take_no_part(case):
    counts, mean = case
    absent = np.where(np.arange(N_GENES) % 3 == 0, np.nan, mean)
    table = interval_coverage(counts, absent, depth=counts.sum(axis=1))
    assert table["n"].iloc[0] == N_SPOTS * (N_GENES * 2 // 3)


def test_intervals_refuse_what_they_cannot_read(case):
    counts, mean = case
    with pytest.raises(ArgumentError, match=r"shapes \[\(400, 120\), \(400, 119\)\]"):
        interval_coverage(counts, mean[:, 1:])
    with pytest.raises(ArgumentError, match=r"levels=\[0.5, 1.0\]; expected numbers between 0 and 1"):
        interval_coverage(counts, mean, levels=(0.5, 1.0))
    with pytest.raises(
        ArgumentError, match=r"counts, expected and dispersion have the shapes \[\(400, 120\), \(400, 119\), \(\)\]"
    ):
        pit(counts, mean[:, 1:], 0.1)


def test_trust_by_its_rule():
    n_spots = 800
    bound = np.sqrt(2 * np.sqrt(2 / n_spots))
    rows = [
        # r, qval, d2, ceiling
        (0.30, 0.01, 0.05, 0.5, "good"),
        (0.20, 0.01, 0.05, 0.5, "weak"),
        (0.30, 0.05, 0.05, 0.5, "none"),
        (0.30, 0.01, -0.01, 0.5, "none"),
        # A ceiling that cannot be told from noise is not taken at its word.
        (0.49 * bound, 0.01, 0.05, 0.01, "weak"),
        (0.51 * bound, 0.01, 0.05, np.nan, "good"),
        (np.nan, np.nan, 0.05, np.nan, "none"),
        (np.nan, np.nan, np.nan, 0.5, None),
    ]
    table = Recovery(len(rows)).result()
    table[["r", "qval", "d2", "ceiling"]] = [row[:4] for row in rows]
    found = trust(table, n_spots)
    assert [None if value != value else value for value in found] == [row[-1] for row in rows]
    with pytest.raises(MissingKeyError, match=r"lacks \['ceiling'\]"):
        trust(table.drop(columns="ceiling"), n_spots)
