"""Controls read no hidden count; the measures beside them, on known cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import sagefm
from sagefm.data._genes import assign_folds
from sagefm.errors import ArgumentError, CountsError, MissingKeyError
from sagefm.metrics import Recovery, controls, fit_components, noise_ceiling, pooled_d2
from sagefm.metrics._controls import PREDICTORS, make_predictors, split_spots
from sagefm.metrics._predictors import SectionCounts

N_FOLDS = 3
CENTER = 17


@pytest.fixture(scope="module")
def tissue():
    """Counts (400, 150) of four factors, one of them a gradient in space, and a ring of neighbors on each side."""
    rng = np.random.default_rng(0)
    weights = rng.gamma(0.5, size=(400, 4))
    weights[:, 0] = 2 * (1 + np.sin(np.arange(400) / 30))
    rates = weights @ rng.gamma(0.3, size=(4, 150)) * rng.gamma(5, 0.4, size=(400, 1))
    neighbors = sum(sparse.eye_array(400, k=k) for k in (-3, -2, -1, 1, 2, 3))
    return sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), sparse.csr_matrix(neighbors)


def rates_of(counts, neighbors, n_hidden, folds, **kwargs):
    """Return the rates (n_genes,) that each predictor gives CENTER."""
    section = SectionCounts(counts, neighbors)
    train = np.setdiff1d(np.arange(counts.shape[0]), [CENTER])
    made = make_predictors(section, train, PREDICTORS, n_components=4, ridge=1.0, **kwargs)
    found = {name: np.empty(counts.shape[1]) for name in ("null", *made)}
    for view, hidden in section.views(np.array([CENTER]), folds, n_hidden, 8):
        np.testing.assert_array_equal(hidden[0], counts[CENTER].toarray()[0, view.wanted])
        found["null"][view.wanted] = view.null[0]
        for name, predict in made.items():
            found[name][view.wanted] = (view.null * predict(view))[0]
    return found


@pytest.mark.parametrize("source", ["section", "corpus"])
@pytest.mark.parametrize("n_hidden", [1, 2])
def test_no_hidden_count_is_read(tissue, n_hidden, source):
    counts, neighbors = tissue
    folds = assign_folds(np.arange(150), 150, N_FOLDS, 0)
    kwargs = {"profile": np.linspace(1, 2, 150)}
    if source == "corpus":
        kwargs["components"] = fit_components([counts[200:]], 4)
    before = rates_of(counts, neighbors, n_hidden, folds, **kwargs)
    changed = counts.toarray()
    hidden = (folds - 1) % N_FOLDS < n_hidden
    changed[CENTER, hidden] = np.random.default_rng(1).poisson(20, hidden.sum())
    after = rates_of(sparse.csr_matrix(changed), neighbors, n_hidden, folds, **kwargs)
    for name in before:
        np.testing.assert_allclose(after[name][folds == 1], before[name][folds == 1], rtol=1e-6, err_msg=name)
        assert not np.allclose(after[name][folds == 0], before[name][folds == 0], rtol=1e-3)


def test_where_all_is_hidden_the_neighborhood_and_depth_remain(tissue):
    counts, neighbors = tissue
    folds = assign_folds(np.arange(150), 150, N_FOLDS, 0)
    profile = np.linspace(1, 2, 150)
    before = rates_of(counts, neighbors, N_FOLDS, folds, profile=profile)
    for name in ("pca", "factors"):
        np.testing.assert_allclose(before[name], before["null"], rtol=1e-5)
    # The same depth, of other genes.
    shuffled = counts.toarray()
    shuffled[CENTER] = np.random.default_rng(0).permutation(shuffled[CENTER])
    after = rates_of(sparse.csr_matrix(shuffled), neighbors, N_FOLDS, folds, profile=profile)
    doubled = counts.toarray()
    doubled[CENTER] *= 2
    twice = rates_of(sparse.csr_matrix(doubled), neighbors, N_FOLDS, folds, profile=profile)
    for name, rates in before.items():
        # The size factor is over the profile of the others, which no count of the spot enters.
        np.testing.assert_allclose(after[name], rates, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(twice[name], 2 * rates, rtol=1e-5, err_msg=name)
    around = counts.toarray()
    around[CENTER + 1] = around[CENTER + 1, ::-1]
    moved = rates_of(sparse.csr_matrix(around), neighbors, N_FOLDS, folds, profile=profile)
    for name in ("neighborhood", "pca_around"):
        assert not np.allclose(moved[name], before[name], rtol=1e-3)


def test_controls_find_structure(tissue):
    found = controls(*tissue, predictors=PREDICTORS, profile=np.ones(150), n_components=4, ridge=1.0, n_folds=N_FOLDS)
    assert set(found) == set(PREDICTORS)
    for name in ("pca", "pca_around", "factors"):
        assert found[name]["r"].median() > 0.3
    assert pooled_d2(found["factors"]) > 0.3
    assert pooled_d2(found["neighborhood"]) > 0.01
    assert pooled_d2(found["profile"]) < 0
    blind = controls(*tissue, predictors=PREDICTORS[:3], n_components=4, ridge=1.0, n_folds=N_FOLDS, n_hidden=N_FOLDS)
    assert pooled_d2(blind["pca"]) == 0
    assert blind["pca"]["r"].isna().all()
    assert blind["pca_around"]["r"].median() > 0.05


def test_two_by_default_on_given_spots(tissue):
    counts, neighbors = tissue
    (train, test), *_ = split_spots(400)
    predicted = np.ones(counts.shape, np.float32)
    found = controls(counts, neighbors, train=train, test=test, predicted=predicted)
    assert list(found) == ["neighborhood", "pca", "predicted"]
    assert len(found["pca"]) == 150


def test_splits_are_a_partition():
    splits = split_spots(50, rng=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in splits])), np.arange(50))
    assert not any(np.intersect1d(train, test).size for train, test in splits)


def test_components_are_those_of_centered_values(tissue):
    from sklearn.decomposition import PCA

    counts, _ = tissue
    parts = [counts[:150], counts[150:]]
    loadings = fit_components(parts, 3)
    deviations = []
    for part in parts:
        dense = part.toarray().astype(float)
        u = np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True))
        deviations.append(u - u.mean(axis=0))
    expected = PCA(3, svd_solver="full").fit(np.concatenate(deviations))
    found = expected.components_ * np.sqrt(expected.explained_variance_)[:, None]
    np.testing.assert_allclose(loadings.T @ loadings, found.T @ found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"predictors": ["mean"]}, "mean"),
        ({"predictors": ["profile"]}, "profile="),
        ({"n_hidden": 5}, "n_folds=4"),
        ({"train": np.arange(5)}, "test"),
        ({"components": np.ones((2, 3))}, "the 150 of counts"),
        ({"predicted": np.ones((2, 3), np.float32)}, r"\(2, 3\)"),
    ],
)
def test_arguments_that_cannot_be_used(tissue, kwargs, words):
    with pytest.raises(ArgumentError, match=words):
        controls(*tissue, **kwargs)


def residual_ceiling(signal: np.ndarray, mean: float) -> float:
    """Correlation of the rate's residual with the count's: Poisson noise has unit variance, the signal this much."""
    variance = mean * signal.var()
    return float(np.sqrt(variance / (1 + variance)))


def test_noise_ceiling_is_the_correlation_of_the_truth():
    rng = np.random.default_rng(0)
    signal = np.tile([0.5, 1.5], 1500)
    # Half of the genes rise where the others fall: depth is the same everywhere.
    ratio = np.column_stack([signal] * 20 + [2 - signal] * 20 + [np.ones(3000)] * 20)
    mean = 2.0
    counts = rng.poisson(mean * ratio)
    found = noise_ceiling(sparse.csr_matrix(counts.astype(np.float32)))
    expected = residual_ceiling(signal, mean)
    assert abs(found["ceiling"][:40].median() - expected) < 0.03
    assert abs(found["r_half"][40:].median()) < 0.03
    truth = sagefm.metrics.recovery(counts.astype(float), mean * ratio, null=np.full(ratio.shape, mean))
    assert abs(truth["r"][:40].median() - expected) < 0.03


def test_pooled_d2_weighs_by_deviance():
    rng = np.random.default_rng(0)
    rates = rng.gamma(2, size=(200, 30)) * np.linspace(0.01, 5, 30)
    counts = rng.poisson(rates).astype(float)
    null = np.tile(counts.mean(axis=0) + 1e-3, (200, 1))
    table = sagefm.metrics.recovery(counts, rates, null=null)
    np.testing.assert_allclose(table["d2"], 1 - table["deviance"] / table["null_deviance"])
    np.testing.assert_allclose(table["detected"], (counts > 0).mean(axis=0))
    kept = table[table["detected"] >= 0.1]
    assert pooled_d2(table) == pytest.approx(1 - kept["deviance"].sum() / kept["null_deviance"].sum())
    assert pooled_d2(sagefm.metrics.recovery(counts, null, null=null)) == 0
    expected = [np.corrcoef(np.log1p(counts[:, g]), np.log1p(rates[:, g]))[0, 1] for g in range(10, 30)]
    np.testing.assert_allclose(table["raw_r"][10:], expected)


def test_nothing_to_pool():
    assert np.isnan(pooled_d2(Recovery(3).result()))


def test_measures_refuse_what_they_cannot_read():
    counts = np.ones((4, 3))
    with pytest.raises(ArgumentError, match=r"shapes \[\(4, 3\), \(4, 2\), \(4, 3\)\]; expected 3 genes"):
        Recovery(3).update(counts, counts[:, :2], null=counts, genes=np.arange(3))
    with pytest.raises(ArgumentError, match="n_spots=-1"):
        Recovery(3).add_spots(-1)
    with pytest.raises(MissingKeyError, match=r"lacks \['deviance', 'null_deviance'\]"):
        pooled_d2(Recovery(3).result()[["detected"]])
    with pytest.raises(CountsError, match="fractional"):
        noise_ceiling(counts / 2)
    for sections in ([], [sparse.csr_matrix(counts), sparse.csr_matrix(counts[:, :2])]):
        with pytest.raises(ArgumentError, match="expected the same genes"):
            fit_components(sections)
    with pytest.raises(ArgumentError, match="n_components=0"):
        fit_components([sparse.csr_matrix(counts)], 0)
