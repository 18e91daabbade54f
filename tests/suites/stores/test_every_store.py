"""What every store must do. A store is tested because its file exists."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from service.contract.history import Behaviors, decode_behaviors, encode_behaviors
from service.stores import open_store, schemes
from service.stores.base import AppendResult, Store, StoreSettings, UserRecord
from service.stores.redis import READ_KEYS_MAX, RedisStore
from tests.support.eventually import eventually
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio

# A loaded machine may take longer than a request would wait: these tests ask what is answered, not when.
PATIENT = StoreSettings(timeout_ms=20_000, bulk_users_count=7)
CACHED = PATIENT.model_copy(update={"cache_max_bytes": 1 << 20})


@pytest.fixture(params=[*schemes(), *(f"{name}, cached" for name in schemes() if name != "memory")])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, valkey_tcp: ValkeyTcp
) -> AsyncIterator[Store]:
    scheme, _, cached = request.param.partition(", ")
    if scheme == "redis":
        valkey_tcp.client().flushall()
    urls = {"embedded": f"embedded://{tmp_path}/store", "redis": valkey_tcp.url, "memory": "memory://"}
    opened = await open_store(urls[scheme], CACHED if cached else PATIENT)
    if cached:
        assert isinstance(opened, RedisStore)
        await eventually(lambda: opened._cache.is_open)
    yield opened
    await opened.close()


def behavior(at_ms: int, event: int | None = None, item: int = 1) -> bytes:
    """Return a packed behavior; its event is its time unless told."""
    one = Behaviors(np.array([at_ms]), np.array([item], np.uint32), np.array([512], np.uint16))
    return encode_behaviors(one, np.array([at_ms if event is None else event], np.uint64))


async def times_of(store: Store, user_id: str) -> list[int]:
    """Return the times of a user's recent list, in its order."""
    record = await store.read_user(user_id, None)
    times: list[int] = decode_behaviors(record.recent).at_ms.tolist()
    return times


async def append(store: Store, *records: bytes, cap: int = 100, keep_from_ms: int = 0) -> AppendResult:
    return await store.append_behaviors("ann", b"".join(records), cap=cap, keep_from_ms=keep_from_ms)


async def test_a_user_nobody_wrote_is_empty(store: Store) -> None:
    assert await store.read_user("nobody", "s1") == UserRecord(None, None, b"")
    assert await store.read_user("nobody", None) == UserRecord(None, None, b"")


async def test_what_was_written_under_a_snapshot_is_read_under_it_and_no_other(store: Store) -> None:
    assert await store.write_snapshot("s1", [("ann", b"clusters", b"features"), ("bob", b"b", None)]) == 2
    assert await store.read_user("ann", "s1") == UserRecord(b"clusters", b"features", b"")
    assert await store.read_user("bob", "s1") == UserRecord(b"b", None, b"")
    assert await store.read_user("ann", "s2") == UserRecord(None, None, b"")
    assert await store.read_user("ann", None) == UserRecord(None, None, b"")


async def test_writing_a_snapshot_again_after_a_crash_is_harmless(store: Store) -> None:
    await store.write_snapshot("s1", [("ann", b"half", b"half")])
    assert await store.write_snapshot("s1", [("ann", b"whole", b"whole"), ("bob", b"b", b"b")]) == 2
    assert await store.read_user("ann", "s1") == UserRecord(b"whole", b"whole", b"")
    assert await store.delete_snapshot("s1") == 2


async def test_a_snapshot_of_many_batches_is_whole_and_streams(store: Store) -> None:
    users = (f"user-{i}" for i in range(50))
    assert await store.write_snapshot("s1", ((user, user.encode(), b"f") for user in users)) == 50
    for i in range(50):
        assert (await store.read_user(f"user-{i}", "s1")).snapshot == f"user-{i}".encode()


