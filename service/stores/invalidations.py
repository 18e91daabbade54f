"""The server's word that a key was written, for the cache: `CLIENT TRACKING` in broadcast mode.

One connection asks to be told of every write under our prefix and hears it on the channel `__redis__:invalidate`:
as it redirects to itself, there is no second one whose end would go unnoticed. While it is confirmed and alive the
cache is open; a connection that ends, or is silent although it was pinged, shuts it until the next is confirmed.

A worker hears of the writes of all. Events are one key each; a publish writes two keys a user, in messages of what the
server did in one turn of its loop, of which none is held yet, as nobody reads a snapshot before it is published.

Knows nothing of users and values.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import RedisError

from service.contract.store_keys import PREFIX
from service.stores.cache import ValueCache

CHANNEL: Final = "__redis__:invalidate"
CONFIRM_TIMEOUT_S: Final = 5.0
RETRY_INTERVAL_S: Final = 0.5
BEAT_S: Final = 1.0
"""Between pings. A connection that goes silent, with no end to it, is given up after two at most."""
MESSAGES_IN_A_ROW: Final = 64
"""What is heard at a time, about half a millisecond of it: requests go on in between."""

_log: Final = logging.getLogger(__name__)


class InvalidationListener:
    """Keeps a cache open while it hears of every write. Made inside an event loop; listens until it is closed."""

    def __init__(self, make_connection: Callable[[], AbstractConnection], cache: ValueCache) -> None:
        self._make_connection = make_connection
        self._cache = cache
        self._is_missed = False
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Shut the cache and close the connection."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            connection = self._make_connection()
            try:
                async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                    await _track(connection)
                self._cache.open()
                if self._is_missed:
                    self._is_missed = False
                    _log.info("the store's cache is in use again")
                await self._listen(connection)
            except (RedisError, OSError) as error:
                if not self._is_missed:
                    self._is_missed = True
                    _log.warning(
                        "the store's cache is not in use, the server does not tell of writes: %r", error
                    )
            finally:
                self._cache.shut()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(RETRY_INTERVAL_S)

    async def _listen(self, connection: AbstractConnection) -> None:
        """Pass on what is heard, and ping once a beat.

        Raises:
            RedisError: the connection ended, or nothing was heard for a whole beat.
        """
        is_heard = True
        while is_heard:
            is_heard = False
            await connection.send_command("PING", check_health=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    while True:
                        for _ in range(MESSAGES_IN_A_ROW):
                            # A cut in here loses nothing: what came in part stays in the parser.
                            message = await connection.read_response(disconnect_on_error=False)
                            is_heard = True
                            self._hear(message)
                        await asyncio.sleep(0)
        raise BrokenConnection("the connection is silent")

    def _hear(self, message: list[Any]) -> None:
        if message[0] == b"message":
            keys: list[bytes] | None = message[2]
            self._cache.told(None if keys is None else [key.decode(errors="replace") for key in keys])


async def _track(connection: AbstractConnection) -> None:
    """Return when the server has confirmed that it will tell of writes.

    Raises:
        RedisError: it does not, or is not there.
        OSError: it is not there.
    """
    await connection.connect()  # type: ignore[no-untyped-call]
    await connection.send_command("CLIENT", "ID", check_health=False)
    own_id = await connection.read_response()
    track = ("CLIENT", "TRACKING", "ON", "REDIRECT", own_id, "BCAST", "PREFIX", f"{PREFIX}:")
    await connection.send_command(*track, check_health=False)
    await connection.read_response()
    await connection.send_command("SUBSCRIBE", CHANNEL, check_health=False)
    await connection.read_response()
