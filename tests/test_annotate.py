"""Labels from an annotated reference."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from spatialdata import SpatialData, read_zarr
from spatialdata.models import TableModel

import sagefm
from sagefm.errors import ArgumentError, CoordinatesError, MissingKeyError
from sagefm.tl._classifier import fit_temperature, make_folds

CLASSES = ["cancer", "fat", "stroma"]
each_method = pytest.mark.parametrize("method", ["logistic", "neighbors"])


def tissue(n_spots, *, rng, distance=2.0, width=10, donors=4):
    """Spots of three classes around centers that are `distance` apart, give or take."""
    rng = np.random.default_rng(rng)
    centers = np.random.default_rng(99).normal(size=(3, width)) * distance / np.sqrt(2 * width)
    codes = rng.integers(0, 3, n_spots)
    obs = pd.DataFrame(
        {
            "region": pd.Categorical(np.array(CLASSES)[codes]),
            "donor": [f"donor{i}" for i in rng.integers(0, donors, n_spots)],
        },
        index=[f"spot{i}" for i in range(n_spots)],
    )
    adata = ad.AnnData(np.ones((n_spots, 2), np.float32), obs=obs)
    adata.obsm["X_sagefm"] = (centers[codes] + rng.normal(size=(n_spots, width))).astype(np.float32)
    return adata


@pytest.fixture
def reference():
    return tissue(240, rng=0, distance=6)


@pytest.fixture
def adata():
    return tissue(150, rng=1, distance=6)


def annotate(adata, reference, **arguments):
    return sagefm.tl.annotate(adata, reference, **{"label_key": "region", **arguments})


def log_loss(probability, adata):
    return -np.log(probability[np.arange(adata.n_obs), adata.obs["region"].cat.codes]).mean()


# What is written


@each_method
def test_result(method, adata, reference, state):
    before = state(reference)
    assert annotate(adata, reference, method=method) is None
    assert state(reference) == before
    found, probability = adata.obs["sagefm_label"], adata.obsm["sagefm_label_probability"]
    assert list(found.cat.categories) == [*CLASSES, "unsure"]
    assert list(probability.columns) == CLASSES
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    sure = probability.max(axis=1) >= 0.5
    np.testing.assert_array_equal(found, np.where(sure, probability.idxmax(axis=1), "unsure"))
    assert sagefm.metrics.annotation(adata.obs["region"], found)["accuracy"] > 0.9
    params = adata.uns["sagefm"]["sagefm_label"]
    assert params["cross_validated_accuracy"] > 0.9
    assert params["unsure"] == pytest.approx(1 - sure.mean())
    assert list(params["classes"]) == CLASSES
    assert ("n_neighbors" in params) == (method == "neighbors")


def test_copy(adata, reference, state):
    before = state(adata)
    copy = annotate(adata, reference, copy=True)
    assert state(adata) == before
    annotate(adata, reference)
    assert state(copy) == state(adata)


def test_what_stands_in_uns_stays(adata, reference):
    adata.uns["sagefm"] = {"X_sagefm": {"model": "m", "checkpoint_sha256": "ab"}, "other": {"a": 1}}
    annotate(adata, reference, key_added="region_found")
    assert list(adata.uns["sagefm"]) == ["X_sagefm", "other", "region_found"]
    assert adata.uns["sagefm"]["region_found"]["checkpoint_sha256"] == "ab"
    assert "region_found_probability" in adata.obsm


def test_seed(adata, reference, state):
    first, again = (annotate(adata, reference, copy=True, rng=3) for _ in range(2))
    assert state(first) == state(again)
    other = annotate(adata, reference, copy=True, rng=4)
    temperatures = [one.uns["sagefm"]["sagefm_label"]["temperature"] for one in (first, other)]
    assert temperatures[0] != temperatures[1]


def test_a_generator_is_a_seed(adata, reference):
    annotate(adata, reference, rng=np.random.default_rng(3))
    params = adata.uns["sagefm"]["sagefm_label"]
    assert params["rng"] == int(np.random.default_rng(3).integers(2**32 - 1, endpoint=True))
    again = annotate(adata, reference, rng=params["rng"], copy=True)
    assert again.uns["sagefm"]["sagefm_label"]["temperature"] == params["temperature"]


@each_method
def test_a_spot_is_labelled_by_itself(method, adata, reference):
    """The other spots of the table say nothing about it."""
    annotate(adata, reference, method=method)
    alone = adata[[7]].copy()
    annotate(alone, reference, method=method)
    np.testing.assert_allclose(
        alone.obsm["sagefm_label_probability"], adata.obsm["sagefm_label_probability"].iloc[[7]], rtol=1e-6
    )


def test_unit_of_the_embedding(adata, reference):
    expected = annotate(adata, reference, copy=True).obsm["sagefm_label_probability"]
    for table in (adata, reference):
        table.obsm["X_sagefm"] = table.obsm["X_sagefm"] * np.logspace(-3, 3, 10) + 5
    annotate(adata, reference)
    np.testing.assert_allclose(adata.obsm["sagefm_label_probability"], expected, atol=1e-3)


def test_neighbors_by_hand():
    """Reference on a line; the 3 nearest of 0.4 are 0, 1 and 2: two of class a, one of b."""
    reference = ad.AnnData(np.ones((8, 1)), obs=pd.DataFrame({"region": list("aabbbbaa")}, index=list("12345678")))
    reference.obsm["X_line"] = np.array([0.0, 1, 2, 10, 11, 12, 20, 21])[:, None]
    adata = ad.AnnData(np.ones((1, 1)), obsm={"X_line": np.array([[0.4]])})
    annotate(adata, reference, use_rep="X_line", method="neighbors", n_neighbors=3)
    temperature = adata.uns["sagefm"]["sagefm_label"]["temperature"]
    expected = np.array([2 / 3, 1 / 3]) ** (1 / temperature)
    np.testing.assert_allclose(adata.obsm["sagefm_label_probability"].to_numpy()[0], expected / expected.sum())


def test_more_neighbors_than_spots(adata, reference):
    """The shares are then those of the reference, or of a fold."""
    annotate(adata, reference[:30].copy(), method="neighbors", n_neighbors=50)
    assert adata.uns["sagefm"]["sagefm_label"]["n_neighbors"] == 50
    assert np.isfinite(adata.obsm["sagefm_label_probability"]).all(axis=None)


# The reference's labels


@pytest.mark.parametrize("without", [None, "undetermined", "unlabelled", "unsure", ""])
def test_spots_without_a_label_teach_nothing(without, adata, reference):
    expected = annotate(adata, reference[60:].copy(), copy=True)
    labels = reference.obs["region"].astype(object)
    labels.iloc[:60] = without
    reference.obs["region"] = labels
    annotate(adata, reference)
    pd.testing.assert_frame_equal(
        adata.obsm["sagefm_label_probability"], expected.obsm["sagefm_label_probability"], rtol=1e-12
    )
    assert adata.uns["sagefm"]["sagefm_label"]["n_spots_reference"] == 180


def test_names_of_your_own(adata, reference):
    labels = reference.obs["region"].astype(object)
    labels.iloc[:5] = "unsure"
    reference.obs["region"] = labels
    annotate(adata, reference, unlabelled=["fat"])
    assert list(adata.obs["sagefm_label"].cat.categories) == ["cancer", "stroma", "unsure"]


def test_names_that_files_cannot_hold(adata, reference, tmp_path):
    reference.obs["region"] = reference.obs["region"].cat.rename_categories({"fat": "Fat/Collagen;fibrous"})
    annotate(adata, reference)
    assert "Fat/Collagen;fibrous" in set(adata.obs["sagefm_label"])
    assert "Fat/Collagen;fibrous" in adata.uns["sagefm"]["sagefm_label"]["classes"]
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    again = ad.read_h5ad(tmp_path / "labelled.h5ad")
    pd.testing.assert_frame_equal(again.obsm["sagefm_label_probability"], adata.obsm["sagefm_label_probability"])
    assert again.obs["sagefm_label"].equals(adata.obs["sagefm_label"])
    adata.write_zarr(tmp_path / "labelled.zarr")
    assert "Fat|Collagen;fibrous" in ad.read_zarr(tmp_path / "labelled.zarr").obsm["sagefm_label_probability"]


def test_classes_that_are_numbers(adata, reference):
    expected = annotate(adata, reference, copy=True)
    reference.obs["region"] = reference.obs["region"].cat.codes.astype(int)
    annotate(adata, reference)
    assert list(adata.obs["sagefm_label"].cat.categories) == ["0", "1", "2", "unsure"]
    np.testing.assert_array_equal(
        adata.obsm["sagefm_label_probability"], expected.obsm["sagefm_label_probability"].to_numpy()
    )


# Probabilities and "unsure"


@pytest.mark.parametrize(("method", "distance"), [("logistic", 2.5), ("neighbors", 6)], ids=["logistic", "neighbors"])
def test_calibration(method, distance):
    """A regression that is penalised enough is not sure enough as it is fitted; nor are the shares of a few neighbors."""
    reference = tissue(120, rng=0, width=40, distance=distance)
    adata = tissue(2000, rng=1, width=40, distance=distance)
    annotate(adata, reference, method=method, n_neighbors=4)
    temperature = adata.uns["sagefm"]["sagefm_label"]["temperature"]
    calibrated = adata.obsm["sagefm_label_probability"].to_numpy()
    fitted = softmax(np.log(calibrated) * temperature, axis=1)
    assert temperature < 0.8
    assert log_loss(calibrated, adata) < 0.9 * log_loss(fitted, adata)
    right = (calibrated.argmax(axis=1) == adata.obs["region"].cat.codes).mean()
    assert abs(calibrated.max(axis=1).mean() - right) < 0.5 * abs(fitted.max(axis=1).mean() - right)


def test_temperature_is_that_of_the_least_log_loss():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3))
    codes = (rng.random((4000, 1)) > softmax(scores, axis=1).cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(scores, codes) == pytest.approx(1, abs=0.1)
    assert fit_temperature(3 * scores, codes) == pytest.approx(3, abs=0.3)
    # Nothing is known: as flat as it may be. Everything is: as sharp as it may be.
    assert fit_temperature(scores, rng.integers(0, 3, 4000)) > 5
    assert fit_temperature(scores, scores.argmax(axis=1)) == pytest.approx(0.1, rel=0.01)


def test_threshold():
    reference, adata = tissue(240, rng=0), tissue(150, rng=1)
    annotate(adata, reference, threshold=0)
    probability = adata.obsm["sagefm_label_probability"]
    assert "unsure" not in set(adata.obs["sagefm_label"])
    for threshold in (0.5, 0.7, 1):
        annotate(adata, reference, threshold=threshold)
        unsure = (adata.obs["sagefm_label"] == "unsure").to_numpy()
        np.testing.assert_array_equal(unsure, probability.max(axis=1) < threshold)
        assert adata.uns["sagefm"]["sagefm_label"]["unsure"] == pytest.approx(unsure.mean())
    assert unsure.all()


def test_sure_spots_are_more_often_right():
    reference, adata = tissue(600, rng=0), tissue(600, rng=1)
    annotate(adata, reference, threshold=0.7)
    params = adata.uns["sagefm"]["sagefm_label"]
    assert 0.2 < params["cross_validated_sure"] < 0.8
    assert params["cross_validated_accuracy_sure"] > params["cross_validated_accuracy"] + 0.05
    sure = adata[adata.obs["sagefm_label"] != "unsure"]
    accuracy = sagefm.metrics.annotation(sure.obs["region"], sure.obs["sagefm_label"])["accuracy"]
    assert accuracy == pytest.approx(params["cross_validated_accuracy_sure"], abs=0.07)


# Folds


def test_folds_of_spots_spread_each_class():
    codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [2, 13, 50]))
    folds = make_folds(codes, None, 5, 0)
    assert np.sort(np.concatenate([held for _, held in folds])).tolist() == list(range(65))
    counts = np.stack([np.bincount(codes[held], minlength=3) for _, held in folds])
    assert counts.max(axis=0).tolist() == [1, 3, 10]
    assert (np.ptp(counts, axis=0) <= 1).all()
    other = make_folds(codes, None, 5, 1)
    assert not all(np.array_equal(*pair) for pair in zip(folds[0], other[0], strict=True))


def test_folds_of_donors_keep_them_whole():
    libraries = np.random.default_rng(0).integers(0, 7, 100)
    for n_folds in (2, 5, 20):
        folds = make_folds(np.zeros(100, int), libraries, n_folds, 0)
        assert len(folds) == min(n_folds, 7)
        for train, held in folds:
            assert not np.intersect1d(libraries[train], libraries[held]).size
            assert len(train) + len(held) == 100


def test_donors_that_differ():
    """Each donor has its own shift: what is learned on spots of the same donor is no measure of another."""
    reference, adata = tissue(400, rng=0, distance=4, donors=4), tissue(400, rng=1, distance=4)
    centers = np.random.default_rng(5).normal(size=(4, 3, 10))
    donor, codes = reference.obs["donor"].str[-1].astype(int), reference.obs["region"].cat.codes
    reference.obsm["X_sagefm"] = reference.obsm["X_sagefm"] + 2 * centers[donor, codes]
    found = {}
    for key in (None, "donor"):
        annotate(adata, reference, reference_library_key=key)
        found[key] = adata.uns["sagefm"]["sagefm_label"]
    assert found["donor"]["cross_validated_accuracy"] < found[None]["cross_validated_accuracy"] - 0.1
    assert found["donor"]["temperature"] > found[None]["temperature"]
    assert found["donor"]["n_folds"] == 4
    assert found["donor"]["reference_library_key"] == "donor"


@each_method
def test_a_class_of_one_donor_counts_as_an_error(method, adata, reference):
    """It cannot be predicted where its donor is held out; it is predicted in the end."""
    reference.obs["donor"] = np.where(reference.obs["region"] == "fat", "one", reference.obs["donor"])
    annotate(adata, reference, reference_library_key="donor", method=method)
    params = adata.uns["sagefm"]["sagefm_label"]
    assert params["cross_validated_accuracy"] <= (reference.obs["region"] != "fat").mean()
    assert sagefm.metrics.annotation(adata.obs["region"], adata.obs["sagefm_label"])["accuracy"] > 0.9


def test_a_class_of_two_spots(adata, reference):
    few = reference[(reference.obs["region"] != "fat") | (reference.obs["region"] == "fat").cumsum().le(2)].copy()
    assert (few.obs["region"] == "fat").sum() == 2
    annotate(adata, few)
    assert list(adata.obsm["sagefm_label_probability"].columns) == CLASSES


# Real sections, containers


@each_method
def test_a_real_section(method, synovium, synovium_model, tmp_path):
    sagefm.tl.embed(synovium, synovium_model)
    counts = synovium.X.toarray()
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    synovium.obsm["X_log"] = logs[:, logs.var(axis=0) > 1.5]
    odd = np.arange(302) % 2 == 1
    adata, reference = synovium[odd].copy(), synovium[~odd].copy()
    for use_rep in ("X_sagefm", "X_log"):
        sagefm.tl.annotate(adata, reference, label_key="label", use_rep=use_rep, method=method, key_added=use_rep[2:])
        assert adata.obs[use_rep[2:]].notna().all()
    majority = reference.obs["label"].value_counts(normalize=True).max()
    sure = adata[adata.obs["log"] != "unsure"]
    assert sure.n_obs > 50
    assert sagefm.metrics.annotation(sure.obs["label"], sure.obs["log"])["accuracy"] > majority
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    again = ad.read_h5ad(tmp_path / "labelled.h5ad")
    assert again.obs["sagefm"].equals(adata.obs["sagefm"])
    params = again.uns["sagefm"]["sagefm"]
    assert list(params["classes"]) == sorted(reference.obs["label"].unique())
    assert params["use_rep"] == "X_sagefm"


def protein(adata):
    return ad.AnnData(np.ones((adata.n_obs, 1)), obs=adata.obs[[]].copy(), var=pd.DataFrame(index=["CD3"]))


def test_containers(adata, reference, tmp_path):
    expected = annotate(adata, reference, copy=True)
    mdata = md.MuData({"rna": adata.copy(), "protein": protein(adata)})
    annotate(mdata, reference, mod="rna")
    assert mdata["rna"].obs["sagefm_label"].equals(expected.obs["sagefm_label"])
    assert not len(mdata["protein"].obsm)
    sdata = SpatialData(tables={"counts": TableModel.parse(adata.copy())})
    copy = annotate(sdata, md.MuData({"rna": reference}), table_key="counts", copy=True)
    assert "sagefm_label" not in sdata["counts"].obs
    copy.write(tmp_path / "labelled.zarr")
    table = read_zarr(tmp_path / "labelled.zarr")["counts"]
    assert table.obs["sagefm_label"].equals(expected.obs["sagefm_label"])
    np.testing.assert_allclose(
        table.obsm["sagefm_label_probability"], expected.obsm["sagefm_label_probability"], rtol=1e-12
    )


def test_an_error_leaves_spatialdata_as_it_was(adata, reference, rejects):
    sdata = SpatialData(tables={"counts": TableModel.parse(adata)})
    call = lambda: annotate(sdata, reference, label_key="nowhere")
    rejects(MissingKeyError, sdata, call, "label_key='nowhere'", "reference.obs", "'region'")
    call = lambda: annotate(sdata, reference, table_key="x")
    rejects(MissingKeyError, sdata, call, "table_key='x'", "'counts'")


# Two models


def test_embeddings_of_two_models(section, folders, rejects):
    other = section.copy()
    sagefm.tl.embed(section, folders["default"])
    sagefm.tl.embed(other, folders["default"])
    annotate(section, other, label_key="domain")
    del section.obs["sagefm_label"], section.obsm["sagefm_label_probability"]
    other.uns["sagefm"]["X_sagefm"]["checkpoint_sha256"] = "0123456789abcdef"
    message = rejects(
        ArgumentError,
        section,
        lambda: annotate(section, other, label_key="domain"),
        "two models",
        "(0123456789ab) in the reference",
        "sagefm.tl.embed(adata, model); sagefm.tl.embed(reference, model)",
    )
    assert section.uns["sagefm"]["X_sagefm"]["checkpoint_sha256"][:12] in message
    sagefm.tl.embed(other, folders["published"])
    call = lambda: annotate(section, other, label_key="domain")
    rejects(ArgumentError, section, call, "16 dimensions in adata and 20 in the reference", "sagefm.tl.embed(adata")


@pytest.mark.parametrize("known", [{}, {"X_sagefm": {"model": "in memory", "checkpoint_sha256": ""}}])
def test_a_model_that_is_not_known_is_no_error(known, adata, reference):
    adata.uns["sagefm"] = {"X_sagefm": {"model": "m", "checkpoint_sha256": "ab"}}
    reference.uns["sagefm"] = known
    annotate(adata, reference)
    assert adata.uns["sagefm"]["sagefm_label"]["model"] == "m"


# Errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "svm"}, ("method='svm'", "'logistic'", "'neighbors'")),
        ({"threshold": 1.5}, ("threshold=1.5", "from 0 to 1")),
        ({"threshold": np.nan}, ("threshold=nan",)),
        ({"threshold": "high"}, ("threshold='high'",)),
        ({"n_neighbors": 0}, ("n_neighbors=0", "at least 1")),
        ({"n_folds": 1}, ("n_folds=1", "at least 2")),
        ({"rng": -1}, ("rng=-1",)),
        ({"rng": None}, ("rng=None",)),
        ({"key_added": ""}, ("key_added=''",)),
        ({"key_added": "region"}, ("key_added='region'", "input")),
        ({"key_added": "X_sagefm"}, ("key_added='X_sagefm'", "input")),
        ({"unlabelled": ["fat", "stroma"]}, ("reference.obs['region']", "['cancer']", "at least two")),
    ],
)
def test_arguments(arguments, words, adata, reference, rejects):
    rejects(ArgumentError, adata, lambda: annotate(adata, reference, **arguments), *words)


def test_keys(adata, reference, rejects):
    call = lambda: annotate(adata, reference, reference_library_key="x")
    rejects(MissingKeyError, adata, call, "reference_library_key='x'", "reference.obs", "'donor'")
    call = lambda: annotate(adata, reference, use_rep="X_pca")
    rejects(MissingKeyError, adata, call, "adata.obsm", "sagefm.tl.embed(adata, model, key_added='X_pca')")
    adata.obsm["X_pca"] = adata.obsm["X_sagefm"]
    rejects(MissingKeyError, adata, call, "reference.obsm", "sagefm.tl.embed(reference, model, key_added='X_pca')")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda x: np.where(np.arange(240)[:, None] < 3, np.nan, x), ("3 of 240 spots", "NaN")),
        (lambda x: x[:, :0], ("shape (240, 0)",)),
        (lambda x: x.astype(str).astype(object) + "x", ("not numeric",)),
        (lambda x: x[:, :4], ("10 dimensions in adata and 4 in the reference",)),
    ],
)
def test_embeddings(value, words, adata, reference, rejects):
    reference.obsm["X_sagefm"] = value(reference.obsm["X_sagefm"])
    rejects(ArgumentError, adata, lambda: annotate(adata, reference), *words, "sagefm.tl.embed(reference, model")


def test_classes_that_cannot_be_learned(adata, reference, rejects):
    call = lambda: annotate(adata, reference)
    labels = reference.obs["region"].astype(str).to_numpy()
    reference.obs["region"] = [*labels[:-1], "nerve"]
    rejects(ArgumentError, adata, call, "one spot of each of ['nerve']", "unlabelled=['undetermined'", "'nerve']")
    reference.obs["region"] = None
    rejects(ArgumentError, adata, call, "has the classes []", "at least two")


def test_donors_that_cannot_be_held_out(adata, reference, rejects):
    call = lambda: annotate(adata, reference, reference_library_key="slide")
    reference.obs["slide"] = "one"
    rejects(ArgumentError, adata, call, "reference_library_key='slide'", "one value", "Leave it out")
    reference.obs["slide"] = pd.Series(np.where(np.arange(240) < 9, None, "a"), index=reference.obs_names)
    rejects(CoordinatesError, adata, call, "reference.obs['slide']", "9 of 240")
    reference.obs["slide"] = np.where(reference.obs["region"] == "fat", "a", "b")
    rejects(ArgumentError, adata, call, "fewer than two classes", "reference_library_key")
    reference.obs["slide"] = reference.obs["region"].astype(str)
    rejects(ArgumentError, adata, call, "No class is in two folds", "reference_library_key")
    with pytest.raises(ArgumentError, match="DataFrame; expected AnnData"):
        annotate(adata, reference.obs)