@pytest.mark.parametrize("snapshot_id", ["s1", None])
async def test_many_users_are_read_at_once_each_as_if_alone(store: Store, snapshot_id: str | None) -> None:
    users = [f"user-{i}" for i in range(READ_KEYS_MAX + 5)]
    await store.write_snapshot("s1", ((user, user.encode(), None) for user in users[::2]))
    await append(store, behavior(1000))
    asked = [*users, "nobody", "ann", "ann"]
    random.Random(2).shuffle(asked)
    alone = [await store.read_user(user, snapshot_id) for user in asked[::3]]
    assert await store.read_users(asked, snapshot_id) == [
        await store.read_user(user, snapshot_id) for user in asked
    ]
    assert (await store.read_users(asked, snapshot_id))[::3] == alone
    assert await store.read_users(["ann"], None) == [UserRecord(None, None, behavior(1000))]
    assert await store.read_users([], snapshot_id) == []


async def test_a_user_that_is_held_is_as_it_is_read(store: Store) -> None:
    await store.write_snapshot("s1", [("ann", b"clusters", b"features")])
    await append(store, behavior(1000))
    record = await store.read_user("ann", "s1")
    assert store.held_user("ann", "s1") in (None, record)
    assert store.held_user("nobody", "s1") is None


async def test_deleting_a_snapshot_leaves_other_snapshots_and_recent_behaviors(store: Store) -> None:
    many = [(f"user-{i}", b"old", b"old") for i in range(30)]
    await store.write_snapshot("old", [*many, ("ann", b"old", b"old")])
    await store.write_snapshot("new", [("ann", b"new", b"new")])
    await append(store, behavior(1000))
    assert await store.delete_snapshot("old") == 31
    assert await store.read_user("ann", "old") == UserRecord(None, None, behavior(1000))
    assert await store.read_user("ann", "new") == UserRecord(b"new", b"new", behavior(1000))
    assert await store.read_user("user-7", "old") == UserRecord(None, None, b"")
    assert await store.delete_snapshot("old") == 0


async def test_an_empty_snapshot_is_written_and_deleted(store: Store) -> None:
    assert await store.write_snapshot("s1", []) == 0
    assert await store.delete_snapshot("s1") == 0


async def test_an_appended_behavior_is_in_the_next_read(store: Store) -> None:
    assert await append(store, behavior(1000, item=7)) == AppendResult(1, 0, 0)
    assert (await store.read_user("ann", None)).recent == behavior(1000, item=7)
    assert (await store.read_user("bob", None)).recent == b""


async def test_appending_nothing_changes_nothing(store: Store) -> None:
    assert await append(store) == AppendResult(0, 0, 0)
    assert (await store.read_user("ann", None)).recent == b""


async def test_an_event_sent_again_changes_nothing(store: Store) -> None:
    await append(store, behavior(1000, event=5, item=7))
    assert await append(store, behavior(2000, event=5, item=8)) == AppendResult(0, 1, 0)
    assert (await store.read_user("ann", None)).recent == behavior(1000, event=5, item=7)


async def test_an_event_twice_in_one_call_is_kept_once(store: Store) -> None:
    assert await append(store, behavior(1, event=5), behavior(2, event=5)) == AppendResult(1, 1, 0)
    assert await times_of(store, "ann") == [1]


async def test_events_are_told_apart_by_all_their_64_bits(store: Store) -> None:
    events = [0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1]
    await append(store, *(behavior(i, event=event) for i, event in enumerate(events)))
    assert await times_of(store, "ann") == [0, 1, 2, 3, 4, 5]


async def test_the_list_is_kept_sorted_by_time_and_equal_times_in_order_of_arrival(store: Store) -> None:
    await append(store, behavior(3000), behavior(1000))
    await append(store, behavior(2000, event=1, item=1))
    await append(store, behavior(2000, event=2, item=2))
    record = await store.read_user("ann", None)
    assert decode_behaviors(record.recent).at_ms.tolist() == [1000, 2000, 2000, 3000]
    assert decode_behaviors(record.recent).item.tolist() == [1, 1, 2, 1]


