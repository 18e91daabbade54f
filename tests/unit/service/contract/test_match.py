"""Match statistics, by construction and against a loop over every entry and candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.features import BucketEncoder, FeatureEncoder, FeatureSpec, Side
from service.contract.history import AGE_S_MAX, ItemCounts
from service.contract.match import (
    ANY,
    NEVER_S,
    MatchEncoder,
    level_of,
    match_features,
    match_keys,
    match_statistics,
    unmatched_ids,
)

DAY_S = 86_400
LEVELS = (ANY, "item_id", "brand", "product_type")
ITEM_FEATURES = ("brand", "item_id", "product_type")
ITEM_IDS = np.array([[0, 0, 0], [7, 3, 1], [7, 2, 0], [8, 1, 1], [0, 4, 1]])
"""Feature ids of four items after the cold-start item: two of brand 7, three of type 1, and unknown ones."""

Entry = tuple[int, int, int]  # item row, count, age in s
Statistic = tuple[int, int]  # count, age in s


def counts(entries: Sequence[Entry]) -> ItemCounts:
    columns = np.array(entries, np.int64).reshape(-1, 3).T
    return ItemCounts(columns[0].astype(np.uint32), columns[1].astype(np.uint32), columns[2])


def matches(level: str, entry_row: int, candidate_row: int) -> bool:
    """Say whether an entry matches a candidate: by the definition, on items of ITEM_IDS."""
    if level == ANY:
        return True
    if level == "item_id":
        return entry_row == candidate_row != 0
    column = ITEM_FEATURES.index(level)
    value = int(ITEM_IDS[entry_row, column])
    return value == int(ITEM_IDS[candidate_row, column]) and value != 0


def slow_statistic(entries: Sequence[Entry], level: str, candidate_row: int) -> Statistic:
    mine = [entry for entry in entries if matches(level, entry[0], candidate_row)]
    return sum(count for _, count, _ in mine), min((age_s for *_, age_s in mine), default=NEVER_S)


def statistics(entries: Sequence[Entry], candidates: Sequence[int]) -> dict[str, list[Statistic]]:
    """Return the statistics of each candidate, level by level."""
    keys, table = match_keys(LEVELS, ITEM_IDS, ITEM_FEATURES), counts(entries)
    count, age_s = match_statistics(
        keys[table.item], table.count, table.age_s, keys[np.array(candidates, np.int64)]
    )
    assert count.shape == age_s.shape == (len(candidates), len(LEVELS))
    return {
        level: list(zip(count[:, i].tolist(), age_s[:, i].tolist(), strict=True))
        for i, level in enumerate(LEVELS)
    }


rows = st.integers(0, len(ITEM_IDS) - 1)
entries_of = st.lists(st.tuples(rows, st.integers(1, 2**32 - 1), st.integers(0, AGE_S_MAX)), max_size=12)


@settings(max_examples=300)
@given(entries_of, st.lists(rows, max_size=6))
def test_statistics_are_those_of_a_loop_over_all_entries(entries: list[Entry], candidates: list[int]) -> None:
    found = statistics(entries, candidates)
    assert found == {
        level: [slow_statistic(entries, level, candidate) for candidate in candidates] for level in LEVELS
    }


@given(entries_of, st.lists(rows, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_matter(
    entries: list[Entry], candidates: list[int], random: object
) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert statistics(shuffled, candidates) == statistics(entries, candidates)


@given(entries_of, st.lists(rows, min_size=2, max_size=6))
def test_a_candidate_has_the_same_statistics_whoever_is_beside_it(
    entries: list[Entry], candidates: list[int]
) -> None:
    together = statistics(entries, candidates)
    for place, candidate in enumerate(candidates):
        alone = statistics(entries, [candidate])
        assert {level: [found[place]] for level, found in together.items()} == alone


def test_each_level_counts_what_shares_its_value() -> None:
    entries = [(1, 5, 300), (2, 2, 200), (3, 1, 100)]
    found = statistics(entries, [1, 2, 3, 4])
    assert found[ANY] == [(8, 100)] * 4
    assert found["item_id"] == [(5, 300), (2, 200), (1, 100), (0, NEVER_S)]
    assert found["brand"] == [(7, 200), (7, 200), (1, 100), (0, NEVER_S)]
    assert found["product_type"] == [(6, 100), (0, NEVER_S), (6, 100), (6, 100)]


def test_an_item_that_stands_twice_is_counted_together_and_is_as_old_as_its_newest() -> None:
    for entries in ([(1, 4, 900), (1, 1, 30)], [(1, 1, 30), (1, 4, 900)]):
        assert statistics(entries, [1])["item_id"] == [(5, 30)]


def test_what_is_unknown_matches_nothing_but_the_level_of_all() -> None:
    found = statistics([(0, 3, 10), (4, 2, 20)], [0, 4])
    assert found[ANY] == [(5, 10), (5, 10)]
    assert found["item_id"] == [(0, NEVER_S), (2, 20)]
    assert found["brand"] == [(0, NEVER_S)] * 2  # neither row has a brand
    assert found["product_type"] == [(0, NEVER_S), (2, 20)]


def test_no_history_matches_nothing() -> None:
    assert statistics([], [0, 1]) == {level: [(0, NEVER_S)] * 2 for level in LEVELS}


def test_no_candidates_have_no_statistics() -> None:
    assert statistics([(1, 1, 1)], []) == {level: [] for level in LEVELS}


def test_counts_do_not_wrap_where_the_table_is_full_of_the_largest() -> None:
    largest = 2**32 - 1
    assert statistics([(1, largest, 5), (1, largest, AGE_S_MAX)], [1])["item_id"] == [(2 * largest, 5)]


def test_equal_values_of_different_levels_are_not_mixed_up() -> None:
    levels, features = ("a", "b"), ("a", "b")
    keys = match_keys(levels, np.array([[0, 0], [3, 9], [9, 3]]), features)
    count, _ = match_statistics(keys[[1]], np.array([6], np.uint32), np.array([1]), keys[[1, 2]])
    assert count.tolist() == [[6, 6], [0, 0]]


def test_keys_have_a_row_an_item_and_a_column_a_level() -> None:
    keys = match_keys(("brand", ANY, "item_id"), ITEM_IDS, ITEM_FEATURES)
    assert keys.tolist() == [[0, 1, 0], [7, 1, 1], [7, 1, 2], [8, 1, 3], [0, 1, 4]]
    assert keys.dtype == np.int32 and keys.flags.c_contiguous
    assert match_keys((), ITEM_IDS, ITEM_FEATURES).shape == (5, 0)


def test_each_level_has_its_features_in_order_and_says_which_it_is() -> None:
    features = match_features(LEVELS)
    assert all(feature.side is Side.MATCH for feature in features)
    assert len({feature.name for feature in features}) == len(features)
    assert [level_of(feature) for feature in features] == [
        level for level in LEVELS for _ in range(len(features) // len(LEVELS))
    ]
    assert {"match_product_type_count", "match_product_type_days"} < {feature.name for feature in features}


@pytest.mark.parametrize("feature", match_features((ANY,)), ids=lambda feature: str(feature.name))
def test_boundaries_rise_and_are_no_more_precise_than_the_manifest_writes(feature: FeatureSpec) -> None:
    FeatureEncoder(feature)  # which refuses boundaries that do not rise
    assert FeatureSpec.model_validate_json(feature.model_dump_json()) == feature


def named(*names: str) -> tuple[FeatureSpec, ...]:
    """Return some match features of LEVELS, in the order of their names."""
    found = {feature.name: feature for feature in match_features(LEVELS)}
    return tuple(found[name] for name in names)


def ids_of(name: str, statistics: Sequence[Statistic]) -> list[int]:
    """Return the ids of one feature of the level `item_id`."""
    pairs = np.array(statistics, np.int64).reshape(-1, 2)
    ids: list[int] = MatchEncoder(named(name)).encode(pairs[:, :1], pairs[:, 1:])[:, 0].tolist()
    return ids


def test_small_counts_have_an_id_each_and_none_at_all_has_one_too() -> None:
    ids = ids_of("match_item_id_count", [(count, 0) for count in range(8)])
    assert ids == list(range(1, 9))


def test_an_age_is_known_only_where_something_matches() -> None:
    never, now = ids_of("match_item_id_days", [(0, NEVER_S), (1, 0)])
    assert (never, now) == (0, 1)


@pytest.mark.parametrize(
    ("name", "unit"), [("match_item_id_count", 1), ("match_item_id_days", DAY_S)], ids=["count", "days"]
)
def test_a_value_at_a_boundary_is_in_the_bucket_above_it(name: str, unit: int) -> None:
    (spec,) = named(name)
    assert isinstance(spec.encoder, BucketEncoder)
    whole = [(i, round(b * unit)) for i, b in enumerate(spec.encoder.boundaries) if (b * unit).is_integer()]
    assert len(whole) > 10
    for place, value in whole:
        assert ids_of(name, [(value, value), (value - 1, value - 1)]) == [place + 2, place + 1]


@given(st.integers(0, 2**40), st.integers(NEVER_S, AGE_S_MAX))
def test_ids_are_those_of_the_features_own_encoders(count: int, age_s: int) -> None:
    raw = {"count": count, "days": None if age_s == NEVER_S else age_s / DAY_S}
    for statistic, value in raw.items():
        name = f"match_item_id_{statistic}"
        assert ids_of(name, [(count, age_s)]) == [FeatureEncoder(named(name)[0]).encode(value)]


def test_ids_are_within_the_embedding_tables() -> None:
    features = match_features(LEVELS)
    extremes = np.array([[0], [2**50]]) * np.ones((1, len(LEVELS)), np.int64)
    ids = MatchEncoder(features).encode(extremes, extremes)
    assert ids.max(axis=0).tolist() == [feature.encoder.ids_count - 1 for feature in features]
    assert ids.min() == 1


def test_an_encoder_gives_the_features_asked_for_in_their_order() -> None:
    """Whatever a model leaves out: levels, statistics, or both."""
    every = MatchEncoder(match_features(LEVELS))
    table = counts([(1, 5, 3 * DAY_S), (3, 1, DAY_S), (2, 9, 40 * DAY_S)])
    candidates = np.arange(len(ITEM_IDS))

    def ids(encoder: MatchEncoder) -> np.ndarray:
        keys = match_keys(encoder.levels, ITEM_IDS, ITEM_FEATURES)
        return encoder.ids(keys, table, counted_rows=table.item.astype(np.int64), candidate_rows=candidates)

    whole = ids(every)
    names = [feature.name for feature in match_features(LEVELS)]
    for asked in (
        ("match_brand_days",),
        ("match_product_type_days", "match_any_count"),
        ("match_item_id_days", "match_brand_count", "match_item_id_count"),
    ):
        columns = [names.index(name) for name in asked]
        assert ids(MatchEncoder(named(*asked))).tolist() == whole[:, columns].tolist()


def test_an_encoder_of_no_features_has_no_levels() -> None:
    encoder = MatchEncoder(())
    assert encoder.levels == ()
    keys = match_keys((), ITEM_IDS, ITEM_FEATURES)
    table = counts([(1, 5, 3)])
    found = encoder.ids(keys, table, counted_rows=np.array([1]), candidate_rows=np.array([1, 2]))
    assert found.shape == (2, 0)


def test_ids_of_the_unmatched_are_those_of_an_empty_history() -> None:
    features = match_features(LEVELS)
    encoder = MatchEncoder(features)
    keys = match_keys(LEVELS, ITEM_IDS, ITEM_FEATURES)
    nothing = np.zeros(0, np.int64)
    expected = encoder.ids(keys, ItemCounts.empty(), counted_rows=nothing, candidate_rows=np.array([2]))[0]
    assert unmatched_ids(features).tolist() == expected.tolist()
    assert unmatched_ids(()).tolist() == []
