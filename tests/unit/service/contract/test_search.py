"""What searches keep, against walking sorted lists by hand; and when the graph that ranks is asked at all."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.manifest import Searches, SearchSpec
from service.contract.search import SORTED_AT_ONCE, Ranks, kept_input, kept_of, ranks_output, with_kept
from service.contract.served_inputs import (
    BEHAVIOR_ITEM,
    CLUSTER_ITEM,
    ITEM_SHARED,
    USER_IDS,
    Feeds,
)


def walk(lists: Sequence[Sequence[float]], keep: int, *, newest_first: bool) -> set[int]:
    """Return the first `keep` distinct positions met when the lists, each sorted, are read in turn."""
    places = range(len(lists[0]))
    ranked = [
        sorted(places, key=lambda i, own=own: (-Fraction(own[i]), -i if newest_first else i))  # type: ignore[misc]
        for own in lists
    ]
    met: dict[int, None] = {}
    for rank in places:
        for places_of_head in ranked:
            if len(met) < keep:
                met[places_of_head[rank]] = None
    return set(met)


def check(ranks: Ranks, keep: int, *, newest_first: bool) -> None:
    kept = kept_of(ranks, keep, newest_first=newest_first)
    assert kept.shape == ranks.shape[1:] and kept.dtype == np.bool_
    for row, found in enumerate(kept):
        expected = walk(ranks[:, row].tolist(), keep, newest_first=newest_first)
        assert set(np.flatnonzero(found).tolist()) == expected


RANKS = st.one_of(
    st.integers(-2, 2),  # few values: many ties
    st.integers(-(2**24), 2**24),  # whole numbers that float32 holds
    st.sampled_from([-1024e9, 2.0**31, -(2.0**31), 2.0**40]),  # more than a key of 32 bits holds
)


@given(data=st.data(), newest_first=st.booleans())
def test_kept_are_the_first_distinct_of_the_lists_read_in_turn(
    data: st.DataObject, newest_first: bool
) -> None:
    heads, rows, length = (data.draw(st.integers(1, most)) for most in (4, 3, 9))
    keep = data.draw(st.integers(1, 11), label="keep")
    size = heads * rows * length
    values = data.draw(st.lists(RANKS, min_size=size, max_size=size), label="ranks")
    check(
        np.array(values, np.float32).reshape(heads, rows, length),
        keep,
        newest_first=newest_first,
    )


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("spread", [1, 50, 2**20, 2**45])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(
    ("length", "keep"),
    [
        (100, 100),
        (101, 100),
        (SORTED_AT_ONCE, 100),
        (SORTED_AT_ONCE + 1, 100),
        (3 * SORTED_AT_ONCE - 7, 100),
        (2 * SORTED_AT_ONCE, SORTED_AT_ONCE),
        (2 * SORTED_AT_ONCE + 9, SORTED_AT_ONCE - 1),
    ],
)
def test_long_histories_are_searched_whole(
    length: int, keep: int, heads: int, spread: int, newest_first: bool
) -> None:
    """In blocks of what is sorted at once, in keys of 32 and of 64 bits."""
    rng = np.random.default_rng(length)
    check(
        rng.integers(-spread, spread, (heads, 3, length)).astype(np.float64), keep, newest_first=newest_first
    )


@pytest.mark.parametrize("newest_first", [False, True])
def test_of_equals_the_first_or_the_last_positions_are_kept(newest_first: bool) -> None:
    kept = kept_of(np.zeros((4, 2, 700), np.float32), 100, newest_first=newest_first)
    assert np.flatnonzero(kept[0]).tolist() == list(range(600, 700) if newest_first else range(100))
    assert (kept[1] == kept[0]).all()


@pytest.mark.parametrize("rank", [np.nan, np.inf, -np.inf])
def test_ranks_that_are_no_numbers_leave_some_choice(rank: float) -> None:
    """Such a request fails where its probability is no number, and not here."""
    ranks = np.arange(1200.0).reshape(2, 3, 200).astype(np.float32)
    ranks[0, 0, ::2] = rank
    kept = kept_of(ranks, 7, newest_first=False)
    assert (kept.sum(1) == 7).all()
    check(ranks[:, 1:], 7, newest_first=False)


SEARCHES = Searches(
    each=(
        SearchSpec(interest="twin", part="behaviors", keep=4, newest_first=False),
        SearchSpec(interest="eta", part="clusters", keep=2, newest_first=True),
    ),
    graph_inputs=(ITEM_SHARED, BEHAVIOR_ITEM, CLUSTER_ITEM),
)


def feeds(*, behaviors: int, clusters: int) -> Feeds:
    return {
        ITEM_SHARED: np.ones((3, 2), np.float32),
        USER_IDS: np.zeros((1, 1), np.int64),
        BEHAVIOR_ITEM: np.arange(behaviors, dtype=np.float32)[:, None],
        CLUSTER_ITEM: np.arange(clusters, dtype=np.float32)[:, None],
    }


def ranks_of(outputs: Sequence[str], given: Feeds) -> list[Ranks]:
    """Rank behaviors and clusters by their only column, for each of three candidates."""
    assert list(outputs) == [ranks_output("twin"), ranks_output("eta")]
    assert set(given) == set(SEARCHES.graph_inputs)
    parts = [given[BEHAVIOR_ITEM], given[CLUSTER_ITEM]]
    return [np.broadcast_to(part[:, 0].astype(np.float32), (1, 3, len(part))) for part in parts]


def test_what_searches_keep_is_added_to_what_a_request_is() -> None:
    given = feeds(behaviors=6, clusters=1)
    found = with_kept(given, SEARCHES, ranks_of)
    assert set(found) == {*given, kept_input("twin"), kept_input("eta")}
    assert all(found[name] is given[name] for name in given)
    assert found[kept_input("twin")].tolist() == [[False, False, True, True, True, True]] * 3
    assert found[kept_input("eta")].tolist() == [[True]] * 3


def test_nothing_is_ranked_where_no_history_is_longer_than_what_is_kept() -> None:
    def refuse(outputs: Sequence[str], given: Feeds) -> list[Ranks]:
        raise AssertionError("ranked in vain")

    found = with_kept(feeds(behaviors=4, clusters=2), SEARCHES, refuse)
    assert found[kept_input("twin")].tolist() == [[True] * 4] * 3
    assert found[kept_input("eta")].tolist() == [[True] * 2] * 3
    with pytest.raises(AssertionError, match="in vain"):
        with_kept(feeds(behaviors=4, clusters=3), SEARCHES, refuse)
