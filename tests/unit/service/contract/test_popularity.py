"""What everyone took to: statistics against definitions, and bytes that come back or are refused."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.errors import BlobError
from service.contract.features import RawValue
from service.contract.popularity import (
    Popularity,
    cut_before_ms,
    decode_popularity,
    encode_popularity,
    pair_keys,
)
from tests.support.slow_statistics import (
    RELATIVE_TOLERANCE,
    STATISTICS,
    dense,
    popularity_of,
    statistics_of,
)

AT_MS = 1_700_000_000_000
LEVELS = ("item_id", "store")
Ages = Mapping[int, Mapping[str, Sequence[int]]]  # item -> store -> ages in s at the cut
SOME: Ages = {5: {"7": [3600, 90_000], "8": [40]}, 9: {"8": [7]}, 2**32 - 1: {"x": [1]}}


def assert_statistics(found: np.ndarray, expected: Sequence[Sequence[dict[str, float | None]]]) -> None:
    """Compare (N, levels, STATISTICS) with the statistics of each row and level."""
    wanted = [[[np.nan if s is None else s for s in one.values()] for one in row] for row in expected]
    shape = (len(expected), len(expected[0]) if expected else 0, len(STATISTICS))
    assert found.shape[2:] == shape[2:]
    np.testing.assert_allclose(
        found, np.array(wanted, np.float64).reshape(found.shape), rtol=RELATIVE_TOLERANCE, atol=1e-9
    )


def found_of(
    table: Popularity, levels: Sequence[str], items: np.ndarray, context: Mapping[str, RawValue], at_ms: int
) -> np.ndarray:
    return dense(table.counted(levels, items, context, at_ms), len(items), len(levels))


def slow(ages_s: Ages, item: int, store: str | None, passed_s: int) -> list[dict[str, float | None]]:
    of_item = {} if item == 0 else ages_s.get(item, {})
    everywhere = [age_s + passed_s for ages in of_item.values() for age_s in ages]
    here = [] if store is None else [age_s + passed_s for age_s in of_item.get(store, [])]
    return [statistics_of(everywhere), statistics_of(here)]


stores = st.sampled_from(["7", "8", "10"])
items = st.integers(1, 6) | st.just(2**32 - 1)
everyones = st.dictionaries(
    items,
    st.dictionaries(stores, st.lists(st.integers(0, 10**8), min_size=1, max_size=3), min_size=1),
    max_size=4,
)
asked_items = st.lists(items | st.just(0) | st.just(77), max_size=5)


@settings(max_examples=200)
@given(everyones, asked_items, stores | st.none() | st.just("9"), st.integers(-(10**6), 10**9))
def test_statistics_are_those_of_the_definition_as_old_as_they_are_at_the_request(
    ages_s: Ages, asked: list[int], store: str | None, passed_ms: int
) -> None:
    table = popularity_of(ages_s, at_ms=AT_MS)
    found = found_of(table, LEVELS, np.array(asked, np.uint32), {"store": store}, AT_MS + passed_ms)
    passed_s = max(0, passed_ms) // 1000  # a request before the cut is read as the cut
    assert_statistics(found, [slow(ages_s, item, store, passed_s) for item in asked])


def test_each_row_may_have_a_store_and_a_moment_of_its_own() -> None:
    table = popularity_of(SOME, at_ms=AT_MS)
    values = {"store": np.array([0, 1, -1, 1])}  # 7, 8, never counted, 8
    passed_s = np.array([0, 10, 20, 86_400])
    counted = table.counted_of_rows(LEVELS, np.array([5, 5, 5, 9], np.uint32), values, passed_s)
    found = dense(counted, 4, 2)
    rows = [(5, "7", 0), (5, "8", 10), (5, None, 20), (9, "8", 86_400)]
    assert_statistics(found, [slow(SOME, *row) for row in rows])


@pytest.mark.parametrize("value", [7, 7.0, "7"])
def test_a_context_is_known_by_its_text(value: str | float) -> None:
    table = popularity_of(SOME, at_ms=AT_MS)
    found = found_of(table, ("store",), np.array([5], np.uint32), {"store": value}, AT_MS)
    assert_statistics(found, [slow(SOME, 5, "7", 0)[1:]])


def test_levels_come_in_the_order_asked_for_and_one_never_counted_is_nothing() -> None:
    table = popularity_of(SOME, at_ms=AT_MS)
    asked = ("store", "shop", "item_id")
    found = found_of(table, asked, np.array([5], np.uint32), {"store": "7", "shop": "7"}, AT_MS)
    everywhere, here = slow(SOME, 5, "7", 0)
    assert_statistics(found, [[here, statistics_of(()), everywhere]])


def test_of_nothing_counted_nothing_is_popular() -> None:
    nothing = statistics_of(())
    for table in (Popularity.empty(), popularity_of({}, at_ms=AT_MS)):
        found = found_of(table, LEVELS, np.array([5, 0], np.uint32), {"store": "7"}, AT_MS)
        assert_statistics(found, [[nothing, nothing]] * 2)


def test_some_items_of_a_table_have_what_they_had_and_others_nothing() -> None:
    table = popularity_of(SOME, at_ms=AT_MS).of_items(np.array([9, 5, 5], np.uint32))
    for item in SOME:
        for store in ("7", "8", "x"):
            found = found_of(table, LEVELS, np.array([item], np.uint32), {"store": store}, AT_MS)
            assert_statistics(found, [slow(SOME if item in (5, 9) else {}, item, store, 0)])


def test_renamed_items_keep_their_statistics() -> None:
    ages_s: Ages = {1: {"7": [5]}, 2: {"8": [60, 7]}, 3: {"7": [1], "8": [9]}}
    ids = np.array([0, 900, 2**32 - 1, 4], np.uint32)  # neither rising nor near
    table = popularity_of(ages_s, at_ms=AT_MS).renamed(ids)
    for item, store in [(i, s) for i in ages_s for s in ("7", "8")]:
        found = found_of(table, LEVELS, ids[[item]], {"store": store}, AT_MS)
        assert_statistics(found, [slow(ages_s, item, store, 0)])
    assert all((np.diff(level.keys) > 0).all() for level in table.levels.values())


@given(everyones)
def test_a_table_comes_back_from_its_bytes(ages_s: Ages) -> None:
    table = popularity_of(ages_s, at_ms=AT_MS)
    again = decode_popularity(encode_popularity(table))
    assert (again.at_ms, list(again.levels)) == (table.at_ms, list(table.levels))
    for name, level in table.levels.items():
        for column in ("keys", "count", "age_s", "oldest_s", "fading"):
            array = getattr(again.levels[name], column)
            assert array.dtype == getattr(level, column).dtype
            np.testing.assert_array_equal(array, getattr(level, column))
        assert again.levels[name].values == level.values
    assert encode_popularity(again) == encode_popularity(table)  # the same table has the same digest


def test_the_bytes_are_plain_arrays_that_anybody_can_read() -> None:
    blob = encode_popularity(popularity_of(SOME, at_ms=AT_MS))
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        assert arrays["at_ms"].tolist() == [AT_MS] and arrays["levels"].tolist() == ["item_id", "store"]
        assert arrays["half_lives_days"].tolist() == [4.0, 14.0, 56.0]
        assert arrays["0.keys"].tolist() == [5, 9, 2**32 - 1]
        assert arrays["0.count"].tolist() == [3, 1, 1] and arrays["0.age_s"].tolist() == [40, 7, 1]
        assert arrays["0.oldest_s"].tolist() == [90_000, 7, 1]
        assert arrays["1.values"].tolist() == ["7", "8", "x"]
        assert arrays["1.keys"].tolist() == [5, 1 << 32 | 5, 1 << 32 | 9, 2 << 32 | (2**32 - 1)]


@given(st.data())
def test_bytes_that_were_cut_or_made_up_are_refused(data: st.DataObject) -> None:
    blob = encode_popularity(popularity_of(SOME, at_ms=AT_MS))
    cut = blob[: data.draw(st.integers(0, len(blob) - 1))]
    for wrong in (cut, data.draw(st.binary(max_size=60))):
        with pytest.raises(BlobError, match="popularity table does not decode"):
            decode_popularity(wrong)


def changed(**arrays: np.ndarray | None) -> bytes:
    """Return the bytes of a table some of whose arrays are others, or are not there."""
    with np.load(io.BytesIO(encode_popularity(popularity_of(SOME, at_ms=AT_MS)))) as found:
        content = dict(found) | {name.replace("_of_", "."): array for name, array in arrays.items()}
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in content.items() if array is not None})
    return file.getvalue()


def test_what_is_no_table_is_refused() -> None:
    for arrays in ({"at_ms": None}, {"at_ms": np.zeros(0)}, {"levels": np.array(["a", "b", "c"])}):
        with pytest.raises(BlobError, match="does not decode"):
            decode_popularity(changed(**arrays))


def test_a_table_of_another_format_is_refused() -> None:
    for other in (None, np.array([1])):
        with pytest.raises(BlobError, match="of another format; publish again"):
            decode_popularity(changed(format=other))


def test_the_pairs_of_one_context_lie_next_to_each_other() -> None:
    items = np.array([3, 2**32 - 1, 1], np.uint32)
    assert pair_keys(items, 0).tolist() == items.tolist()
    assert pair_keys(items, 1).min() > pair_keys(items, 0).max()
    assert pair_keys(items, np.array([2, 0, 1])).tolist() == [2 << 32 | 3, 2**32 - 1, 1 << 32 | 1]


def test_counts_of_other_half_lives_are_refused() -> None:
    with pytest.raises(BlobError, match="other half-lives"):
        decode_popularity(changed(half_lives_days=np.array([7.0, 14.0, 56.0])))


def test_pickles_are_refused() -> None:
    with pytest.raises(BlobError, match="does not decode"):
        decode_popularity(changed(at_ms=np.array([{"a": 1}], object)))


def test_the_cut_is_the_last_midnight_of_utc() -> None:
    day_ms = 86_400_000
    at_ms = np.array([0, 1, day_ms - 1, day_ms, 20 * day_ms + 5, -1])
    assert cut_before_ms(at_ms).tolist() == [0, 0, 0, day_ms, 20 * day_ms, -day_ms]
