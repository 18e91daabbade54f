"""A store with a cache and a real server: what others write is seen once the server told of it."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from service.contract.history import BEHAVIOR_DTYPE
from service.contract.store_keys import features_key, recent_key, snapshot_key
from service.stores import invalidations, open_store, valkey_server
from service.stores.base import StoreSettings, StoreTimeout, UserRecord
from service.stores.cache import FLUSHED, LOST, WRITTEN
from service.stores.redis import RedisStore
from tests.support.cache_log import CacheLog
from tests.support.eventually import eventually
from tests.support.holding_proxy import holding_proxy
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio

RECORD = bytes(BEHAVIOR_DTYPE.itemsize)
OTHER_RECORD = RECORD[:8] + b"another!" + RECORD[16:]
NOBODY = UserRecord(None, None, b"")
NEVER_S = 3600.0


@asynccontextmanager
async def unconfirmed(url: str, **settings: int) -> AsyncIterator[tuple[RedisStore, CacheLog]]:
    """Open a store with a cache, and a log of what its cache does."""
    log = CacheLog()
    chosen = StoreSettings(**{"timeout_ms": 20_000, "cache_max_bytes": 1 << 20, **settings})
    store = await open_store(url, chosen, log)
    assert isinstance(store, RedisStore)
    try:
        yield store, log
    finally:
        await store.close()


@asynccontextmanager
async def cached(url: str, **settings: int) -> AsyncIterator[tuple[RedisStore, CacheLog]]:
    """The same when the cache is open."""
    async with unconfirmed(url, **settings) as (store, log):
        await eventually(lambda: store._cache.is_open)
        yield store, log


def set_snapshot(server: ValkeyTcp, user_id: str, blob: bytes) -> None:
    """Write as another process does."""
    with server.client() as other:
        other.set(snapshot_key(user_id, "s1"), blob)


def kill_listener(server: ValkeyTcp) -> None:
    with server.client() as other:
        assert other.client_kill_filter(_type="pubsub") == 1


async def snapshot_of(store: RedisStore, user_id: str) -> bytes | None:
    return (await store.read_user(user_id, "s1")).snapshot


async def test_a_second_read_asks_nobody(own_valkey_tcp: ValkeyTcp) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"x")
    async with cached(own_valkey_tcp.url) as (store, log):
        assert store.held_user("ann", "s1") is None
        first = await store.read_user("ann", "s1")
        own_valkey_tcp.process.send_signal(signal.SIGSTOP)
        try:
            assert await store.read_user("ann", "s1") == first == UserRecord(b"x", None, b"")
            assert store.held_user("ann", "s1") == first
            assert store.held_user("ann", None) == NOBODY
        finally:
            own_valkey_tcp.process.send_signal(signal.SIGCONT)
        assert (log.hits_count, log.misses_count) == (3 + 3 + 1, 3)


async def test_what_another_client_writes_is_seen_after_the_server_told_of_it(
    own_valkey_tcp: ValkeyTcp,
) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"old")
    async with cached(own_valkey_tcp.url) as (store, log):
        assert await snapshot_of(store, "ann") == b"old"
        assert await snapshot_of(store, "bob") is None
        set_snapshot(own_valkey_tcp, "ann", b"new")
        set_snapshot(own_valkey_tcp, "bob", b"first")
        await eventually(lambda: log.invalidated_count == 2)
        assert await snapshot_of(store, "ann") == b"new"
        assert await snapshot_of(store, "bob") == b"first"


async def test_the_embedded_store_is_told_too(tmp_path: Path) -> None:
    async with cached(f"embedded://{tmp_path}") as (store, log):
        assert await store.read_user("ann", "s1") == NOBODY
        path = str(valkey_server.socket_path(tmp_path))
        with redis.Redis(unix_socket_path=path, protocol=2) as other:
            other.set(features_key("ann", "s1"), b"features")
        await eventually(lambda: log.invalidated_count == 1)
        assert await store.read_user("ann", "s1") == UserRecord(None, b"features", b"")


async def test_a_user_that_may_do_no_more_than_is_needed_is_told_too(own_valkey_tcp: ValkeyTcp) -> None:
    needed = ["+mget", "+client|id", "+client|tracking", "+subscribe", "+ping"]
    with own_valkey_tcp.client() as other:
        other.acl_setuser(
            "reader",
            enabled=True,
            passwords=["+secret"],
            keys=["twinstar:*"],
            channels=["__redis__:invalidate"],
            commands=needed,
        )
    url = f"redis://reader:secret@127.0.0.1:{own_valkey_tcp.port}/0"
    async with cached(url) as (store, log):
        assert await snapshot_of(store, "ann") is None
        set_snapshot(own_valkey_tcp, "ann", b"new")
        await eventually(lambda: log.invalidated_count == 1)
        assert await snapshot_of(store, "ann") == b"new"


async def test_a_server_that_will_not_tell_is_asked_each_time_and_it_is_logged_once(
    own_valkey_tcp: ValkeyTcp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(invalidations, "RETRY_INTERVAL_S", 0.001)
    with own_valkey_tcp.client() as other:
        other.acl_setuser(
            "reader", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-client|tracking"]
        )
    caplog.set_level(logging.INFO)
    async with unconfirmed(f"redis://reader:any@127.0.0.1:{own_valkey_tcp.port}/0") as (store, log):
        with own_valkey_tcp.client() as other:
            await eventually(lambda: len(other.acl_log()) and other.acl_log()[0]["count"] > 3)
        set_snapshot(own_valkey_tcp, "ann", b"old")
        assert await snapshot_of(store, "ann") == b"old"
        set_snapshot(own_valkey_tcp, "ann", b"new")
        assert await snapshot_of(store, "ann") == b"new"
        assert not store._cache.is_open
        assert (log.hits_count, log.held_bytes, log.resets) == (0, 0, [])
        told = [record.getMessage() for record in caplog.records if "cache" in record.getMessage()]
        assert len(told) == 1 and "not in use" in told[0]
        with own_valkey_tcp.client() as other:
            other.acl_setuser(
                "reader", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all"]
            )
        await eventually(lambda: store._cache.is_open)
        assert "in use again" in caplog.records[-1].getMessage()


async def test_while_nobody_tells_the_cache_is_empty_and_not_used(
    own_valkey_tcp: ValkeyTcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "RETRY_INTERVAL_S", NEVER_S)
    set_snapshot(own_valkey_tcp, "ann", b"old")
    async with cached(own_valkey_tcp.url) as (store, log):
        assert await snapshot_of(store, "ann") == b"old"
        kill_listener(own_valkey_tcp)
        await eventually(lambda: not store._cache.is_open)
        assert (log.held_bytes, log.resets) == (0, [LOST])
        assert store.held_user("ann", "s1") is None
        for blob in (b"new", b"newer"):
            set_snapshot(own_valkey_tcp, "ann", blob)
            assert await snapshot_of(store, "ann") == blob
        assert log.held_bytes == 0


async def test_after_a_lost_connection_it_is_used_again_and_told_again(own_valkey_tcp: ValkeyTcp) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"old")
    async with cached(own_valkey_tcp.url) as (store, log):
        assert await snapshot_of(store, "ann") == b"old"
        kill_listener(own_valkey_tcp)
        set_snapshot(own_valkey_tcp, "ann", b"missed")
        await eventually(lambda: log.resets == [LOST] and store._cache.is_open)
        assert await snapshot_of(store, "ann") == b"missed"
        set_snapshot(own_valkey_tcp, "ann", b"told")
        await eventually(lambda: log.invalidated_count == 1)
        assert await snapshot_of(store, "ann") == b"told"
        assert store.held_user("ann", "s1") == UserRecord(b"told", None, b"")


async def test_a_restarted_server_is_believed_from_then_on(own_valkey_tcp: ValkeyTcp) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"gone with the server")
    async with cached(own_valkey_tcp.url) as (store, log):
        assert await snapshot_of(store, "ann") == b"gone with the server"
        own_valkey_tcp.kill()
        await eventually(lambda: log.resets == [LOST])
        own_valkey_tcp.start()
        await eventually(lambda: store._cache.is_open)
        assert await snapshot_of(store, "ann") is None
        assert log.hits_count == 0


async def test_a_connection_that_is_silent_is_given_up(
    own_valkey_tcp: ValkeyTcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "BEAT_S", 0.05)
    async with cached(own_valkey_tcp.url) as (store, log):
        assert await snapshot_of(store, "ann") is None
        own_valkey_tcp.process.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: log.resets[:1] == [LOST])
            assert store.held_user("ann", "s1") is None
        finally:
            own_valkey_tcp.process.send_signal(signal.SIGCONT)
        await eventually(lambda: store._cache.is_open)


async def test_a_quiet_connection_that_answers_its_pings_is_kept(
    own_valkey_tcp: ValkeyTcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "BEAT_S", 0.2)
    async with cached(own_valkey_tcp.url) as (_, log):
        with own_valkey_tcp.client() as other:

            def pings_count() -> int:
                return int(other.info("commandstats")["cmdstat_ping"]["calls"])

            (listener,) = other.client_list(_type="pubsub")
            at_first = pings_count()
            await eventually(lambda: pings_count() >= at_first + 3)
            assert other.client_list(_type="pubsub")[0]["id"] == listener["id"]
        assert log.resets == []


async def test_a_flushed_server_empties_the_cache(own_valkey_tcp: ValkeyTcp) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"x")
    async with cached(own_valkey_tcp.url) as (store, log):
        assert await snapshot_of(store, "ann") == b"x"
        with own_valkey_tcp.client() as other:
            other.flushall()
        await eventually(lambda: log.resets == [FLUSHED])
        assert (log.held_bytes, await snapshot_of(store, "ann")) == (0, None)
        assert store._cache.is_open


async def test_a_read_that_a_write_overtakes_is_not_kept(own_valkey_tcp: ValkeyTcp) -> None:
    """The reply is under way with the old value while the server tells of the new one."""
    set_snapshot(own_valkey_tcp, "ann", b"old")
    async with (
        holding_proxy(own_valkey_tcp.port) as proxy,
        cached(f"redis://127.0.0.1:{proxy.port}/0") as (store, log),
    ):
        proxy.hold(b"MGET")
        reading = asyncio.create_task(store.read_user("ann", "s1"))
        await eventually(lambda: proxy.held_count == 1)
        set_snapshot(own_valkey_tcp, "ann", b"new")
        await eventually(lambda: log.invalidated_count == 1)
        proxy.release()
        assert (await reading).snapshot == b"old"
        assert log.held_bytes > 0  # what nobody wrote meanwhile: recents and features
        assert await snapshot_of(store, "ann") == b"new"
        assert log.hits_count == 2


async def test_a_read_across_a_lost_connection_is_not_kept(own_valkey_tcp: ValkeyTcp) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"old")
    async with (
        holding_proxy(own_valkey_tcp.port) as proxy,
        cached(f"redis://127.0.0.1:{proxy.port}/0") as (store, log),
    ):
        proxy.hold(b"MGET")
        reading = asyncio.create_task(store.read_user("ann", "s1"))
        await eventually(lambda: proxy.held_count == 1)
        kill_listener(own_valkey_tcp)
        await eventually(lambda: log.resets == [LOST])
        set_snapshot(own_valkey_tcp, "ann", b"new")
        await eventually(lambda: store._cache.is_open)
        proxy.release()
        assert (await reading).snapshot == b"old"
        assert log.held_bytes == 0
        assert await snapshot_of(store, "ann") == b"new"


async def test_behaviors_appended_through_this_store_are_in_its_next_read_and_cost_no_snapshot(
    own_valkey_tcp: ValkeyTcp,
) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"x")
    async with cached(own_valkey_tcp.url) as (store, log):
        await store.read_user("ann", "s1")
        for count, record in enumerate((RECORD, OTHER_RECORD), start=1):
            await store.append_behaviors("ann", record, cap=5, keep_from_ms=0)
            misses_count = log.misses_count
            assert len((await store.read_user("ann", "s1")).recent) == count * len(RECORD)
            assert log.misses_count == misses_count + 1
            await eventually(lambda count=count: log.invalidated_count == count)


async def test_behaviors_appended_through_this_store_are_seen_before_the_server_tells_of_them(
    own_valkey_tcp: ValkeyTcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "BEAT_S", NEVER_S)
    async with (
        holding_proxy(own_valkey_tcp.port) as proxy,
        cached(f"redis://127.0.0.1:{proxy.port}/0") as (store, log),
    ):
        assert await store.read_user("ann", None) == NOBODY
        proxy.hold(b"PING")  # the listener's last command
        await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        assert (await store.read_user("ann", None)).recent == RECORD
        assert (await store.read_users(["ann"], None))[0].recent == RECORD
        assert log.invalidated_count == 0


async def test_behaviors_whose_append_gave_no_answer_may_be_there(own_valkey_tcp: ValkeyTcp) -> None:
    async with cached(own_valkey_tcp.url) as (store, log):
        await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        await eventually(lambda: log.invalidated_count == 1)
        await store.read_user("ann", None)
        assert store.held_user("ann", None) == UserRecord(None, None, RECORD)
        store._settings = store._settings.model_copy(update={"timeout_ms": 50})
        own_valkey_tcp.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreTimeout):
                await store.append_behaviors("ann", OTHER_RECORD, cap=5, keep_from_ms=0)
            assert store.held_user("ann", None) is None
        finally:
            own_valkey_tcp.process.send_signal(signal.SIGCONT)


async def test_a_bulk_write_of_this_store_empties_its_cache(own_valkey_tcp: ValkeyTcp) -> None:
    async with cached(own_valkey_tcp.url) as (store, log):
        assert await store.read_user("ann", "s1") == NOBODY
        await store.write_snapshot("s1", [("ann", b"x", None)])
        assert log.resets == [WRITTEN]
        assert await snapshot_of(store, "ann") == b"x"


async def test_a_snapshot_that_others_write_in_bulk_costs_nobody_his_place(own_valkey_tcp: ValkeyTcp) -> None:
    set_snapshot(own_valkey_tcp, "ann", b"x")
    writer = await open_store(own_valkey_tcp.url, StoreSettings(timeout_ms=20_000))
    async with cached(own_valkey_tcp.url) as (store, log):
        record = await store.read_user("ann", "s1")
        await writer.write_snapshot("s2", ((f"user-{i}", b"x", b"y") for i in range(3000)))
        await writer.close()
        await eventually(lambda: log.invalidated_count >= 6000)
        assert log.resets == []
        assert store.held_user("ann", "s1") == record


async def test_what_is_held_after_many_reads_and_writes_at_once_is_what_the_server_has(
    own_valkey_tcp: ValkeyTcp,
) -> None:
    rng = random.Random(5)
    users = [f"user-{i}" for i in range(12)]
    # Each connection's commands are done in order, so its last write is told after all the others.
    async with (
        cached(own_valkey_tcp.url, connections_max=3, cache_max_bytes=20_000) as (store, log),
        cached(own_valkey_tcp.url, connections_max=1) as (writer, _),
    ):

        async def read(writing: asyncio.Task[None]) -> None:
            while not writing.done():
                await store.read_users(rng.sample(users, rng.randrange(1, 4)), rng.choice(["s1", None]))
                await asyncio.sleep(0)  # a read of what is held lets nobody else on
            await store.read_users(users, "s1")

        async def write() -> None:
            for i in range(300):
                key = rng.choice([snapshot_key, features_key])(rng.choice(users), "s1")
                await writer._ask(("SET", key, str(i).encode() * rng.randrange(100)), timeout_ms=20_000)
                if i % 10 == 0:
                    await store.append_behaviors(
                        rng.choice(users), i.to_bytes(22, "little"), cap=9, keep_from_ms=0
                    )

        writing = asyncio.create_task(write())
        await asyncio.gather(writing, *(read(writing) for _ in range(3)))
        assert log.hits_count > 0
        assert await store.read_user("the last", None) == NOBODY
        await writer._ask(("SET", recent_key("the last"), b"x"), timeout_ms=20_000)
        await eventually(lambda: store.held_user("the last", None) is None)
        hits_count = log.hits_count
        found = await store.read_users(users, "s1")
        assert log.hits_count > hits_count
        with own_valkey_tcp.client() as other:
            for user, record in zip(users, found, strict=True):
                recent, snapshot, features = other.mget(
                    recent_key(user), snapshot_key(user, "s1"), features_key(user, "s1")
                )
                assert record == UserRecord(snapshot, features, recent or b"")


async def test_requests_go_on_while_many_writes_are_told(
    own_valkey_tcp: ValkeyTcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word of a thousand writes comes in at once, and is heard some at a time."""
    monkeypatch.setattr(invalidations, "BEAT_S", NEVER_S)
    async with (
        holding_proxy(own_valkey_tcp.port) as proxy,
        cached(f"redis://127.0.0.1:{proxy.port}/0") as (_, log),
    ):
        proxy.hold(b"PING")
        with own_valkey_tcp.client() as other:
            for i in range(1000):
                other.set(recent_key(str(i)), RECORD)
        await eventually(lambda: proxy.held_count == 1)
        proxy.release()
        heard_before, most_in_a_row = 0, 0
        while heard_before < 1000:
            await asyncio.sleep(0)
            most_in_a_row = max(most_in_a_row, log.invalidated_count - heard_before)
            heard_before = log.invalidated_count
        assert 0 < most_in_a_row <= invalidations.MESSAGES_IN_A_ROW


async def test_a_closed_store_leaves_no_connection(own_valkey_tcp: ValkeyTcp) -> None:
    with own_valkey_tcp.client() as other:
        async with cached(own_valkey_tcp.url) as (store, _):
            await store.ping()
            assert len(other.client_list()) == 3
        await eventually(lambda: len(other.client_list()) == 1)
        assert not store._cache.is_open
        await store.close()


async def test_a_store_without_a_cache_is_told_nothing(own_valkey_tcp: ValkeyTcp) -> None:
    async with unconfirmed(own_valkey_tcp.url, cache_max_bytes=0) as (store, log):
        await store.read_user("ann", "s1")
        await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        await store.write_snapshot("s1", [("ann", b"x", None)])
        with own_valkey_tcp.client() as other:
            assert other.client_list(_type="pubsub") == []
        assert vars(log) == vars(CacheLog())
