"""Clusters against labels and in space."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

import sagefm
from sagefm.errors import ArgumentError
from sagefm.metrics._clustering import _Space


@pytest.fixture
def blobs():
    """Three classes of 60 spots, well apart, in 30 dimensions, and labels."""
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat([0, 1, 2], 60))
    return rng.normal(size=(3, 30))[codes] * 3 + rng.normal(size=(180, 30)), np.array(["x", "y", "z"])[codes]


@pytest.fixture
def overlapping():
    """Three classes that no clustering tells apart well."""
    rng = np.random.default_rng(1)
    codes = np.repeat([0, 1, 2], 60)
    return rng.normal(size=(3, 6))[codes] * 0.7 + rng.normal(size=(180, 6)), np.array(["x", "y", "z"])[codes]


def test_classes_that_are_apart(blobs):
    scores = sagefm.metrics.clustering(*blobs, n_seeds=2)
    assert list(scores.columns) == ["ari", "nmi"]
    assert scores.index.tolist() == [0, 1]
    assert scores.index.name == "seed"
    np.testing.assert_allclose(scores, 1)


def test_labels_by_chance(blobs):
    embedding, labels = blobs
    shuffled = np.random.default_rng(5).permutation(labels)
    assert abs(sagefm.metrics.clustering(embedding, shuffled, n_seeds=1)["ari"].iloc[0]) < 0.05


def test_by_hand(blobs):
    """Two clusters where there are three classes: those nearest to one another are joined."""
    embedding, labels = blobs
    scores = sagefm.metrics.clustering(embedding, labels, n_clusters=2, n_seeds=1)
    pairs = 60 * 59 / 2
    # Pairs together in both partitions, in the classes, in the clusters (60 and 120), and of all spots.
    both, classes, clusters, every = 3 * pairs, 3 * pairs, pairs + 120 * 119 / 2, 180 * 179 / 2
    chance = classes * clusters / every
    assert scores["ari"].iloc[0] == pytest.approx((both - chance) / ((classes + clusters) / 2 - chance))
    entropy = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    assert scores["nmi"].iloc[0] == pytest.approx(entropy / ((entropy + np.log(3)) / 2))


def test_names_of_classes_do_not_matter(overlapping):
    embedding, labels = overlapping
    expected = sagefm.metrics.clustering(embedding, labels, n_seeds=2)
    for renamed in (
        pd.Series(labels).map({"x": "q", "y": "a", "z": "m"}),
        pd.Categorical(labels, categories=["z", "y", "x", "never"]),
        pd.Series(labels).map({"x": 7, "y": 0, "z": 3}).to_numpy(),
    ):
        pd.testing.assert_frame_equal(sagefm.metrics.clustering(embedding, renamed, n_seeds=2), expected)


def test_unit_and_origin_do_not_matter(overlapping):
    embedding, labels = overlapping
    expected = sagefm.metrics.clustering(embedding, labels, n_seeds=1)
    for other in (embedding * 1e-6, embedding * 1e4 + 5):
        pd.testing.assert_frame_equal(sagefm.metrics.clustering(other, labels, n_seeds=1), expected)


@pytest.mark.parametrize("without", [None, np.nan, "undetermined", "unlabelled"])
def test_spots_without_a_label_take_part_and_leave_the_score(overlapping, without):
    """The clusters are those of all spots; the score is that of the labelled ones."""
    embedding, labels = overlapping
    some = labels.astype(object)
    some[::3] = without
    rest = np.arange(180) % 3 != 0
    scores = sagefm.metrics.clustering(embedding, some, n_seeds=1)
    # A second partition of all spots, of which the same third is left out.
    named = np.where(rest, labels, "other")
    assert scores.equals(sagefm.metrics.clustering(embedding, named, n_seeds=1, n_clusters=3, unlabelled=["other"]))
    alone = sagefm.metrics.clustering(embedding[rest], labels[rest], n_seeds=1)
    assert scores["ari"].iloc[0] != alone["ari"].iloc[0]
    assert scores["ari"].iloc[0] != sagefm.metrics.clustering(embedding, labels, n_seeds=1)["ari"].iloc[0]


def test_wide_embeddings_are_brought_to_principal_components(blobs):
    embedding, labels = blobs
    centered = embedding - embedding.mean(axis=0)
    components = centered @ np.linalg.svd(centered)[2][:2].T
    pd.testing.assert_frame_equal(
        sagefm.metrics.clustering(embedding, labels, n_components=2, n_clusters=5, n_seeds=1),
        sagefm.metrics.clustering(components, labels, n_clusters=5, n_seeds=1),
    )


def test_seeds(overlapping):
    ten = sagefm.metrics.clustering(*overlapping, n_seeds=4)
    pd.testing.assert_frame_equal(sagefm.metrics.clustering(*overlapping, n_seeds=2), ten.iloc[:2])


def test_float32(overlapping):
    embedding, labels = overlapping
    found = sagefm.metrics.clustering(embedding.astype(np.float32), labels, n_seeds=1)
    np.testing.assert_allclose(found, sagefm.metrics.clustering(embedding, labels, n_seeds=1), atol=0.02)


# In space


def brute_chaos(coordinates, clusters):
    scaled = (coordinates - coordinates.mean(axis=0)) / coordinates.std(axis=0)
    distances = []
    for i in range(len(scaled)):
        own = [j for j in range(len(scaled)) if j != i and clusters[j] == clusters[i]]
        if own:
            distances.append(min(np.hypot(*(scaled[i] - scaled[j])) for j in own))
    return np.mean(distances)


def brute_pas(coordinates, clusters):
    distances = cdist(coordinates, coordinates)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :10]
    return np.mean([np.sum(clusters[nearest[i]] != clusters[i]) > 5 for i in range(len(clusters))])


@pytest.mark.parametrize("n_clusters", [2, 5, 40])
def test_chaos_and_pas_by_brute_force(n_clusters):
    rng = np.random.default_rng(n_clusters)
    coordinates = rng.normal(size=(120, 2)) * [100, 7] + [5, 1000]
    clusters = (coordinates[:, 0].argsort().argsort() * n_clusters // 120 + (rng.random(120) < 0.3)).astype(int)
    clusters[0] = 99  # alone
    space = _Space(coordinates)
    assert space.chaos(clusters) == pytest.approx(brute_chaos(coordinates, clusters))
    assert space.pas(clusters) == pytest.approx(brute_pas(coordinates, clusters))
    assert 0 < space.pas(clusters) < 1 or n_clusters == 40


def test_coherence(blobs):
    """Classes that are stripes are coherent, the same classes scattered over the section are not."""
    embedding, labels = blobs
    rng = np.random.default_rng(0)
    scattered = rng.uniform(size=(180, 2))
    stripes = scattered + np.array([[0, 5, 10][code] for code in np.unique(labels, return_inverse=True)[1]])[:, None]
    one, other = (sagefm.metrics.clustering(embedding, labels, coordinates=c, n_seeds=1) for c in (stripes, scattered))
    assert list(one.columns) == ["ari", "nmi", "chaos", "pas"]
    assert one["pas"].iloc[0] == 0
    assert other["pas"].iloc[0] > 0.5
    assert other["chaos"].iloc[0] == pytest.approx(brute_chaos(scattered, labels))


def test_coordinates_in_another_unit(blobs):
    coordinates = np.random.default_rng(0).uniform(size=(180, 2))
    one, other = (sagefm.metrics.clustering(*blobs, coordinates=c, n_seeds=1) for c in (coordinates, coordinates * 50))
    pd.testing.assert_frame_equal(one, other)


def test_a_real_section(synovium):
    counts = synovium.X.toarray()
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    logs = logs[:, logs.var(axis=0) > 1]
    scores = sagefm.metrics.clustering(logs, synovium.obs["label"], coordinates=synovium.obsm["spatial"], n_seeds=2)
    assert (scores["ari"] > 0.1).all()
    assert np.isfinite(scores).all(axis=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ["a"] * 10}, r"embedding has shape \(180, 30\); expected a row for each of 10 labels"),
        ({"embedding": np.ones(180)}, "embedding has shape"),
        ({"embedding": np.full((180, 2), np.nan)}, "embedding holds NaN"),
        ({"embedding": np.ones((180, 2))}, "the same at all spots"),
        ({"labels": [None] * 180}, "None of 180 spots has a label"),
        ({"labels": ["a"] * 180}, "n_clusters=1; expected a whole number of at least 2"),
        ({"n_clusters": 1}, "n_clusters=1"),
        ({"n_clusters": 181}, "at most the 180 spots"),
        ({"n_clusters": 2.5}, "n_clusters=2.5"),
        ({"n_components": 0}, "n_components=0"),
        ({"n_seeds": 0}, "n_seeds=0"),
        ({"coordinates": np.ones((100, 2))}, r"coordinates has shape \(100, 2\)"),
        ({"coordinates": np.full((180, 2), np.inf)}, "coordinates holds NaN or infinite"),
    ],
)
def test_errors(blobs, change, words):
    arguments = {"embedding": blobs[0], "labels": blobs[1], **change}
    with pytest.raises(ArgumentError, match=words):
        sagefm.metrics.clustering(**arguments)


def test_too_few_spots_for_neighbors():
    with pytest.raises(ArgumentError, match="coordinates of 10 spots; expected more than 10"):
        sagefm.metrics.clustering(np.eye(10), ["a", "b"] * 5, coordinates=np.eye(10)[:, :2])
