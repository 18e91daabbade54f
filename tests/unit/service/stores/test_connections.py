"""Connections are lent to one call each, and a call has one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import ResponseError

from service.stores.base import StoreSettings
from service.stores.connections import Connections, Deadline, connection_options
from tests.support.eventually import eventually
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(
    server: ValkeyTcp, *, max_count: int = 4, retries_count: int = 0
) -> AsyncIterator[Connections]:
    maker = ConnectionPool.from_url(server.url, **connection_options(StoreSettings()))
    connections = Connections(maker.make_connection, max_count=max_count, retries_count=retries_count)
    try:
        yield connections
    finally:
        await connections.close()


def normal_clients(server: ValkeyTcp) -> int:
    """Return how many clients there are beside the one that asks."""
    with server.client() as client:
        return len(client.client_list(_type="normal")) - 1


async def test_commands_of_one_call_are_answered_in_their_order(own_valkey_tcp: ValkeyTcp) -> None:
    async with connected(own_valkey_tcp) as connections:
        assert await connections.ask(("SET", "a", b"\0\xff"), ("GET", b"a"), ("INCRBY", "n", 7)) == [
            b"OK",
            b"\0\xff",
            7,
        ]
        assert await connections.ask() == []


async def test_a_command_that_is_refused_leaves_the_connection_in_step(own_valkey_tcp: ValkeyTcp) -> None:
    async with connected(own_valkey_tcp, max_count=1) as connections:
        own_id = await connections.ask(("CLIENT", "ID"))
        with pytest.raises(ResponseError, match="first"):
            await connections.ask(("SET", "a", "1"), ("first",), ("second",), ("SET", "b", "2"))
        assert await connections.ask(("MGET", "a", "b")) == [[b"1", b"2"]]
        assert await connections.ask(("CLIENT", "ID")) == own_id


async def test_there_are_never_more_connections_than_told(own_valkey_tcp: ValkeyTcp) -> None:
    async with connected(own_valkey_tcp, max_count=3) as connections:
        replies = await asyncio.gather(*(connections.ask(("ECHO", str(i))) for i in range(100)))
        assert replies == [[str(i).encode()] for i in range(100)]
        assert normal_clients(own_valkey_tcp) == 3
    assert normal_clients(own_valkey_tcp) == 0


async def test_connections_that_the_server_closed_while_idle_cost_no_call(own_valkey_tcp: ValkeyTcp) -> None:
    async with connected(own_valkey_tcp, retries_count=0) as connections:
        for _ in range(3):
            await asyncio.gather(*(connections.ask(("PING",)) for _ in range(4)))
            with own_valkey_tcp.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)
            # Until the end of each has come in, it cannot be told from an idle one.
            ended = [connection._reader.at_eof for connection in connections._all if connection._reader]
            await eventually(lambda ended=ended: all(is_ended() for is_ended in ended))


async def test_a_connection_that_breaks_in_a_call_is_tried_again_as_often_as_told(
    own_valkey_tcp: ValkeyTcp,
) -> None:
    async with connected(own_valkey_tcp, retries_count=0) as connections:
        with pytest.raises(BrokenConnection):
            await connections.ask(("QUIT",), ("PING",))
    async with connected(own_valkey_tcp, retries_count=1) as connections:
        await connections.ask(("SET", "broken", "0"))
        with pytest.raises(BrokenConnection):
            await connections.ask(("INCR", "broken"), ("QUIT",), ("PING",))
        assert await connections.ask(("GET", "broken")) == [b"2"]


async def cut(deadline_s: float, call: Callable[[], Awaitable[object]]) -> None:
    with Deadline(deadline_s):
        await call()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_deadline_that_is_over_is_a_timeout_and_the_task_goes_on() -> None:
    with pytest.raises(TimeoutError):
        await cut(0.001, forever)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_deadline_that_is_kept_cuts_nothing_later() -> None:
    await cut(0.001, lambda: asyncio.sleep(0))
    await asyncio.sleep(0.01)


async def test_a_cancel_from_elsewhere_is_no_timeout() -> None:
    task = asyncio.create_task(cut(60, forever))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_and_a_deadline_at_once_are_a_cancel() -> None:
    task = asyncio.create_task(cut(0, forever))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_outer_timeout_within_a_deadline_keeps_its_own_error() -> None:
    async def inner() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await forever()
        raise KeyError("the deadline was not over")

    with pytest.raises(KeyError):
        await cut(60, inner)


async def test_an_error_before_the_deadline_passes_as_it_is() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await cut(60, fail)
