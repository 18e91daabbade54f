"""The history of a request, by construction and against a plain reference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.history import (
    AGE_BUCKETS,
    STRENGTH_BUCKETS,
    Behaviors,
    History,
    HistoryLimits,
    Snapshot,
    age_buckets,
    build_history,
    decode_snapshot,
    encode_snapshot,
    sample_clusters,
    strength_buckets,
)
from tests.support.slow_statistics import counts_of

Row = tuple[int, int, int]  # at_ms, item, strength
Counted = tuple[int, list[int]]  # item, ages in s of its behaviors
LIMITS = HistoryLimits()
ALL = HistoryLimits(behaviors_max=50)


def behaviors(rows: Sequence[Row]) -> Behaviors:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    return Behaviors(
        np.array(columns[0], np.int64), np.array(columns[1], np.uint32), np.array(columns[2], np.uint16)
    )


Table = list[tuple[int, int, int, int]]  # item, count, ages in s of the newest and the oldest


def counted_of(history: History) -> Table:
    counted = history.counted
    columns = (counted.item, counted.count, counted.age_s, counted.oldest_s)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def table_of(entries: Sequence[Counted]) -> Table:
    return [(item, len(ages_s), min(ages_s), max(ages_s)) for item, ages_s in entries]


def snapshot(
    at_ms: int,
    clusters: Sequence[tuple[int, int, int, int]],
    tail: Sequence[Row],
    counts: Sequence[Counted] = (),
) -> Snapshot:
    """Return a snapshot of clusters (item, size, mean age in s, strength)."""
    columns = np.array(clusters, np.int64).reshape(-1, 4).T
    return Snapshot(
        at_ms,
        columns[0].astype(np.uint32),
        columns[1].astype(np.uint32),
        columns[2].astype(np.uint32),
        columns[3].astype(np.uint16),
        behaviors(tail),
        counts_of(counts),
    )


def ages(*age_s: int) -> list[int]:
    return age_buckets(np.array(age_s, np.int64)).tolist()


def test_no_history_at_all() -> None:
    history = build_history(None, Behaviors.empty(), at_ms=0, limits=LIMITS)
    assert [len(getattr(history, name)) for name in History.__slots__] == [0] * 11


def test_behavior_at_the_request_is_not_seen_and_one_before_is() -> None:
    history = build_history(None, behaviors([(100, 1, 0), (99, 2, 0), (101, 3, 0)]), at_ms=100, limits=ALL)
    assert history.item.tolist() == history.recent_item.tolist() == history.behavior_item.tolist() == [2]
    assert counted_of(history) == [(2, 1, 0, 0)]


def test_behavior_at_the_snapshot_is_recent_and_one_before_is_covered() -> None:
    old = snapshot(50, [(9, 4, 10, 0)], [(49, 8, 0)], [(8, [4, 2, 0]), (9, [7])])
    history = build_history(old, behaviors([(49, 1, 0), (50, 2, 0)]), at_ms=100, limits=ALL)
    assert history.item.tolist() == [9, 2]
    assert history.size.tolist() == [4.0, 1.0]
    assert history.recent_item.tolist() == history.behavior_item.tolist() == [8, 2]
    assert counted_of(history) == [(8, 3, 0, 4), (9, 1, 7, 7), (2, 1, 0, 0)]


@pytest.mark.parametrize("at_ms", [100, 101])
def test_snapshot_at_or_after_the_request_is_not_used(at_ms: int) -> None:
    future = snapshot(at_ms, [(9, 4, 10, 0)], [(5, 8, 0)], [(8, [0, 4])])
    history = build_history(future, behaviors([(20, 1, 0), (100, 2, 0)]), at_ms=100, limits=ALL)
    assert history.item.tolist() == history.recent_item.tolist() == history.behavior_item.tolist() == [1]
    assert counted_of(history) == [(1, 1, 0, 0)]


def test_snapshot_just_before_the_request_is_used() -> None:
    history = build_history(snapshot(99, [(9, 4, 10, 0)], []), Behaviors.empty(), at_ms=100, limits=LIMITS)
    assert history.item.tolist() == [9]


def test_order_of_arrival_does_not_matter_but_ties_keep_it() -> None:
    rows = [(30, 3, 0), (10, 1, 0), (20, 2, 0), (20, 7, 0)]
    history = build_history(None, behaviors(rows), at_ms=100, limits=LIMITS)
    assert history.item.tolist() == history.recent_item.tolist() == [1, 2, 7, 3]


def test_a_long_life_cycle_is_read_as_a_sample_that_stands_for_all_of_it() -> None:
    clusters = [(item, size, 10 * item, item) for item, size in enumerate([3, 1, 2, 6, 1, 1, 4], start=1)]
    whole, live = snapshot(50, clusters, [(49, 8, 0)], [(8, [4])]), behaviors([(60, 99, 0)])
    # Of 18 behaviors, runs of 6: the middles 3, 9 and 15 lie in the second, the fourth and the last cluster.
    limits = HistoryLimits(clusters_max=3)
    history = build_history(whole, live, at_ms=100, limits=limits)
    assert history.item.tolist() == [2, 4, 7, 99]
    assert history.size.tolist() == [6.0, 6.0, 6.0, 1.0]
    assert history.age.tolist() == [*ages(20, 40, 70), *ages(0)]
    assert counted_of(history) == counted_of(build_history(whole, live, at_ms=100, limits=LIMITS))
    stored = decode_snapshot(encode_snapshot(whole.sampled(3)))
    again = build_history(stored, live, at_ms=100, limits=limits)
    assert again.item.tolist() == history.item.tolist() and again.size.tolist() == history.size.tolist()


@pytest.mark.parametrize("clusters_max", [None, 7, 8])
def test_one_that_is_no_longer_is_read_whole(clusters_max: int | None) -> None:
    whole = snapshot(50, [(item, 20, 0, 0) for item in range(1, 8)], [])
    assert whole.sampled(clusters_max) is whole


def slow_sample(sizes: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Return clusters and what they stand for, behavior by behavior."""
    row = [place for place, size in enumerate(sizes) for _ in range(size)]
    cuts = [number * len(row) // count for number in range(count + 1)]
    stands_for: dict[int, int] = {}
    for start, stop in pairwise(cuts):
        place = row[(start + stop) // 2]
        stands_for[place] = stands_for.get(place, 0) + stop - start
    return list(stands_for), list(stands_for.values())


@given(st.lists(st.integers(1, 40) | st.sampled_from([1, 1000]), min_size=2, max_size=60), st.data())
def test_a_sample_is_what_walking_over_all_behaviors_gives(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(sizes) - 1))
    places, stands_for = sample_clusters(np.array(sizes, np.uint32), count)
    assert (places.tolist(), stands_for.tolist()) == slow_sample(sizes, count)
    assert stands_for.dtype == np.uint32 and stands_for.sum() == sum(sizes)


def test_interests_keep_their_weight_in_a_sample() -> None:
    """Interests of 1 to 400 clusters side by side, 1,024 runs: what each weighs moves by one run at most."""
    random = np.random.default_rng(0)
    interest = np.repeat(np.arange(50), random.integers(1, 400, 50))
    size = random.integers(1, 21, len(interest)).astype(np.uint32)
    places, stands_for = sample_clusters(size, 1024)
    run = size.sum() / 1024
    weights = np.bincount(interest, size)
    assert np.abs(np.bincount(interest[places], stands_for, minlength=50) - weights).max() <= run + 1


def test_clusters_grow_older_from_the_snapshot_to_the_request() -> None:
    day_ms = 86_400_000
    old = snapshot(0, [(9, 4, 3_600, 0)], [(-7_000, 8, 0)], [(8, [7]), (9, [5_000, 5_000, 6_000])])
    history = build_history(old, behaviors([(day_ms, 2, 0)]), at_ms=2 * day_ms, limits=ALL)
    assert history.age.tolist() == ages(3_600 + 2 * 86_400, 86_400)
    assert history.recent_age.tolist() == history.behavior_age.tolist() == ages(2 * 86_400 + 7, 86_400)
    two_days = 2 * 86_400
    assert counted_of(history) == [
        (8, 1, two_days + 7, two_days + 7),
        (9, 3, two_days + 5_000, two_days + 6_000),
        (2, 1, 86_400, 86_400),
    ]
    expected = counts_of(
        [(8, [two_days + 7]), (9, [two_days + 5_000] * 2 + [two_days + 6_000]), (2, [86_400])]
    )
    np.testing.assert_allclose(history.counted.fading, expected.fading, rtol=1e-6)


def test_ages_of_counts_may_exceed_what_the_codec_holds() -> None:
    old = snapshot(0, [(9, 1, 0, 0)], [], [(9, [2**32 - 1])])
    decoded = decode_snapshot(encode_snapshot(old))
    history = build_history(decoded, Behaviors.empty(), at_ms=10_000, limits=LIMITS)
    assert counted_of(history) == [(9, 1, 2**32 - 1 + 10, 2**32 - 1 + 10)]


def test_caps_keep_the_newest() -> None:
    old = snapshot(0, [(90, 2, 0, 0), (91, 2, 0, 0)], [(-2, 80, 0), (-1, 81, 0)])
    live = behaviors([(t, t, 0) for t in (1, 2, 3)])
    limits = HistoryLimits(singletons_max=2, recents_max=4, behaviors_max=1)
    history = build_history(old, live, at_ms=100, limits=limits)
    assert history.item.tolist() == [90, 91, 2, 3]
    assert history.recent_item.tolist() == [81, 1, 2, 3]
    assert history.behavior_item.tolist() == [3]


def test_no_cap_bounds_what_is_counted() -> None:
    old = snapshot(0, [(90, 2, 0, 0)], [], [(90, [1, 3])])
    limits = HistoryLimits(singletons_max=0, recents_max=0, behaviors_max=0)
    history = build_history(old, behaviors([(t, t, 0) for t in (1, 2, 3)]), at_ms=100, limits=limits)
    assert counted_of(history) == [(90, 2, 1, 3), (1, 1, 0, 0), (2, 1, 0, 0), (3, 1, 0, 0)]


def test_a_life_cycle_without_a_cap_of_its_own_has_no_raw_behaviors() -> None:
    history = build_history(None, behaviors([(1, 1, 0)]), at_ms=100, limits=LIMITS)
    assert history.recent_item.tolist() == [1] and history.behavior_item.tolist() == []


def test_caps_of_zero_leave_the_clusters() -> None:
    old = snapshot(0, [(90, 2, 0, 0)], [(-2, 80, 0)])
    limits = HistoryLimits(singletons_max=0, recents_max=0)
    history = build_history(old, behaviors([(1, 1, 0)]), at_ms=100, limits=limits)
    assert history.item.tolist() == [90] and history.recent_item.tolist() == []


def test_recents_are_not_capped_by_the_cap_of_singletons() -> None:
    live = behaviors([(t, t, 0) for t in range(1, 6)])
    history = build_history(None, live, at_ms=100, limits=HistoryLimits(singletons_max=1, recents_max=3))
    assert history.item.tolist() == [5] and history.recent_item.tolist() == [3, 4, 5]


def slow_history(
    old: Snapshot | None, recent: Sequence[Row], at_ms: int, limits: HistoryLimits
) -> dict[str, list[float]]:
    """Return the parts of the history; what it counts is compared in tests of its own."""
    clusters: list[tuple[int, float, int, int]] = []  # item, size, age in s, strength
    tail: list[Row] = []
    since = -(2**62)
    if old is not None and old.at_ms < at_ms:
        since = old.at_ms
        older_s = (at_ms - since) // 1000
        clusters = [
            (int(i), float(n), int(a) + older_s, int(s))
            for i, n, a, s in zip(old.item, old.size, old.mean_age_s, old.strength, strict=True)
        ]
        tail = list(
            zip(*(c.tolist() for c in (old.tail.at_ms, old.tail.item, old.tail.strength)), strict=True)
        )
    live = sorted((r for r in recent if since <= r[0] < at_ms), key=lambda r: r[0])
    kept = live[-limits.singletons_max :] if limits.singletons_max else []
    clusters += [(item, 1.0, (at_ms - t) // 1000, s) for t, item, s in kept]
    return {
        "item": [c[0] for c in clusters],
        "size": [c[1] for c in clusters],
        "age": ages(*(c[2] for c in clusters)),
        "strength": [min(c[3] * 16 // 1024, STRENGTH_BUCKETS - 1) for c in clusters],
        **slow_newest("recent", tail + live, at_ms, limits.recents_max),
        **slow_newest("behavior", tail + live, at_ms, limits.behaviors_max),
    }


def slow_newest(name: str, rows: Sequence[Row], at_ms: int, count: int) -> dict[str, list[float]]:
    newest = rows[-count:] if count else []
    return {
        f"{name}_item": [r[1] for r in newest],
        f"{name}_age": [*ages(*((at_ms - r[0]) // 1000 for r in newest))],
        f"{name}_strength": [min(r[2] * 16 // 1024, STRENGTH_BUCKETS - 1) for r in newest],
    }


rows = st.tuples(st.integers(0, 30_000), st.integers(0, 9), st.integers(0, 2_000))
clusters = st.tuples(st.integers(0, 9), st.integers(1, 20), st.integers(0, 10**8), st.integers(0, 2_000))
Old = tuple[int, list[tuple[int, int, int, int]], list[Row]]


@settings(max_examples=300)
@given(
    st.none()
    | st.tuples(
        st.integers(0, 30_000),
        st.lists(clusters, max_size=5),
        st.lists(rows, max_size=5),
    ),
    st.lists(rows, max_size=12),
    st.integers(0, 30_000),
    st.builds(
        HistoryLimits,
        singletons_max=st.integers(0, 5),
        recents_max=st.integers(0, 8),
        behaviors_max=st.integers(0, 8),
    ),
)
def test_history_is_that_of_the_plain_reference(
    old: Old | None, recent: list[Row], at_ms: int, limits: HistoryLimits
) -> None:
    made = None
    if old is not None:
        tail = sorted(((t % (old[0] + 1) - 1, i, s) for t, i, s in old[2]), key=lambda r: r[0])
        made = snapshot(old[0], old[1], tail)
    history = build_history(made, behaviors(recent), at_ms=at_ms, limits=limits)
    expected = slow_history(made, recent, at_ms, limits)
    assert {name: getattr(history, name).tolist() for name in expected} == expected
    assert set(expected) == set(History.__slots__) - {"counted"}


entries = st.tuples(st.integers(0, 9), st.lists(st.integers(0, 10**8), min_size=1, max_size=3))


@settings(max_examples=300)
@given(
    st.none() | st.tuples(st.integers(0, 30_000), st.lists(entries, max_size=5)),
    st.lists(rows, max_size=12),
    st.integers(0, 30_000),
)
def test_what_is_counted_is_the_snapshots_table_grown_older_and_each_behavior_since(
    old: tuple[int, list[Counted]] | None, recent: list[Row], at_ms: int
) -> None:
    made = None if old is None else snapshot(old[0], [], [], old[1])
    history = build_history(made, behaviors(recent), at_ms=at_ms, limits=LIMITS)
    expected: list[Counted] = []
    since = -1
    if old is not None and old[0] < at_ms:
        since = old[0]
        older_s = (at_ms - since) // 1000
        expected = [(item, [age_s + older_s for age_s in ages_s]) for item, ages_s in old[1]]
    live = sorted((row for row in recent if since <= row[0] < at_ms), key=lambda row: row[0])
    expected += [(item, [(at_ms - t) // 1000]) for t, item, _ in live]
    assert counted_of(history) == table_of(expected)
    np.testing.assert_allclose(history.counted.fading, counts_of(expected).fading, rtol=1e-6, atol=1e-30)


def test_age_buckets_are_two_an_octave() -> None:
    assert ages(0, 84, 85, 119, 120, 3_840, 10**12) == [0, 0, 1, 1, 2, 12, AGE_BUCKETS - 1]


def test_age_buckets_never_fall() -> None:
    buckets = age_buckets(np.arange(0, 10**8, 9_973))
    assert (np.diff(buckets.astype(int)) >= 0).all()
    assert buckets.max() == AGE_BUCKETS - 1


def test_strength_buckets_are_sixteenths() -> None:
    strength = np.array([0, 63, 64, 1_023, 1_024, 1_215, 1_216, 65_535], np.uint16)
    assert strength_buckets(strength).tolist() == [0, 0, 1, 15, 16, 18, 19, STRENGTH_BUCKETS - 1]
