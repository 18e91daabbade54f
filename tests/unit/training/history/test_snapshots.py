"""Snapshots: what they see, what they hold, and that moments and processes do not change them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.history import F32, Behaviors, Snapshot, encode_snapshot, quantize_strength
from training.history.options import SnapshotOptions
from training.history.snapshots import make_snapshot, make_snapshots, snapshots_of_user

VECTORS: F32 = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def behaviors(at_ms: Iterable[int], item: Iterable[int], strength: Iterable[float]) -> Behaviors:
    return Behaviors(
        np.array(list(at_ms), np.int64), np.array(list(item), np.uint32), quantize_strength(list(strength))
    )


def random_behaviors(length: int, seed: int) -> Behaviors:
    random = np.random.default_rng(seed)
    at_ms = np.sort(random.integers(0, 1_000_000, length))
    return behaviors(at_ms, random.integers(0, 50, length), random.random(length) * 1.5)


def blob(snapshot: Snapshot | None) -> bytes | None:
    return None if snapshot is None else encode_snapshot(snapshot)


def test_only_behaviors_strictly_before_the_moment_count() -> None:
    past = behaviors([10, 20, 20, 30], [1, 2, 3, 4], [1.0] * 4)
    snapshot = make_snapshot(past, VECTORS, at_ms=20, options=SnapshotOptions())
    assert snapshot is not None
    assert (snapshot.at_ms, snapshot.item.tolist(), snapshot.tail.item.tolist()) == (20, [1], [1])


def test_no_behavior_before_the_moment_is_no_snapshot() -> None:
    past = behaviors([10], [1], [1.0])
    assert make_snapshot(past, VECTORS, at_ms=10, options=SnapshotOptions()) is None
    assert make_snapshot(Behaviors.empty(), VECTORS, at_ms=10, options=SnapshotOptions()) is None


def test_virtual_item_has_the_medoids_id_and_the_means_of_numbers() -> None:
    vectors = np.array([[0.0], [0.0], [1.0], [5.0]], np.float32)  # centroid 2: item 2 is nearest
    past = behaviors([1_000, 4_000, 10_000], [1, 2, 3], [0.25, 0.5, 0.75])
    options = SnapshotOptions(strength_edges=())
    snapshot = make_snapshot(past, vectors, at_ms=20_000, options=options)
    assert snapshot is not None
    assert snapshot.item.tolist() == [2]
    assert snapshot.size.tolist() == [3]
    assert snapshot.mean_age_s.tolist() == [15]
    assert snapshot.strength.tolist() == [512]
    assert snapshot.tail.at_ms.tolist() == [1_000, 4_000, 10_000]
    assert snapshot.tail.strength.tolist() == [256, 512, 768]


def test_strength_groups_never_share_a_cluster() -> None:
    past = behaviors([1, 2, 3, 4], [7, 7, 7, 7], [0.1, 0.9, 0.1, 0.9])
    snapshot = make_snapshot(past, VECTORS, at_ms=5, options=SnapshotOptions())
    assert snapshot is not None
    assert snapshot.size.tolist() == [2, 2]
    assert snapshot.strength.tolist() == quantize_strength([0.1, 0.9]).tolist()


@pytest.mark.parametrize(("tail_count", "expected"), [(0, []), (2, [8, 9]), (50, list(range(10)))])
def test_tail_is_the_newest_behaviors(tail_count: int, expected: list[int]) -> None:
    past = behaviors(range(10), range(10), [1.0] * 10)
    options = SnapshotOptions(tail_count=tail_count)
    snapshot = make_snapshot(past, VECTORS, at_ms=100, options=options)
    assert snapshot is not None and snapshot.tail.item.tolist() == expected


def test_items_newer_than_the_vectors_read_row_0() -> None:
    known = make_snapshot(behaviors([1], [0], [1.0]), VECTORS, at_ms=2, options=SnapshotOptions())
    newer = make_snapshot(behaviors([1], [10**6], [1.0]), VECTORS, at_ms=2, options=SnapshotOptions())
    assert known is not None and newer is not None
    assert newer.item.tolist() == [10**6] and newer.size.tolist() == known.size.tolist()


def test_ages_beyond_the_codecs_range_stay_at_its_end() -> None:
    snapshot = make_snapshot(behaviors([0], [1], [1.0]), VECTORS, at_ms=10**16, options=SnapshotOptions())
    assert snapshot is not None and snapshot.mean_age_s.tolist() == [2**32 - 1]


def test_unsorted_behaviors_are_refused() -> None:
    with pytest.raises(ValueError, match="sorted by time"):
        make_snapshot(behaviors([2, 1], [1, 1], [1, 1]), VECTORS, at_ms=5, options=SnapshotOptions())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 120), st.integers(0, 100), st.lists(st.integers(0, 1_100_000), max_size=6))
def test_several_moments_give_what_each_gives_alone(length: int, seed: int, moments: list[int]) -> None:
    past, options = random_behaviors(length, seed), SnapshotOptions(max_cluster_size=5)
    together = snapshots_of_user(past, VECTORS, sorted(moments), options=options)
    alone = [make_snapshot(past, VECTORS, at_ms=m, options=options) for m in sorted(moments)]
    assert [blob(s) for s in together] == [blob(s) for s in alone]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 120), st.integers(0, 100), st.integers(1, 1_100_000))
def test_what_comes_after_the_moment_changes_nothing(length: int, seed: int, at_ms: int) -> None:
    past, options = random_behaviors(length, seed), SnapshotOptions()
    before = past.at_ms < at_ms
    cut = Behaviors(past.at_ms[before], past.item[before], past.strength[before])
    assert blob(make_snapshot(past, VECTORS, at_ms=at_ms, options=options)) == blob(
        make_snapshot(cut, VECTORS, at_ms=at_ms, options=options)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 100))
def test_sizes_add_up_to_the_life_cycle(length: int, seed: int) -> None:
    past = random_behaviors(length, seed)
    snapshot = make_snapshot(past, VECTORS, at_ms=2_000_000, options=SnapshotOptions())
    assert snapshot is not None
    assert snapshot.size.sum() == length and snapshot.size.max() <= 20
    assert set(snapshot.item.tolist()) <= set(past.item.tolist())


def test_quiet_users_clusters_only_grow_older() -> None:
    past = random_behaviors(60, 1)
    first, second = snapshots_of_user(past, VECTORS, (2_000_000, 9_000_000), options=SnapshotOptions())
    assert first is not None and second is not None
    assert np.array_equal(first.item, second.item) and np.array_equal(first.size, second.size)
    assert (second.mean_age_s - first.mean_age_s).tolist() == [7_000] * len(first.item)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_every_user_and_moment_whatever_the_number_of_processes(n_jobs: int) -> None:
    users = [(f"u{i}", random_behaviors(i * 3, i)) for i in range(20)]
    moments, options = (1, 500_000, 2_000_000), SnapshotOptions(max_cluster_size=4)
    done: list[int] = []
    rows = make_snapshots(users, VECTORS, moments, options=options, n_jobs=n_jobs, progress=done.append)
    expected = [
        (user, at_ms, blob(snapshot))
        for user, past in users
        for at_ms in moments
        if (snapshot := make_snapshot(past, VECTORS, at_ms=at_ms, options=options)) is not None
    ]
    assert [(user, at_ms, blob(snapshot)) for user, at_ms, snapshot in rows] == expected
    assert sum(done) == 20
