from __future__ import annotations

import inspect

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from sagefm.datasets import simulate
from sagefm.errors import ArgumentError

KINDS = ["domain", "cell_type", "factor", "white_factor", "field", "absent"]
SMALL = {"n_spots": 120, "n_genes": 60, "n_sections": 2, "n_domains": 3, "n_effects": 4, "n_decoys": 3}


def neighbors_by_brute_force(coordinates: np.ndarray) -> np.ndarray:
    distances = np.round(cdist(coordinates, coordinates), 6)
    np.fill_diagonal(distances, -1)
    return np.argsort(distances, axis=1, kind="stable")[:, 1:15]


def residual(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def identical(first: ad.AnnData, second: ad.AnnData) -> bool:
    return (
        first.X.data.tobytes() == second.X.data.tobytes()
        and first.X.indices.tobytes() == second.X.indices.tobytes()
        and first.obs.equals(second.obs)
        and first.uns["truth"].equals(second.uns["truth"])
    )


def test_layout():
    adata = simulate(**SMALL)
    assert adata.shape == (240, 60)
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert (adata.X.data >= 1).all()
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert adata.obs["library"].value_counts().to_dict() == {"section1": 120, "section2": 120}
    assert list(adata.obs["domain"].cat.categories) == ["domain1", "domain2", "domain3"]
    assert adata.obs_names.is_unique
    assert adata.obsm["spatial"].dtype == np.float64
    assert set(adata.layers) <= {None}  # anndata 0.13 names X so
    assert adata.uns["simulation"] == {
        **{name: p.default for name, p in inspect.signature(simulate).parameters.items() if name != "return_rates"},
        **SMALL,
        "decoys": ["domain"],
    }


def test_genes_are_of_the_vocabulary():
    adata = simulate(**SMALL)
    assert list(adata.var_names[:3]) == ["LACTB", "CARM1", "RFX1"]
    assert list(adata.var_names) == list(simulate(**{**SMALL, "n_genes": 80}).var_names[:60])
    assert adata.var_names.is_unique


def test_truth():
    adata = simulate(**SMALL, strength=0.8)
    truth = adata.uns["truth"]
    assert list(truth.columns) == ["source", "target", "strength", "kind"]
    assert list(truth["kind"]) == ["planted"] * 4 + ["domain"] * 3
    assert (truth["strength"][truth["kind"] == "domain"] == 0).all()
    planted = truth["strength"][truth["kind"] == "planted"].to_numpy()
    assert set(np.sign(planted)) == {-1, 1}
    assert np.abs(planted).max() == pytest.approx(0.8)
    assert np.abs(planted).min() == pytest.approx(0.4)
    genes = [*truth["source"], *truth["target"]]
    assert len(set(genes)) == len(genes)
    assert set(genes) <= set(adata.var_names)


def test_kinds_of_decoys():
    adata = simulate(**{**SMALL, "n_genes": 200}, decoys=KINDS)
    truth = adata.uns["truth"]
    assert truth["kind"].tolist() == ["planted"] * 4 + [kind for kind in KINDS for _ in range(3)]
    assert (truth["strength"] != 0).tolist() == [True] * 4 + [False] * 18
    genes = [*truth["source"], *truth["target"]]
    assert len(set(genes)) == len(genes)
    assert adata.uns["simulation"]["decoys"] == KINDS
    assert simulate(**SMALL, decoys="field").uns["truth"]["kind"].tolist() == ["planted"] * 4 + ["field"] * 3
    assert simulate(**SMALL, decoys=()).uns["truth"]["kind"].tolist() == ["planted"] * 4


def test_defaults_are_as_without_the_new_arguments():
    """Nor does the size of what is not there matter."""
    first = simulate(**SMALL, rng=5)
    named = {"decoys": ("domain",), "bleed": 0.0, "factor_sd": 0.6, "field_length": 8.0}
    assert identical(first, simulate(**SMALL, rng=5, **named))
    assert identical(first, simulate(**SMALL, rng=5, factor_sd=1.0, field_length=3.0))
    assert "cell_types" not in first.obsm


def test_same_seed_same_bits():
    first = simulate(**SMALL, rng=5)
    assert identical(first, simulate(**SMALL, rng=5))
    assert identical(first, simulate(**SMALL, rng=np.random.default_rng(5)))
    assert simulate(**SMALL, rng=np.random.default_rng(5)).uns["simulation"]["rng"] == "generator"
    assert simulate(**SMALL, rng=np.int64(5)).uns["simulation"]["rng"] == 5
    with_rates = simulate(**SMALL, rng=5, return_rates=True)
    assert identical(first, with_rates)
    assert with_rates.layers["rate"].dtype == np.float32


def test_other_seed_other_values():
    first, second = simulate(**SMALL, rng=5), simulate(**SMALL, rng=6)
    assert (first.X != second.X).nnz > 1000
    assert not first.obs["domain"].equals(second.obs["domain"])
    assert not first.uns["truth"].equals(second.uns["truth"])


def test_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate(**SMALL)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_lattice_is_hexagonal():
    adata = simulate(400, n_genes=50, n_effects=1, n_decoys=1, n_sections=2)
    for library in adata.obs["library"].cat.categories:
        section = adata[adata.obs["library"] == library]
        coordinates = section.obsm["spatial"]
        distances = cdist(coordinates, coordinates)
        np.fill_diagonal(distances, np.inf)
        assert distances.min() == pytest.approx(100)
        n_near = (np.abs(distances - 100) < 1e-6).sum(axis=1)
        row, col = section.obs["array_row"], section.obs["array_col"]
        inner = row.between(1, row.max() - 2) & col.between(2, col.max() - 2)
        assert inner.sum() > 250
        assert (n_near[inner] == 6).all()
        assert ((row + col) % 2 == 0).all()
        width, height = np.ptp(coordinates, axis=0)
        assert 0.85 < width / height < 1.2


@pytest.mark.parametrize("rng", range(3))
def test_domains_are_connected_and_all_there(rng):
    adata = simulate(300, n_genes=50, n_effects=1, n_decoys=1, n_sections=2, n_domains=6, rng=rng)
    for library in adata.obs["library"].cat.categories:
        section = adata[adata.obs["library"] == library]
        near = cdist(section.obsm["spatial"], section.obsm["spatial"]) < 101
        domain = section.obs["domain"].cat.codes.to_numpy()
        same = near & (domain[:, None] == domain)
        assert connected_components(sparse.csr_matrix(same))[0] == 6
        assert np.bincount(domain).min() >= 5


def test_domains_have_their_own_programs():
    adata = simulate(300, n_genes=200, n_domains=3, n_effects=0, n_decoys=0, donor_sd=0, depth_sd=0, return_rates=True)
    rate = np.log(adata.layers["rate"])
    codes = adata.obs["domain"].cat.codes.to_numpy()
    profiles = np.array([rate[codes == d].mean(axis=0) for d in range(3)])
    np.testing.assert_allclose(rate, profiles[codes], atol=1e-4)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        changed = np.abs(profiles[a] - profiles[b] - np.median(profiles[a] - profiles[b])) > 0.01
        assert 0.35 < changed.mean() < 0.65  # 1 - 0.7^2 = 0.51


def test_library_sizes_are_log_normal():
    adata = simulate(1500, n_genes=300, n_effects=0, n_decoys=0, median_counts=3000, depth_sd=0.6)
    depth = np.log(np.asarray(adata.X.sum(axis=1)).ravel())
    assert np.exp(np.median(depth)) == pytest.approx(3000, rel=0.06)
    assert depth.std() == pytest.approx(0.6, rel=0.08)
    assert abs(((depth - depth.mean()) ** 3).mean() / depth.std() ** 3) < 0.25


@pytest.mark.parametrize("theta", [2.0, 20.0])
def test_counts_are_negative_binomial(theta):
    adata = simulate(1500, n_genes=200, inverse_dispersion=theta, return_rates=True, rng=1)
    rate = adata.layers["rate"].astype(np.float64)
    deviation = adata.X.toarray() - rate
    assert abs(deviation.sum()) < 5 * np.sqrt((rate + rate**2 / theta).sum())
    abundant = rate > 5
    found = (deviation[abundant] ** 2 - rate[abundant]).sum() / (rate[abundant] ** 2).sum()
    assert found == pytest.approx(1 / theta, rel=0.15)


def test_donors_differ():
    sections = {"n_genes": 200, "n_sections": 2, "n_domains": 1, "n_effects": 0, "n_decoys": 0, "return_rates": True}
    for sd in (0.0, 0.5):
        adata = simulate(200, **sections, donor_sd=sd)
        profiles = [adata.layers["rate"][adata.obs["library"] == s].sum(axis=0) for s in ("section1", "section2")]
        spread = np.log(profiles[0] / profiles[1]).std()
        assert spread == pytest.approx(np.sqrt(2) * sd, rel=0.2, abs=1e-3)


def test_planted_effect_follows_its_equation():
    # Without domains' programs the latent expression is the log rate over that of a gene of no pair, up to a constant.
    adata = simulate(400, n_genes=100, n_sections=2, domain_sd=0, strength=1.2, return_rates=True, rng=3)
    truth = adata.uns["truth"]
    reference = next(i for i, g in enumerate(adata.var_names) if g not in {*truth["source"], *truth["target"]})
    for library in ("section1", "section2"):
        section = adata[adata.obs["library"] == library]
        rate = np.log(section.layers["rate"].astype(np.float64))
        latent = rate - rate[:, [reference]]
        neighbors = neighbors_by_brute_force(section.obsm["spatial"])
        for pair in truth.itertuples():
            mean = latent[neighbors, adata.var_names.get_loc(pair.source)].mean(axis=1)
            target = latent[:, adata.var_names.get_loc(pair.target)]
            np.testing.assert_allclose(
                target - target.mean(), pair.strength * (mean - mean.mean()) / mean.std(), atol=1e-4
            )


def neighbor_correlations(adata: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each pair, the correlation of the source in the neighbors with the target in the center.

    First as it is (the co-expression baseline), then given domains around, depth and the source in the center.
    """
    counts = adata.X.toarray()
    total = counts.sum(axis=1, keepdims=True)
    logged = np.log1p(counts / total * np.median(total))
    neighbors = neighbors_by_brute_force(adata.obsm["spatial"])
    domain = np.eye(4)[adata.obs["domain"].cat.codes]
    plain, partial = [], []
    for pair in adata.uns["truth"].itertuples():
        source, target = (logged[:, adata.var_names.get_loc(g)] for g in (pair.source, pair.target))
        mean = source[neighbors].mean(axis=1)
        design = np.column_stack([domain, domain[neighbors].mean(axis=1)[:, 1:], np.log(total), source])
        plain.append(np.corrcoef(mean, target)[0, 1])
        partial.append(np.corrcoef(residual(mean, design), residual(target, design))[0, 1])
    return np.array(plain), np.array(partial)


def test_planted_effects_can_be_recovered():
    adata = simulate(1500, n_genes=400, strength=1.0, rng=2)
    plain, partial = neighbor_correlations(adata)
    strength = adata.uns["truth"]["strength"].to_numpy()
    planted = strength != 0
    signed = (partial * np.sign(strength))[planted]
    assert signed.min() > 0.15
    assert signed.min() > 2 * np.abs(partial[~planted]).max()
    # Decoys are expressed together, by domain, and have nothing left when it is known.
    assert np.median(np.abs(plain[~planted])) > 0.25
    assert np.abs(partial[~planted]).max() < 0.1


def test_decoys_mislead_plain_correlation():
    correct_plain, correct_partial = [], []
    for rng in range(3):
        adata = simulate(1000, n_genes=400, rng=rng)
        planted = (adata.uns["truth"]["kind"] == "planted").to_numpy()
        for scores, correct in zip(neighbor_correlations(adata), (correct_plain, correct_partial), strict=True):
            found = np.abs(scores)
            correct.append((found[planted][:, None] > found[~planted]).mean())
    assert np.mean(correct_plain) < 0.8
    assert np.mean(correct_partial) > 0.95


def test_source_in_the_center_does_not_act():
    adata = simulate(1500, n_genes=100, domain_sd=0, return_rates=True, rng=4)
    truth = adata.uns["truth"].query("kind == 'planted'")
    rate = np.log(adata.layers["rate"].astype(np.float64))
    reference = adata.var_names.difference(adata.uns["truth"][["source", "target"]].to_numpy().ravel())[0]
    latent = rate - rate[:, [adata.var_names.get_loc(reference)]]
    for pair in truth.itertuples():
        both = latent[:, [adata.var_names.get_loc(pair.source), adata.var_names.get_loc(pair.target)]]
        assert abs(np.corrcoef(both.T)[0, 1]) < 0.12


def log_rates(kind: str, **kwargs: object) -> tuple[ad.AnnData, np.ndarray, np.ndarray, np.ndarray]:
    """Return a section with 20 decoys of a kind and no domains, and log rates of sources, targets and other genes.

    Without the rate's normalization, which is seen in genes that have no level of their own.
    """
    arguments = {"n_genes": 500, "n_effects": 0, "n_decoys": 20, "domain_sd": 0, "rng": 7} | kwargs
    adata = simulate(1500, decoys=[kind], return_rates=True, **arguments)
    truth = adata.uns["truth"]
    logged = np.log(adata.layers["rate"].astype(np.float64))
    logged -= logged.mean(axis=0)
    others = ~adata.var_names.isin(truth[["source", "target"]].to_numpy().ravel())
    logged -= np.median(logged[:, others], axis=1, keepdims=True)
    source, target = (logged[:, adata.var_names.get_indexer(truth[role])] for role in ("source", "target"))
    return adata, source, target, logged[:, others]


def correlogram(adata: ad.AnnData, values: np.ndarray) -> list[float]:
    """Return the mean correlation of values, of variance 1, between spots 1, 2, 4 and 8 pitches apart."""
    distances = cdist(adata.obsm["spatial"], adata.obsm["spatial"]) / 100
    found = []
    for distance in (1, 2, 4, 8):
        near = np.abs(distances - distance) < 0.01
        found.append(float(((near @ values) * values).sum() / near.sum() / values.shape[1]))
    return found


@pytest.mark.parametrize(("kind", "length"), [("factor", 2.0), ("field", 8.0), ("field", 3.0), ("white_factor", 1e-6)])
def test_shared_factors_follow_their_equation(kind, length):
    """The level of a target is the factor alone; that of its source is the factor and an activity of its own."""
    adata, source, target, others = log_rates(kind, field_length=length if kind == "field" else 8.0)
    np.testing.assert_allclose(target.std(axis=0), 0.6, rtol=0.05)
    np.testing.assert_allclose(others, 0, atol=1e-4)
    shared = target / target.std(axis=0)
    own = source - 0.6 * shared
    np.testing.assert_allclose(own.std(axis=0), 1, rtol=0.1)
    r = np.array([np.corrcoef(s, t)[0, 1] for s, t in zip(source.T, target.T, strict=True)])
    assert r.mean() == pytest.approx(0.6 / np.sqrt(1 + 0.36), abs=0.05)
    # Standardized in a section of about 40 pitches: a long field loses what all spots have in common.
    common = np.exp(-((cdist(adata.obsm["spatial"], adata.obsm["spatial"]) / 100 / length) ** 2)).mean()
    expected = (np.exp(-((np.array([1, 2, 4, 8]) / length) ** 2)) - common) / (1 - common)
    np.testing.assert_allclose(correlogram(adata, shared), expected, atol=0.12 if length == 8 else 0.06)
    assert np.abs(correlogram(adata, own)).max() < 0.05
    # No two pairs have a factor in common.
    between = np.corrcoef(shared.T)[~np.eye(20, dtype=bool)]
    assert abs(between.mean()) < 0.1


def test_factor_sd():
    for sd in (0.0, 1.0):
        _, _, target, _ = log_rates("factor", factor_sd=sd)
        np.testing.assert_allclose(target.std(axis=0), sd, rtol=0.05, atol=1e-4)


def test_absent_pairs_share_nothing():
    adata, source, target, others = log_rates("absent")
    np.testing.assert_allclose(others, 0, atol=1e-4)
    for levels in (source, target):
        np.testing.assert_allclose(levels.std(axis=0), 1, rtol=0.1)
        assert np.abs(correlogram(adata, levels)).max() < 0.05
    r = [np.corrcoef(s, t)[0, 1] for s, t in zip(source.T, target.T, strict=True)]
    assert np.abs(r).max() < 0.12


def test_cell_types_are_mixed_and_have_markers():
    adata, source, target, others = log_rates("cell_type")
    composition = adata.obsm["cell_types"]
    assert composition.shape == (1500, 6)
    np.testing.assert_allclose(composition.sum(axis=1), 1)
    assert composition.std(axis=0).min() > 0.1
    standardized = (composition - composition.mean(axis=0)) / composition.std(axis=0)
    near, _, _, far = correlogram(adata, standardized)
    assert near > 0.6
    assert abs(far) < 0.2
    levels = np.log(1 + 7 * composition)
    levels -= levels.mean(axis=0)
    for k in range(20):
        np.testing.assert_allclose(target[:, k], levels[:, k % 6], atol=1e-4)
        assert np.corrcoef(source[:, k], levels[:, k % 6])[0, 1] > 0.3
    # Other genes are markers as well: of 500, 20 of each type.
    markers = (np.abs(others[:, :, None] - levels[:, None]).max(axis=0) < 1e-4).sum(axis=0)
    assert markers.tolist() == [20] * 6
    assert (np.abs(others).max(axis=0) < 1e-4).sum() == others.shape[1] - 120


def test_markers_where_genes_are_few():
    adata = simulate(60, n_genes=10, n_domains=1, n_effects=1, n_decoys=2, decoys=["cell_type", "absent"])
    assert adata.obsm["cell_types"].shape == (60, 6)


def test_decoys_leave_planted_effects_alone():
    """The same sources and effects, among decoys of all kinds."""
    adata = simulate(1000, n_genes=600, decoys=KINDS, domain_sd=0, strength=1.0, return_rates=True, rng=3)
    truth = adata.uns["truth"].query("kind == 'planted'")
    rate = np.log(adata.layers["rate"].astype(np.float64))
    rate -= np.median(rate - rate.mean(axis=0), axis=1, keepdims=True)
    neighbors = neighbors_by_brute_force(adata.obsm["spatial"])
    for pair in truth.itertuples():
        source, target = (rate[:, adata.var_names.get_loc(gene)] for gene in (pair.source, pair.target))
        mean = source[neighbors].mean(axis=1)
        np.testing.assert_allclose(target - target.mean(), pair.strength * (mean - mean.mean()) / mean.std(), atol=1e-3)


def test_bleed_mixes_rates_among_the_six_nearest():
    arguments = {**SMALL, "n_spots": 700, "n_sections": 1, "return_rates": True, "rng": 2}
    clean, mixed = simulate(**arguments), simulate(**arguments, bleed=0.15)
    assert mixed.uns["truth"].equals(clean.uns["truth"])
    rate = clean.layers["rate"]
    near = neighbors_by_brute_force(clean.obsm["spatial"])[:, :6]
    expected = 0.85 * rate + 0.15 * rate[near].mean(axis=1)
    np.testing.assert_allclose(mixed.layers["rate"], expected, rtol=1e-5)
    deviation = mixed.X.toarray() - expected
    assert abs(deviation.sum()) < 5 * np.sqrt((expected + expected**2 / 10).sum())


def test_bleed_is_the_same_with_all_decoys_and_without_rates():
    arguments = {**SMALL, "n_genes": 200, "decoys": KINDS, "bleed": 0.2, "rng": 5}
    first = simulate(**arguments)
    assert identical(first, simulate(**arguments, return_rates=True))
    assert identical(first, simulate(**arguments))


def test_round_trip(tmp_path):
    adata = simulate(**{**SMALL, "n_genes": 200}, return_rates=True, decoys=KINDS, bleed=0.1)
    adata.write_h5ad(tmp_path / "section.h5ad")
    back = ad.read_h5ad(tmp_path / "section.h5ad")
    assert (back.X != adata.X).nnz == 0
    assert back.uns["truth"]["source"].tolist() == adata.uns["truth"]["source"].tolist()
    np.testing.assert_array_equal(back.uns["truth"]["strength"], adata.uns["truth"]["strength"])
    assert back.obs["domain"].tolist() == adata.obs["domain"].tolist()


def test_smallest_section_and_no_pairs():
    adata = simulate(15, n_genes=4, n_domains=2, n_effects=1, n_decoys=1)
    assert adata.shape == (15, 4)
    assert simulate(15, n_genes=1, n_domains=1, n_effects=0, n_decoys=0).uns["truth"].shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_spots": 14}, r"n_spots=14; expected a whole number of at least 15"),
        ({"n_spots": 100.0}, r"n_spots=100\.0; expected a whole number"),
        ({"n_genes": True}, r"n_genes=True; expected a whole number"),
        ({"n_sections": 0}, r"n_sections=0"),
        ({"n_effects": -1}, r"n_effects=-1"),
        ({"n_effects": 30}, r"n_effects=30 and n_decoys=3 take 66 genes.*n_genes=60. Pass n_genes=66"),
        ({"n_domains": 18}, r"n_domains=18 with n_spots=120; expected at most 17"),
        ({"n_genes": 14559}, r"n_genes=14559; expected at most 14558"),
        ({"strength": 0}, r"strength=0; expected more than 0"),
        ({"strength": "large"}, r"strength='large'; expected a number"),
        ({"depth_sd": -0.1}, r"depth_sd=-0\.1; expected 0 to 2"),
        ({"domain_sd": 3}, r"domain_sd=3; expected 0 to 2"),
        ({"donor_sd": float("nan")}, r"donor_sd=nan"),
        ({"median_counts": 0}, r"median_counts=0"),
        ({"inverse_dispersion": float("inf")}, r"inverse_dispersion=inf"),
        ({"decoys": ["domain", "twin"]}, r"decoys=\['domain', 'twin'\]; expected kinds among \['domain', 'cell_type'"),
        ({"decoys": ["field", "field"]}, r"each once"),
        ({"decoys": KINDS, "n_decoys": 5}, r"n_effects=4 and n_decoys=5 of each of 6 kinds take 68 genes"),
        ({"bleed": 1}, r"bleed=1; expected 0 to less than 1"),
        ({"bleed": -0.1}, r"bleed=-0\.1"),
        ({"factor_sd": 2.5}, r"factor_sd=2\.5; expected 0 to 2"),
        ({"field_length": 0}, r"field_length=0; expected more than 0"),
        ({"rng": -1}, r"rng=-1; expected a whole number"),
        ({"rng": "seed"}, r"rng='seed'; expected a whole number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        simulate(**{**SMALL, **arguments})
