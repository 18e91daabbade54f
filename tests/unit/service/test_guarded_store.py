"""The store behind its breaker: what is held in this process needs no server and proves none."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.breaker import Breaker
from service.clock import SystemClock
from service.contract.history import BEHAVIOR_DTYPE
from service.guarded_store import GuardedStore
from service.stores.base import CacheWatch, StoreSettings, StoreUnavailable, UserRecord
from service.stores.redis import RedisStore
from tests.support.eventually import eventually
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio

RECORD = bytes(BEHAVIOR_DTYPE.itemsize)


@asynccontextmanager
async def guarded(
    url: str, watch: CacheWatch | None = None, **settings: int
) -> AsyncIterator[tuple[GuardedStore, Breaker, list[str]]]:
    """Open a store whose breaker opens at the second failure, for an hour; also return it and the failures."""
    errors: list[str] = []
    breaker = Breaker(SystemClock(), failures_count=2, open_min_ms=3_600_000, open_max_ms=3_600_000)
    store = GuardedStore(
        url, StoreSettings(**{"timeout_ms": 20_000, **settings}), breaker, errors.append, watch
    )
    await store.open()
    try:
        yield store, breaker, errors
    finally:
        await store.close()


async def test_many_users_are_read_through_it(own_valkey_tcp: ValkeyTcp) -> None:
    async with guarded(own_valkey_tcp.url) as (store, _, errors):
        await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        nobody, ann = UserRecord(None, None, b""), UserRecord(None, None, RECORD)
        assert await store.read_users(["bob", "ann", "eve"], "s1") == [nobody, ann, nobody]
        assert await store.read_users([], "s1") == []
        assert errors == []


async def test_a_store_that_is_missing_or_was_left_alone_has_no_users(own_valkey_tcp: ValkeyTcp) -> None:
    async with guarded(own_valkey_tcp.url) as (store, breaker, errors):
        breaker.failed()
        breaker.failed()
        with pytest.raises(StoreUnavailable):
            await store.read_users(["ann", "bob"], None)
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.read_users(["ann", "bob"], None)
        assert errors == ["breaker_open", "missing"]


async def test_users_that_are_held_are_served_while_the_store_hangs_and_the_breaker_stays_open(
    own_valkey_tcp: ValkeyTcp,
) -> None:
    async with guarded(own_valkey_tcp.url, cache_max_bytes=1 << 20) as (store, breaker, errors):
        redis_store = store._store
        assert isinstance(redis_store, RedisStore)
        await eventually(lambda: redis_store._cache.is_open)
        await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        held = UserRecord(None, None, RECORD)
        await eventually(lambda: redis_store.held_user("ann", None) is None)
        assert await store.read_user("ann", None) == held
        redis_store._settings = StoreSettings(timeout_ms=30, cache_max_bytes=1 << 20)
        own_valkey_tcp.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(4):
                with pytest.raises(StoreUnavailable):
                    await store.read_user("bob", None)
                assert await store.read_user("ann", None) == held
                assert await store.read_users(["ann", "ann"], None) == [held, held]
                with pytest.raises(StoreUnavailable):
                    await store.read_users(["ann", "bob"], None)
            assert breaker.is_open
            assert errors == ["timeout", "timeout", *["breaker_open"] * 6]
        finally:
            own_valkey_tcp.process.send_signal(signal.SIGCONT)


async def test_users_that_are_held_and_users_that_are_not_come_in_the_order_they_were_asked(
    own_valkey_tcp: ValkeyTcp,
) -> None:
    async with guarded(own_valkey_tcp.url, cache_max_bytes=1 << 20) as (store, _, _errors):
        redis_store = store._store
        assert isinstance(redis_store, RedisStore)
        await eventually(lambda: redis_store._cache.is_open)
        users = [f"user-{i}" for i in range(6)]
        await redis_store.write_snapshot("s1", [(user, user.encode(), None) for user in users])
        await store.read_users(users[::2], "s1")
        found = await store.read_users(users, "s1")
        assert [record.snapshot for record in found] == [user.encode() for user in users]
