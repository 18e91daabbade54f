"""Connections to one server, each lent to one call at a time, on redis-py's connections and hiredis.

Why not redis-py's client and pool: they were half of the processor time that reading a user took (locks, retry
objects, metrics and events that nobody listens to, packing in Python). What a connection does (address, password,
database, TLS, parsing) stays redis-py's.

Knows nothing of keys and values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import ResponseError

from service.stores.base import StoreSettings

Command = tuple[str | bytes | int, ...]


class Connections:
    """At most `max_count` connections, made when needed; callers beyond them wait in line.

    A call that is cut off, by whomever, closes its connection, so that a late reply is never taken for the answer
    to the next caller: redis-py's `read_response` and `send_packed_command` see to that.
    """

    def __init__(self, make: Callable[[], AbstractConnection], *, max_count: int, retries_count: int) -> None:
        self._make = make
        self._attempts_count = retries_count + 1
        self._room = asyncio.Semaphore(max_count)
        self._all: Final[list[AbstractConnection]] = []
        self._idle: Final[list[AbstractConnection]] = []

    async def ask(self, *commands: Command) -> list[Any]:
        """Return the replies to commands, sent in one trip; at once again where the connection broke.

        Raises:
            RedisError: the server cannot be had, or refuses one of the commands; the others were done.
            OSError: it cannot be had.
        """
        if not commands:
            return []
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        async with self._room:
            connection = self._idle.pop() if self._idle else self._add()
            try:
                return await self._exchange(connection, packed)
            finally:
                self._idle.append(connection)

    async def close(self) -> None:
        """Close all connections, those in use as well."""
        for connection in self._all:
            await connection.disconnect()

    def _add(self) -> AbstractConnection:
        connection = self._make()
        self._all.append(connection)
        return connection

    async def _exchange(self, connection: AbstractConnection, packed: list[bytes]) -> list[Any]:
        for attempt in range(1, self._attempts_count + 1):
            try:
                # Between calls nothing is due: what can be read is the end of the connection.
                if connection.is_connected and await connection.can_read():
                    await connection.disconnect(nowait=True)
                await connection.send_packed_command(packed, check_health=False)
                return await _replies(connection, len(packed))
            except BrokenConnection:
                if attempt == self._attempts_count:
                    raise
        raise AssertionError("there is at least one attempt")


async def _replies(connection: AbstractConnection, count: int) -> list[Any]:
    """Return replies in their order; all of them are read before a refusal among them is raised."""
    replies: list[Any] = []
    refusal: ResponseError | None = None
    for _ in range(count):
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return replies


class Deadline:
    """`asyncio.timeout` as a plain context: it cuts the same way, for 2 µs instead of 6 a call."""

    __slots__ = ("_cancels_count", "_is_over", "_task", "_timeout_s", "_timer")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancels_count = task, task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._cut)

    def _cut(self) -> None:
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # Whoever else cancelled the task meanwhile is not to be told of a timeout.
        if self._is_over and self._task.uncancel() <= self._cancels_count and kind is asyncio.CancelledError:
            raise TimeoutError from error


def connection_options(settings: StoreSettings) -> dict[str, Any]:
    """Return what a connection must be told, nothing of it left to redis-py's defaults.

    No socket timeout: the deadline of the call is around it, and a second clock in each read costs a task.
    """
    return {
        "socket_timeout": None,
        "socket_connect_timeout": settings.bulk_timeout_ms / 1000,
        "retry": Retry(NoBackoff(), 0),
        "socket_read_size": 1 << 18,  # a snapshot in one piece, where it has come in: a tenth less at 256 KB
        "health_check_interval": 0,
        "protocol": 2,
    }
