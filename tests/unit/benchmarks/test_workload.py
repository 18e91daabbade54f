from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.workload import (
    LONG_CLUSTERS_COUNT,
    LONG_USERS_MIN,
    USERS_COUNT,
    User,
    body_of,
    draw_long,
    draw_real,
    joined,
)
from service.contract.history import Behaviors, Snapshot, decode_snapshot, encode_snapshot


def snapshot_of(first_item, clusters_count):
    """Return a life cycle whose items are numbered from `first_item` on, one newest behavior of item 9."""
    item = np.arange(first_item, first_item + clusters_count, dtype=np.uint32)
    tail = Behaviors(np.array([900]), np.array([9], np.uint32), np.array([7], np.uint16))
    return Snapshot(1000, item, item + 1, item + 2, (item + 3).astype(np.uint16), tail)


def user_of(name, clusters_count):
    return User(name, encode_snapshot(snapshot_of(1, clusters_count)), name.encode())


def test_a_body_leaves_out_what_is_not_there():
    candidates = [{"item_id": "1", "shelf": "A", "page": None}, {"item_id": "2", "shelf": None, "page": None}]

    body = body_of("u", 5, {"store": "7", "weather": None}, candidates, bare=False)

    assert json.loads(body) == {
        "user_id": "u",
        "at_ms": 5,
        "context": {"store": "7"},
        "candidates": [{"item_id": "1", "context": {"shelf": "A"}}, "2"],
    }


def test_bare_candidates_are_ids_alone():
    body = body_of("u", 5, {}, [{"item_id": "1", "shelf": "A"}], bare=True)

    assert json.loads(body)["candidates"] == ["1"]


def test_life_cycles_are_joined_cluster_by_cluster_and_cut():
    one = joined([snapshot_of(1, 3), snapshot_of(50, 4)], 5)

    assert one.item.tolist() == [1, 2, 3, 50, 51]
    assert one.size.tolist() == [2, 3, 4, 51, 52]
    assert one.mean_age_s.tolist() == [3, 4, 5, 52, 53]
    assert one.strength.tolist() == [4, 5, 6, 53, 54]
    assert one.at_ms == 1000
    assert one.tail.item.tolist() == [9]


def test_users_with_long_life_cycles_are_real_where_there_are_enough():
    long = [user_of(f"l{i}", LONG_CLUSTERS_COUNT + i % 3) for i in range(LONG_USERS_MIN)]
    short = [user_of(f"s{i}", 10) for i in range(100)]

    users, kind = draw_long([*short, *long], np.random.default_rng(0))

    assert (users, kind) == (long, "real")


def test_users_with_long_life_cycles_are_made_of_real_ones_where_there_are_too_few():
    real = [user_of(f"u{i}", 30 + i) for i in range(10)]

    users, kind = draw_long(real, np.random.default_rng(0))

    assert kind != "real"
    assert len({user.user_id for user in users}) == len(users) == USERS_COUNT
    assert {user.clusters_count for user in users} == {LONG_CLUSTERS_COUNT}
    assert not {user.user_id for user in users} & {user.user_id for user in real}
    items = {int(item) for user in users for item in decode_snapshot(user.snapshot).item}
    assert items <= set(range(1, 40))


@pytest.mark.parametrize("users_count", [3, USERS_COUNT + 10])
def test_real_users_are_drawn_without_repetition(users_count):
    users = draw_real([user_of(f"u{i}", 1) for i in range(users_count)], np.random.default_rng(0))

    assert len({user.user_id for user in users}) == len(users) == min(users_count, USERS_COUNT)
