"""`redis://`: a Redis or Valkey server, one node.

A call has one deadline around all of it: waiting for a connection, connecting, sending, reading. A call
that is cut off closes its connection, so a late reply is never taken for the answer to the next caller.

Knows nothing of what the bytes mean, but for the 22 bytes of a behavior that the script below sorts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.contract.store_keys import features_key, recent_key, snapshot_key, users_key
from service.stores.base import (
    AppendResult,
    SnapshotRecord,
    StoreSettings,
    StoreTimeout,
    StoreUnavailable,
    StoreUrlError,
    UserRecord,
)

T = TypeVar("T")

APPEND_BEHAVIORS: Final = """
-- Adds packed behaviors to one user's recent list: no duplicates, sorted by time, the newest `cap` of them.
-- KEYS[1] the list, one string of 22-byte records: i8 at_ms, u8 event, u4 item, u2 strength, little-endian.
-- ARGV[1] cap, ARGV[2] keep_from_ms, ARGV[3] new records end to end.
-- Returns {appended, duplicates, dropped}.
local RECORD_BYTES = 22
local cap, keep_from_ms, new = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local held = redis.call('GET', KEYS[1]) or ''
local dropped = 0
if #held % RECORD_BYTES ~= 0 then -- no whole number of records: nothing in it can be trusted
  dropped, held = math.floor(#held / RECORD_BYTES), ''
end

local records, at_ms, order, events, sorted = {}, {}, {}, {}, true
local function add(packed, from)
  local event = string.sub(packed, from + 8, from + 15)
  if events[event] then return false end
  events[event] = true
  local n = #records + 1
  records[n] = string.sub(packed, from, from + RECORD_BYTES - 1)
  at_ms[n], order[n] = struct.unpack('<i8', packed, from), n
  sorted = sorted and (n == 1 or at_ms[n - 1] <= at_ms[n])
  return true
end
for from = 1, #held, RECORD_BYTES do add(held, from) end
local appended, duplicates = 0, 0
for from = 1, #new, RECORD_BYTES do
  if add(new, from) then appended = appended + 1 else duplicates = duplicates + 1 end
end
if appended == 0 and dropped == 0 then return {0, duplicates, 0} end

if not sorted then
  table.sort(order, function(a, b) return at_ms[a] < at_ms[b] or (at_ms[a] == at_ms[b] and a < b) end)
end
local first, kept = math.max(0, #order - cap) + 1, {}
for i = 1, first - 1 do
  if at_ms[order[i]] >= keep_from_ms then dropped = dropped + 1 end
end
for i = first, #order do kept[#kept + 1] = records[order[i]] end
redis.call('SET', KEYS[1], table.concat(kept))
return {appended, duplicates, dropped}
"""


class RedisStore:
    """Users' life cycles on one Redis or Valkey server."""

    def __init__(self, pool: BlockingConnectionPool, settings: StoreSettings) -> None:
        self._client: Redis = Redis(connection_pool=pool)
        self._pool = pool
        self._settings = settings
        self._append = self._client.register_script(APPEND_BEHAVIORS)

    async def read_user(self, user_id: str, snapshot_id: str | None) -> UserRecord:
        keys = [recent_key(user_id)]
        if snapshot_id is not None:
            keys += [snapshot_key(user_id, snapshot_id), features_key(user_id, snapshot_id)]
        reading: Awaitable[list[Any]] = self._client.mget(keys)
        values = await self._call(reading, self._settings.timeout_ms)
        recent, snapshot, features = (*values, None, None)[:3]
        return UserRecord(snapshot, features, recent or b"")

    async def append_behaviors(
        self, user_id: str, records: bytes, *, cap: int, keep_from_ms: int
    ) -> AppendResult:
        counts: list[int] = await self._call(
            self._append(keys=[recent_key(user_id)], args=[cap, keep_from_ms, records]),
            self._settings.timeout_ms,
        )
        return AppendResult(*counts)

    async def write_snapshot(self, snapshot_id: str, records: Iterable[SnapshotRecord]) -> int:
        users_count = 0
        for batch in _batches(records, self._settings.bulk_users_count):
            pipeline = self._client.pipeline(transaction=False)
            # The set goes first: whatever a crash leaves behind can be found and deleted.
            pipeline.sadd(users_key(snapshot_id), *(user_id for user_id, _, _ in batch))
            for user_id, snapshot, features in batch:
                if snapshot is not None:
                    pipeline.set(snapshot_key(user_id, snapshot_id), snapshot)
                if features is not None:
                    pipeline.set(features_key(user_id, snapshot_id), features)
            await self._call(pipeline.execute(), self._settings.bulk_timeout_ms)
            users_count += len(batch)
        return users_count

    async def delete_snapshot(self, snapshot_id: str) -> int:
        users, timeout_ms = users_key(snapshot_id), self._settings.bulk_timeout_ms
        users_count: int = await self._call(self._client.scard(users), timeout_ms)
        cursor = -1
        while cursor != 0:
            scanning: Awaitable[tuple[int, list[Any]]] = self._client.sscan(
                users, max(cursor, 0), count=self._settings.bulk_users_count
            )
            cursor, found = await self._call(scanning, timeout_ms)
            pipeline = self._client.pipeline(transaction=False)
            for user_id in (name.decode() for name in found):
                pipeline.unlink(snapshot_key(user_id, snapshot_id), features_key(user_id, snapshot_id))
            await self._call(pipeline.execute(), timeout_ms)
        await self._call(self._client.unlink(users), timeout_ms)
        return users_count

    async def ping(self) -> None:
        await self._call(self._client.ping(), self._settings.timeout_ms)

    async def close(self) -> None:
        await self._pool.disconnect()

    async def _call(self, call: Awaitable[T], timeout_ms: int) -> T:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await call
        except TimeoutError as error:
            raise StoreTimeout(f"the store gave no answer within {timeout_ms} ms") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"the store does not serve: {type(error).__name__}: {error}") from error


def client_options(settings: StoreSettings) -> dict[str, Any]:
    """Return what a connection pool must be told, nothing of it left to redis-py's defaults.

    No socket timeout: the deadline of the call is around it, and a second clock in each read costs a task.
    """
    return {
        "max_connections": settings.connections_max,
        "timeout": None,
        "socket_timeout": None,
        "socket_connect_timeout": settings.bulk_timeout_ms / 1000,
        "retry": Retry(NoBackoff(), settings.retries_count),
        "health_check_interval": 0,
        "protocol": 2,
    }


def _batches(records: Iterable[SnapshotRecord], users_count: int) -> Iterator[list[SnapshotRecord]]:
    remaining = iter(records)
    while batch := list(islice(remaining, users_count)):
        yield batch


async def open_url(url: str, settings: StoreSettings) -> RedisStore:
    """Return a store on the server of a URL, `redis://[[user]:password@]host[:port][/database]`.

    Raises:
        StoreUrlError: the URL does not parse.
    """
    try:
        pool = BlockingConnectionPool.from_url(url, **client_options(settings))
    except (ValueError, TypeError) as error:
        raise StoreUrlError("the store's URL does not parse as redis://host:port/database") from error
    return RedisStore(pool, settings)
