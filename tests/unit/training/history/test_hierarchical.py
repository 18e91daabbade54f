"""TWIN-V2 clustering: what holds for every history, and cases whose right clusters are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.history import F32, U16, quantize_strength
from training.history.hierarchical import cluster_behaviors, medoids, split_parts_count, strength_groups
from training.history.options import SnapshotOptions


@st.composite
def histories(draw: st.DrawFn) -> tuple[F32, U16]:
    """Behaviors on few or many distinct items, with strengths at and around the edges."""
    length = draw(st.sampled_from([0, 1, 2, 19, 20, 21, 40, 41]) | st.integers(0, 150))
    distinct = draw(st.integers(1, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    items = random.normal(size=(distinct, draw(st.integers(1, 6)))).astype(np.float32)
    strength = random.choice([0.0, 0.1, 0.2, 0.5, 0.6, 0.8, 1.0, 3.0], length)
    return items[random.integers(0, distinct, length)], quantize_strength(strength)


@st.composite
def option_sets(draw: st.DrawFn) -> SnapshotOptions:
    return SnapshotOptions(
        max_cluster_size=draw(st.integers(1, 25)),
        strength_edges=draw(st.sampled_from([(), (0.5,), (0.2, 0.4, 0.6, 0.8)])),
        split_exponent=draw(st.sampled_from([0.05, 0.3, 0.9])),
        kmeans_iterations=draw(st.integers(1, 10)),
        seed=draw(st.integers(0, 3)),
    )


@settings(max_examples=200, deadline=None)
@given(histories(), option_sets())
def test_every_behavior_is_in_one_small_cluster_of_one_strength_group(
    history: tuple[F32, U16], options: SnapshotOptions
) -> None:
    vectors, strength = history
    labels = cluster_behaviors(vectors, strength, options=options)
    sizes = np.bincount(labels, minlength=1)
    assert labels.shape == (len(vectors),)
    assert sizes.sum() == len(vectors)
    assert len(vectors) == 0 or (sizes.min() >= 1 and sizes.max() <= options.max_cluster_size)
    group = strength_groups(strength, options)
    assert all(len(set(group[labels == c])) == 1 for c in range(len(sizes)) if len(vectors))


@settings(max_examples=50, deadline=None)
@given(histories(), option_sets())
def test_same_history_gives_the_same_clusters(history: tuple[F32, U16], options: SnapshotOptions) -> None:
    vectors, strength = history
    first = cluster_behaviors(vectors, strength, options=options)
    np.random.default_rng(9).normal(size=10)
    assert np.array_equal(first, cluster_behaviors(vectors.copy(), strength.copy(), options=options))


def test_clusters_are_numbered_along_the_tree_of_splits() -> None:
    """Four far corners in two strength groups, by turns, and splits in two that never cut a corner before they must."""
    kind = np.arange(1600) % 8
    vectors = np.array([[0, 0], [0, 100], [100, 0], [100, 100]], np.float32)[kind % 4]
    vectors += np.random.default_rng(0).normal(scale=0.01, size=vectors.shape).astype(np.float32)
    halves = SnapshotOptions(split_exponent=0.05)
    labels = cluster_behaviors(vectors, quantize_strength(kind // 4), options=halves)
    order = np.argsort(labels, kind="stable")
    assert len(set(labels.tolist())) > 80
    assert np.count_nonzero(np.diff(kind[order])) == 7
    assert (np.diff(kind[order] // 4) >= 0).all()


@pytest.mark.parametrize("length", [0, 1, 20, 21, 60, 61, 500])
def test_identical_vectors_are_cut_in_order(length: int) -> None:
    vectors = np.ones((length, 4), np.float32)
    labels = cluster_behaviors(vectors, np.zeros(length, np.uint16), options=SnapshotOptions())
    assert labels.tolist() == [i // 20 for i in range(length)]


def test_nearly_identical_vectors_terminate() -> None:
    vectors = np.ones((300, 4), np.float32)
    vectors[0] = np.nextafter(np.float32(1), np.float32(2))
    labels = cluster_behaviors(vectors, np.zeros(300, np.uint16), options=SnapshotOptions())
    assert np.bincount(labels).max() <= 20


def test_clusters_of_one_with_a_maximum_of_one() -> None:
    vectors = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    vectors[30:] = vectors[0]
    labels = cluster_behaviors(vectors, np.zeros(70, np.uint16), options=SnapshotOptions(max_cluster_size=1))
    assert sorted(labels.tolist()) == list(range(70))


def test_items_far_apart_are_not_merged() -> None:
    """The checkerboard: four far corners by turns, eight of each, so that no cluster needs to mix two."""
    corner = np.arange(32) % 4
    vectors = np.array([[0, 0], [0, 100], [100, 0], [100, 100]], np.float32)[corner]
    vectors += np.random.default_rng(0).normal(scale=0.01, size=vectors.shape).astype(np.float32)
    options = SnapshotOptions(max_cluster_size=8)
    labels = cluster_behaviors(vectors, np.zeros(32, np.uint16), options=options)
    assert all(len(set(corner[labels == c])) == 1 for c in set(labels.tolist()))


def test_compression_is_that_of_the_paper() -> None:
    """About a twelfth of 10,000 behaviors remains (the paper says a tenth)."""
    vectors = np.random.default_rng(0).normal(size=(10_000, 8)).astype(np.float32)
    labels = cluster_behaviors(vectors, np.zeros(10_000, np.uint16), options=SnapshotOptions())
    assert 700 <= len(set(labels.tolist())) <= 1100


def test_an_edge_belongs_to_the_group_above() -> None:
    strength = quantize_strength([0.0, 0.199, 0.2, 0.4, 0.79, 0.8, 1.0, 60.0])
    assert strength_groups(strength, SnapshotOptions()).tolist() == [0, 0, 1, 2, 3, 4, 4, 4]


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        cluster_behaviors(
            np.full((3, 2), np.nan, np.float32), np.zeros(3, np.uint16), options=SnapshotOptions()
        )


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="3 vectors for 2 strengths"):
        cluster_behaviors(np.zeros((3, 2), np.float32), np.zeros(2, np.uint16), options=SnapshotOptions())


@given(histories())
def test_medoid_is_the_last_of_the_members_nearest_to_the_centroid(history: tuple[F32, U16]) -> None:
    vectors, labels = history[0], np.unique(history[1], return_inverse=True)[1].astype(np.int64)
    for cluster, medoid in enumerate(medoids(vectors, labels)):
        members = np.flatnonzero(labels == cluster)
        distance = np.linalg.norm(vectors[members].astype(np.float64) - vectors[members].mean(0), axis=1)
        chosen = np.linalg.norm(vectors[medoid].astype(np.float64) - vectors[members].mean(0))
        assert chosen == pytest.approx(distance.min(), abs=1e-5)
        assert medoid == max(m for m in members if np.array_equal(vectors[m], vectors[medoid]))


def test_medoid_of_exact_ties_is_the_last() -> None:
    vectors = np.array([[0.0], [4.0], [1.0], [3.0], [9.0]], np.float32)
    assert medoids(vectors, np.array([0, 0, 0, 0, 1])).tolist() == [3, 4]


def test_medoids_of_nothing() -> None:
    assert medoids(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize(
    "bad",
    [
        {"max_cluster_size": 0},
        {"strength_edges": (0.4, 0.4)},
        {"split_exponent": 1.0},
        {"clusters": 3},
    ],
)
def test_bad_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SnapshotOptions.model_validate(bad)


@pytest.mark.parametrize(
    ("size", "parts"),
    [(21, 2), (100, 3), (1_000, 7), (1_024, 8), (10_000, 15), (100_000, 31), (10**6, 63), (2, 2)],
)
def test_a_cluster_is_split_into_its_size_to_the_power_of_three_tenths(size: int, parts: int) -> None:
    assert split_parts_count(size, 0.3) == parts
