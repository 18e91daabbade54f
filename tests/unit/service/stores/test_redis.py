"""The Redis store when its server is slow, frozen, killed or damaged."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from service.contract.history import BEHAVIOR_DTYPE
from service.contract.store_keys import recent_key
from service.stores import open_store
from service.stores.base import (
    AppendResult,
    Store,
    StoreSettings,
    StoreTimeout,
    StoreUnavailable,
    StoreUrlError,
)
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio

RECORD = bytes(BEHAVIOR_DTYPE.itemsize)


@asynccontextmanager
async def opened(server: ValkeyTcp, **settings: int) -> AsyncIterator[Store]:
    store = await open_store(server.url, StoreSettings(**{"timeout_ms": 20_000, **settings}))
    try:
        yield store
    finally:
        await store.close()


async def test_a_frozen_server_costs_the_timeout_and_is_served_by_again(own_valkey_tcp: ValkeyTcp) -> None:
    async with opened(own_valkey_tcp, timeout_ms=100) as store:
        await store.write_snapshot("s1", [("ann", b"x", None)])
        own_valkey_tcp.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreTimeout, match="100 ms"):
            await store.read_user("ann", "s1")
        own_valkey_tcp.process.send_signal(signal.SIGCONT)
    async with opened(own_valkey_tcp) as store:
        assert (await store.read_user("ann", "s1")).snapshot == b"x"


async def test_a_killed_server_is_unavailable_until_it_is_back(own_valkey_tcp: ValkeyTcp) -> None:
    async with opened(own_valkey_tcp) as store:
        await store.ping()
        own_valkey_tcp.kill()
        with pytest.raises(StoreUnavailable):
            await store.read_user("ann", "s1")
        own_valkey_tcp.start()
        assert (await store.read_user("ann", "s1")).snapshot is None


async def test_a_store_whose_server_is_down_opens_and_fails_when_used(own_valkey_tcp: ValkeyTcp) -> None:
    own_valkey_tcp.kill()
    async with opened(own_valkey_tcp) as store:
        with pytest.raises(StoreUnavailable):
            await store.ping()


async def test_a_restarted_server_gets_the_script_again(own_valkey_tcp: ValkeyTcp) -> None:
    async with opened(own_valkey_tcp) as store:
        await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        own_valkey_tcp.client().script_flush()
        assert await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0) == AppendResult(0, 1, 0)


async def test_cancelled_calls_give_nobody_the_reply_of_another(own_valkey_tcp: ValkeyTcp) -> None:
    """Two connections, many users, calls cut off at every stage: each reply is the asker's own."""
    users = [f"user-{i}" for i in range(200)]
    async with opened(own_valkey_tcp, connections_max=2) as store:
        await store.write_snapshot("s1", [(user, user.encode(), None) for user in users])

        async def ask(user: str, yields_count: int) -> None:
            reading = asyncio.ensure_future(store.read_user(user, "s1"))
            for _ in range(yields_count):
                await asyncio.sleep(0)
            reading.cancel()
            with suppress(asyncio.CancelledError):
                assert (await reading).snapshot == user.encode()

        for round_ in range(5):
            await asyncio.gather(*(ask(user, (i + round_) % 40) for i, user in enumerate(users)))
            for user in users[:20]:
                assert (await store.read_user(user, "s1")).snapshot == user.encode()


async def test_calls_that_time_out_leak_no_connection(own_valkey_tcp: ValkeyTcp) -> None:
    async with opened(own_valkey_tcp, timeout_ms=50, connections_max=2, retries_count=0) as store:
        own_valkey_tcp.process.send_signal(signal.SIGSTOP)
        results = await asyncio.gather(
            *(store.read_user(str(i), "s1") for i in range(20)), return_exceptions=True
        )
        assert all(isinstance(result, StoreTimeout) for result in results)
        own_valkey_tcp.process.send_signal(signal.SIGCONT)
        store._settings = StoreSettings(timeout_ms=20_000)  # type: ignore[attr-defined]
        assert len(await asyncio.gather(*(store.read_user(str(i), "s1") for i in range(20)))) == 20


async def test_a_damaged_recent_list_starts_anew_and_is_counted(own_valkey_tcp: ValkeyTcp) -> None:
    own_valkey_tcp.client().set(recent_key("ann"), RECORD * 3 + b"torn")
    async with opened(own_valkey_tcp) as store:
        assert await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0) == AppendResult(1, 0, 3)
        assert (await store.read_user("ann", None)).recent == RECORD


async def test_a_key_of_another_type_is_an_unavailable_store_not_a_crash(own_valkey_tcp: ValkeyTcp) -> None:
    own_valkey_tcp.client().rpush(recent_key("ann"), b"x")
    async with opened(own_valkey_tcp) as store:
        with pytest.raises(StoreUnavailable, match="ResponseError"):
            await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        assert (await store.read_user("ann", None)).recent == b""


@pytest.mark.parametrize("command", ["config set maxmemory 1"])
async def test_a_full_server_refuses_writes_and_still_reads(own_valkey_tcp: ValkeyTcp, command: str) -> None:
    async with opened(own_valkey_tcp) as store:
        await store.write_snapshot("s1", [("ann", b"x", None)])
        own_valkey_tcp.client().execute_command(*command.split())
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            await store.append_behaviors("ann", RECORD, cap=5, keep_from_ms=0)
        assert (await store.read_user("ann", "s1")).snapshot == b"x"


async def test_a_url_that_does_not_parse_is_refused_without_its_password() -> None:
    with pytest.raises(StoreUrlError) as refusal:
        await open_store("redis://user:secret@host:not-a-port/0")
    assert "secret" not in str(refusal.value)