async def test_times_beyond_32_bits_and_before_1970_keep_their_order(store: Store) -> None:
    times = [1_800_000_000_000, -5, 4_102_444_800_123, 0]
    await append(store, *(behavior(at_ms, event=i) for i, at_ms in enumerate(times)))
    assert await times_of(store, "ann") == sorted(times)


async def test_the_cap_keeps_the_newest_and_counts_what_fell_off(store: Store) -> None:
    assert await append(store, *map(behavior, (1, 2, 3, 4)), cap=3) == AppendResult(4, 0, 1)
    assert await append(store, behavior(5), behavior(6), cap=3) == AppendResult(2, 0, 2)
    assert await times_of(store, "ann") == [4, 5, 6]


async def test_a_late_behavior_that_finds_no_room_is_counted_as_dropped(store: Store) -> None:
    await append(store, *map(behavior, (10, 20, 30)), cap=3)
    assert await append(store, behavior(5), cap=3) == AppendResult(1, 0, 1)
    assert await times_of(store, "ann") == [10, 20, 30]


async def test_what_the_snapshot_covers_goes_first_and_is_not_counted(store: Store) -> None:
    await append(store, *map(behavior, (1, 2, 3)), cap=3)
    assert await append(store, behavior(4), behavior(5), cap=3, keep_from_ms=3) == AppendResult(2, 0, 0)
    assert await append(store, behavior(6), cap=3, keep_from_ms=3) == AppendResult(1, 0, 1)
    assert await times_of(store, "ann") == [4, 5, 6]


async def test_appends_at_once_lose_nothing(store: Store) -> None:
    await asyncio.gather(*(append(store, behavior(at_ms)) for at_ms in range(60)))
    assert await times_of(store, "ann") == list(range(60))


async def test_random_appends_end_as_a_plain_list_would(store: Store) -> None:
    rng = random.Random(7)
    plain: list[tuple[int, int]] = []  # (at_ms, event), in order of arrival
    dropped_count = counted = 0
    for _ in range(40):
        new = [(rng.randrange(50), rng.randrange(60)) for _ in range(rng.randrange(4))]
        result = await append(store, *(behavior(at_ms, event=event) for at_ms, event in new), cap=10)
        counted += result.dropped_count
        for at_ms, event in new:
            if event not in {known for _, known in plain}:
                plain.append((at_ms, event))
        plain.sort(key=lambda pair: pair[0])
        dropped_count += max(0, len(plain) - 10)
        plain = plain[-10:]
    assert await times_of(store, "ann") == [at_ms for at_ms, _ in plain]
    assert counted == dropped_count > 0


@pytest.mark.parametrize("user_id", ["a b", "{x}", "a:b", "ü", "%7Bx%7D", "*", "a\nb", "0", "-1", "x" * 256])
async def test_any_user_id_has_a_place_of_its_own(store: Store, user_id: str) -> None:
    await store.write_snapshot("s1", [(user_id, b"mine", b"mine"), ("x", b"other", b"other")])
    await store.append_behaviors(user_id, behavior(1), cap=5, keep_from_ms=0)
    assert await store.read_user(user_id, "s1") == UserRecord(b"mine", b"mine", behavior(1))
    assert await store.read_user("x", "s1") == UserRecord(b"other", b"other", b"")
    assert await store.delete_snapshot("s1") == 2
    assert (await store.read_user(user_id, "s1")).snapshot is None


async def test_blobs_come_back_byte_for_byte(store: Store) -> None:
    blob = bytes(range(256)) * 400
    await store.write_snapshot("s1", [("ann", blob, b"")])
    assert await store.read_user("ann", "s1") == UserRecord(blob, b"", b"")


async def test_a_store_answers_a_ping_and_can_be_closed_twice(store: Store) -> None:
    await store.ping()
    await store.close()
