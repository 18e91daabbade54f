"""Match statistics, by construction and against a loop over every behavior and candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.history import AGE_S_MAX, ItemCounts
from service.contract.match import ANY, MatchTable, match_key_ends, match_keys, new_item_keys
from tests.support.slow_statistics import (
    RELATIVE_TOLERANCE,
    STATISTICS,
    counts_of,
    dense,
    statistics_of,
)

LEVELS = (ANY, "item_id", "brand", "product_type")
ITEM_FEATURES = ("brand", "item_id", "product_type")
ITEM_IDS = np.array([[0, 0, 0], [7, 3, 1], [7, 2, 0], [8, 1, 1], [0, 4, 1]])
"""Feature ids of four items after the cold-start item: two of brand 7, three of type 1, and unknown ones."""

Entry = tuple[int, list[int]]  # item row, ages in s
Found = dict[str, list[dict[str, float | None]]]  # by level, candidate and statistic


def matches(level: str, entry_row: int, candidate_row: int) -> bool:
    """Say whether an entry matches a candidate: by the definition, on items of ITEM_IDS."""
    if level == ANY:
        return True
    if level == "item_id":
        return entry_row == candidate_row != 0
    column = ITEM_FEATURES.index(level)
    value = int(ITEM_IDS[entry_row, column])
    return value == int(ITEM_IDS[candidate_row, column]) and value != 0


def slow(entries: Sequence[Entry], candidates: Sequence[int]) -> Found:
    return {
        level: [
            statistics_of(
                [age_s for row, ages_s in entries if matches(level, row, candidate) for age_s in ages_s]
            )
            for candidate in candidates
        ]
        for level in LEVELS
    }


def by_name(statistics: np.ndarray) -> Found:
    """Return (N, levels, STATISTICS) by level, candidate and statistic; None is NaN."""
    assert statistics.shape[1:] == (len(LEVELS), len(STATISTICS))
    return {
        level: [
            {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(STATISTICS, statistics[row, i], strict=True)
            }
            for row in range(len(statistics))
        ]
        for i, level in enumerate(LEVELS)
    }


def statistics(entries: Sequence[Entry], candidates: Sequence[int]) -> Found:
    """Return the statistics of each candidate, level by level."""
    return by_name(statistics_with(counts_of(entries), candidates))


def statistics_with(counts: ItemCounts, candidates: Sequence[int]) -> np.ndarray:
    table = MatchTable(match_keys(LEVELS, ITEM_IDS, ITEM_FEATURES))
    return matched(table, counts, candidates)


def matched(table: MatchTable, counts: ItemCounts, candidates: Sequence[int], levels: int = 4) -> np.ndarray:
    rows = np.array(candidates, np.int64)
    return dense(table.counted(counts.item.astype(np.int64), counts, rows), len(rows), levels)


def assert_same(found: Found, expected: Found) -> None:
    for level in LEVELS:
        assert len(found[level]) == len(expected[level])
        for one, other in zip(found[level], expected[level], strict=True):
            assert one == {
                name: value
                if value is None or name in ("count", "days")
                else pytest.approx(value, rel=RELATIVE_TOLERANCE, abs=1e-9)
                for name, value in other.items()
            }, level


rows = st.integers(0, len(ITEM_IDS) - 1)
ages = st.lists(st.integers(0, 400 * 86_400) | st.integers(0, AGE_S_MAX), min_size=1, max_size=4)
entries_of = st.lists(st.tuples(rows, ages), max_size=12)


@settings(max_examples=300)
@given(entries_of, st.lists(rows, max_size=6))
def test_statistics_are_those_of_a_loop_over_all_behaviors(
    entries: list[Entry], candidates: list[int]
) -> None:
    assert_same(statistics(entries, candidates), slow(entries, candidates))


@given(entries_of, st.lists(rows, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_matter(
    entries: list[Entry], candidates: list[int], random: object
) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert_same(statistics(shuffled, candidates), statistics(entries, candidates))


@given(entries_of, st.lists(rows, min_size=2, max_size=6))
def test_a_candidate_has_the_same_statistics_whoever_is_beside_it(
    entries: list[Entry], candidates: list[int]
) -> None:
    together = statistics(entries, candidates)
    for place, candidate in enumerate(candidates):
        alone = statistics(entries, [candidate])
        assert {level: [found[place]] for level, found in together.items()} == alone


@given(st.lists(st.tuples(entries_of, st.lists(rows, max_size=6)), min_size=2, max_size=5))
def test_a_request_sees_nothing_of_those_before_it(requests: list[tuple[list[Entry], list[int]]]) -> None:
    table = MatchTable(match_keys(LEVELS, ITEM_IDS, ITEM_FEATURES))
    for entries, candidates in requests:
        assert_same(by_name(matched(table, counts_of(entries), candidates)), slow(entries, candidates))


def counts_at(found: Found, level: str) -> list[float | None]:
    return [one["count"] for one in found[level]]


def test_each_level_counts_what_shares_its_value() -> None:
    entries = [(1, [300, 900, 600]), (2, [200, 700]), (3, [100])]
    found = statistics(entries, [1, 2, 3, 4])
    assert counts_at(found, ANY) == [6, 6, 6, 6]
    assert counts_at(found, "item_id") == [3, 2, 1, 0]
    assert counts_at(found, "brand") == [5, 5, 1, 0]
    assert counts_at(found, "product_type") == [4, 0, 4, 4]
    assert [one["days"] for one in found["brand"]] == [200 / 86_400, 200 / 86_400, 100 / 86_400, None]


def test_an_item_that_stands_twice_is_counted_together() -> None:
    """As it does where a table in a snapshot is followed by what was done since."""
    for entries in ([(1, [900, 500]), (1, [30])], [(1, [30]), (1, [500, 900])]):
        assert_same(statistics(entries, [1]), slow([(1, [30, 500, 900])], [1]))


def test_what_is_unknown_matches_nothing_but_the_level_of_all() -> None:
    found = statistics([(0, [10, 20, 30]), (4, [20, 50])], [0, 4])
    assert counts_at(found, ANY) == [5, 5]
    assert counts_at(found, "item_id") == [0, 2]
    assert counts_at(found, "brand") == [0, 0]  # neither row has a brand
    assert counts_at(found, "product_type") == [0, 2]


def test_no_history_matches_nothing() -> None:
    nothing = statistics_of(())
    assert statistics([], [0, 1]) == {level: [nothing] * 2 for level in LEVELS}


def test_no_candidates_have_no_statistics() -> None:
    assert statistics([(1, [1])], []) == {level: [] for level in LEVELS}


def test_no_levels_have_no_statistics() -> None:
    counts = counts_of([(1, [1])])
    table = MatchTable(match_keys((), ITEM_IDS, ITEM_FEATURES))
    assert matched(table, counts, [1, 2], levels=0).shape == (2, 0, len(STATISTICS))


def test_counts_do_not_wrap_where_the_table_is_full_of_the_largest() -> None:
    largest = 2**32 - 1
    made = counts_of([(1, [5]), (1, [AGE_S_MAX])])
    full = ItemCounts(made.item, np.full(2, largest, np.uint32), made.age_s, made.oldest_s, made.fading)
    assert counts_at(by_name(statistics_with(full, [1])), "item_id") == [2 * largest]


def test_equal_values_of_different_levels_are_not_mixed_up() -> None:
    keys = match_keys(("a", "b"), np.array([[0, 0], [3, 9], [9, 3]]), ("a", "b"))
    found = matched(MatchTable(keys), counts_of([(1, [1] * 6)]), [1, 2], levels=2)
    assert found[:, :, 0].tolist() == [[6, 6], [0, 0]]


def test_keys_have_a_row_an_item_and_a_column_a_level() -> None:
    keys = match_keys(("brand", ANY, "item_id"), ITEM_IDS, ITEM_FEATURES)
    assert keys.tolist() == [[0, 9, 0], [7, 9, 10], [7, 9, 11], [8, 9, 12], [0, 9, 13]]
    assert keys.dtype == np.int32 and keys.flags.c_contiguous
    assert match_keys((), ITEM_IDS, ITEM_FEATURES).shape == (5, 0)


ENDS = match_key_ends(match_keys(LEVELS, ITEM_IDS, ITEM_FEATURES))


@settings(max_examples=200)
@given(entries_of, st.lists(st.tuples(rows, st.booleans()), min_size=1, max_size=6))
def test_an_item_without_a_row_matches_as_one_of_its_features_does_but_never_as_itself(
    entries: list[Entry], candidates: list[tuple[int, bool]]
) -> None:
    """Each candidate stands in its row, or brings the features of that row in place of it."""
    table, counts = MatchTable(match_keys(LEVELS, ITEM_IDS, ITEM_FEATURES)), counts_of(entries)
    alike = [row for row, _ in candidates]
    places = np.flatnonzero([new for _, new in candidates])
    keys = new_item_keys(LEVELS, ITEM_IDS[[alike[i] for i in places]], ITEM_FEATURES, ends=ENDS)
    found = table.counted(
        counts.item.astype(np.int64),
        counts,
        np.array([0 if new else row for row, new in candidates]),
        own_keys=(places, keys),
    )
    expected = slow(entries, alike)
    for place in places.tolist():
        expected["item_id"][place] = statistics_of(())
    assert_same(by_name(dense(found, len(candidates), len(LEVELS))), expected)


def test_ends_are_the_last_keys_of_each_level() -> None:
    assert ENDS == (1, 5, 13, 14)
    nobody_has_any = np.zeros((3, 1), np.int64)
    assert match_key_ends(match_keys(("brand", ANY), nobody_has_any, ("brand",))) == (0, 1)
    assert match_key_ends(match_keys((), ITEM_IDS, ITEM_FEATURES)) == ()


def test_a_value_that_no_item_has_is_no_key_of_the_next_level() -> None:
    ids = np.array(
        [[9, 0, 2], [8, 0, 1], [0, 0, 0], [10**6, 0, 10**6]]
    )  # 8 is the last brand, 1 the last type
    keys = new_item_keys(LEVELS, ids, ITEM_FEATURES, ends=ENDS)
    assert keys.tolist() == [[1, 0, 0, 0], [1, 0, 13, 14], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert keys.dtype == np.int32
