"""Snapshots: what they see, what they hold, and that moments and processes do not change them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.history import (
    F32,
    Behaviors,
    HistoryLimits,
    ItemCounts,
    Snapshot,
    build_history,
    decode_snapshot,
    encode_snapshot,
    quantize_strength,
)
from tests.support.slow_statistics import counts_of
from training.history.options import SnapshotOptions
from training.history.snapshots import count_items, make_snapshot, make_snapshots, snapshots_of_user

VECTORS: F32 = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def behaviors(at_ms: Iterable[int], item: Iterable[int], strength: Iterable[float]) -> Behaviors:
    return Behaviors(
        np.array(list(at_ms), np.int64), np.array(list(item), np.uint32), quantize_strength(list(strength))
    )


def random_behaviors(length: int, seed: int) -> Behaviors:
    random = np.random.default_rng(seed)
    at_ms = np.sort(random.integers(0, 1_000_000, length))
    return behaviors(at_ms, random.integers(0, 50, length), random.random(length) * 1.5)


Table = dict[int, tuple[int, int, int]]  # item -> count, ages in s of the newest and the oldest


def table_of(counts: ItemCounts) -> Table:
    """Return what is counted of each item, its entries together."""
    found: Table = {}
    columns = (counts.item, counts.count, counts.age_s, counts.oldest_s)
    for item, count, age_s, oldest_s in zip(*(column.tolist() for column in columns), strict=True):
        so_far = found.get(item, (0, age_s, oldest_s))
        found[item] = (so_far[0] + count, min(so_far[1], age_s), max(so_far[2], oldest_s))
    return found


def ages_of(past: Behaviors, at_ms: int) -> dict[int, list[int]]:
    """Return the ages in seconds of each item's behaviors before a moment."""
    found: dict[int, list[int]] = {}
    for moment, item in zip(past.at_ms.tolist(), past.item.tolist(), strict=True):
        if moment < at_ms:
            found.setdefault(item, []).append((at_ms - moment) // 1000)
    return found


def slow_table(past: Behaviors, at_ms: int) -> Table:
    return {item: (len(ages_s), min(ages_s), max(ages_s)) for item, ages_s in ages_of(past, at_ms).items()}


def fading_of(counts: ItemCounts) -> dict[int, list[float]]:
    """Return the fading counts of each item, its entries together."""
    found: dict[int, list[float]] = {}
    for item, fading in zip(counts.item.tolist(), counts.fading.astype(np.float64), strict=True):
        found[item] = (np.array(found.get(item, 0.0)) + fading).tolist()
    return found


def slow_fading(past: Behaviors, at_ms: int) -> dict[int, list[float]]:
    return {
        item: counts_of([(item, ages_s)]).fading[0].tolist() for item, ages_s in ages_of(past, at_ms).items()
    }


def blob(snapshot: Snapshot | None) -> bytes | None:
    return None if snapshot is None else encode_snapshot(snapshot)


def test_only_behaviors_strictly_before_the_moment_count() -> None:
    past = behaviors([10, 20, 20, 30], [1, 2, 3, 4], [1.0] * 4)
    snapshot = make_snapshot(past, VECTORS, at_ms=20, options=SnapshotOptions())
    assert snapshot is not None
    assert (snapshot.at_ms, snapshot.item.tolist(), snapshot.tail.item.tolist()) == (20, [1], [1])
    assert table_of(snapshot.counts) == {1: (1, 0, 0)}


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


def test_an_item_is_counted_once_with_the_age_of_its_newest_occurrence() -> None:
    past = behaviors([1_000, 2_000, 3_000, 4_999], [7, 8, 7, 9], [0.0, 1.0, 1.0, 1.0])
    snapshot = make_snapshot(past, VECTORS, at_ms=10_000, options=SnapshotOptions())
    assert snapshot is not None
    counts = snapshot.counts
    assert counts.item.tolist() == [9, 7, 8]  # newest first
    assert counts.count.tolist() == [1, 2, 1]
    assert counts.age_s.tolist() == [5, 7, 8] and counts.oldest_s.tolist() == [5, 9, 8]


@pytest.mark.parametrize("items_max", [0, 1, 2, 3, 10])
def test_of_more_items_than_the_bound_those_met_last_are_counted_with_all_their_occurrences(
    items_max: int,
) -> None:
    past = behaviors([1_000, 2_000, 3_000, 4_000, 5_000], [1, 2, 1, 3, 1], [1.0] * 5)
    newest_first = [1, 3, 2]
    counts = count_items(past.at_ms, past.item, 6_000, items_max)
    assert counts.item.tolist() == newest_first[:items_max]
    assert counts.count.tolist() == [3, 1, 1][:items_max]
    options = SnapshotOptions(counted_items_max=items_max)
    snapshot = make_snapshot(past, VECTORS, at_ms=6_000, options=options)
    assert snapshot is not None and snapshot.counts.item.tolist() == newest_first[:items_max]
    assert snapshot.size.sum() == 5  # the bound is not on what is clustered


@given(st.integers(0, 200), st.integers(0, 100), st.integers(0, 60))
def test_counts_are_those_of_a_loop_whatever_the_bound(length: int, seed: int, items_max: int) -> None:
    past, at_ms = random_behaviors(length, seed), 1_000_000
    everything, fading = slow_table(past, at_ms), slow_fading(past, at_ms)
    last_met = {int(item): place for place, item in enumerate(past.item)}
    kept = sorted(everything, key=lambda item: -last_met[item])[:items_max]
    found = count_items(past.at_ms, past.item, at_ms, items_max)
    assert found.item.tolist() == kept
    assert table_of(found) == {item: everything[item] for item in kept}
    assert fading_of(found) == {item: pytest.approx(fading[item], rel=1e-6) for item in kept}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 120),
    st.integers(0, 100),
    st.integers(0, 1_100_000),
    st.lists(st.integers(0, 1_100_000), min_size=1, max_size=4),
)
def test_what_a_history_counts_does_not_depend_on_when_its_snapshot_was_made(
    length: int, seed: int, at_ms: int, moments: list[int]
) -> None:
    """Through the store's bytes too. An age is a sum of two that were rounded down: it may lack a second."""
    past = random_behaviors(length, seed)
    expected, fading = slow_table(past, at_ms), slow_fading(past, at_ms)
    for snapshot in (None, *snapshots_of_user(past, VECTORS, moments, options=SnapshotOptions())):
        stored = None if snapshot is None else decode_snapshot(encode_snapshot(snapshot))
        history = build_history(stored, past, at_ms=at_ms, limits=HistoryLimits())
        found = table_of(history.counted)
        assert found.keys() == expected.keys()
        for item, (count, age_s, oldest_s) in found.items():
            exact = expected[item]
            assert count == exact[0]
            assert 0 <= exact[1] - age_s <= 1 and 0 <= exact[2] - oldest_s <= 1
        second = 1 / (4 * 86_400)  # a second more or less of the shortest half-life
        assert fading_of(history.counted) == {
            i: pytest.approx(f, rel=second + 1e-6) for i, f in fading.items()
        }


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 120),
    st.integers(0, 100),
    st.integers(0, 1_100),
    st.lists(st.integers(0, 1_100), max_size=4),
)
def test_what_a_history_counts_is_exact_where_moments_are_whole_seconds(
    length: int, seed: int, at_s: int, moments_s: list[int]
) -> None:
    past, at_ms = random_behaviors(length, seed), 1_000 * at_s
    moments = [1_000 * moment for moment in moments_s]
    for snapshot in (None, *snapshots_of_user(past, VECTORS, moments, options=SnapshotOptions())):
        history = build_history(snapshot, past, at_ms=at_ms, limits=HistoryLimits())
        assert table_of(history.counted) == slow_table(past, at_ms)


def test_items_newer_than_the_vectors_read_row_0() -> None:
    known = make_snapshot(behaviors([1], [0], [1.0]), VECTORS, at_ms=2, options=SnapshotOptions())
    newer = make_snapshot(behaviors([1], [10**6], [1.0]), VECTORS, at_ms=2, options=SnapshotOptions())
    assert known is not None and newer is not None
    assert newer.item.tolist() == [10**6] and newer.size.tolist() == known.size.tolist()


def test_ages_beyond_the_codecs_range_stay_at_its_end() -> None:
    snapshot = make_snapshot(behaviors([0], [1], [1.0]), VECTORS, at_ms=10**16, options=SnapshotOptions())
    assert snapshot is not None and snapshot.mean_age_s.tolist() == [2**32 - 1]
    assert snapshot.counts.age_s.tolist() == snapshot.counts.oldest_s.tolist() == [2**32 - 1]


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
    assert (second.counts.age_s - first.counts.age_s).tolist() == [7_000] * len(first.counts)
    assert second.counts.count.tolist() == first.counts.count.tolist()


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
