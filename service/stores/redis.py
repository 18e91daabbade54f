"""`redis://`: a Redis or Valkey server, one node.

A call has one deadline around all of it: waiting for a connection, connecting, sending, reading. A call
that is cut off closes its connection (`connections.py`). With a cache (`cache.py`), what is held is not asked
for again, as long as the server tells of every write (`invalidations.py`).

Knows nothing of what the bytes mean, but for the 22 bytes of a behavior that the script below sorts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError

from service.contract.store_keys import features_key, read_keys, recent_key, snapshot_key, users_key
from service.stores.base import (
    AppendResult,
    CacheWatch,
    SnapshotRecord,
    StoreSettings,
    StoreTimeout,
    StoreUnavailable,
    StoreUrlError,
    UserRecord,
)
from service.stores.cache import WRITTEN, ValueCache
from service.stores.connections import Command, Connections, Deadline, connection_options
from service.stores.invalidations import InvalidationListener

READ_KEYS_MAX: Final = 192
"""Keys in one MGET: while it copies, the server answers nobody else."""

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


_APPEND_SHA1: Final = hashlib.sha1(APPEND_BEHAVIORS.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """Users' life cycles on one Redis or Valkey server. `make_connection` returns one that is not connected."""

    def __init__(
        self, make_connection: Callable[[], AbstractConnection], settings: StoreSettings, watch: CacheWatch
    ) -> None:
        self._connections = Connections(
            make_connection, max_count=settings.connections_max, retries_count=settings.retries_count
        )
        self._settings = settings
        self._cache = ValueCache(settings.cache_max_bytes, watch)
        self._listener: InvalidationListener | None = None
        if settings.cache_max_bytes:
            self._listener = InvalidationListener(make_connection, self._cache)

    async def read_user(self, user_id: str, snapshot_id: str | None) -> UserRecord:
        return _record(await self._read(read_keys(user_id, snapshot_id)))

    async def read_users(self, user_ids: Sequence[str], snapshot_id: str | None) -> list[UserRecord]:
        keys = [read_keys(user_id, snapshot_id) for user_id in user_ids]
        values = iter(await self._read(tuple(chain.from_iterable(keys))))
        return [_record(list(islice(values, len(of_user)))) for of_user in keys]

    def held_user(self, user_id: str, snapshot_id: str | None) -> UserRecord | None:
        if not self._cache.is_open:
            return None
        values = self._cache.find_all(read_keys(user_id, snapshot_id))
        return None if values is None else _record(values)

    async def append_behaviors(
        self, user_id: str, records: bytes, *, cap: int, keep_from_ms: int
    ) -> AppendResult:
        key = recent_key(user_id)
        arguments = (1, key, cap, keep_from_ms, records)
        timeout_ms = self._settings.timeout_ms
        try:
            try:
                (counts,) = await self._ask(("EVALSHA", _APPEND_SHA1, *arguments), timeout_ms=timeout_ms)
            except NoScriptError:
                (counts,) = await self._ask(("EVAL", APPEND_BEHAVIORS, *arguments), timeout_ms=timeout_ms)
        finally:  # a call that failed may have been done
            self._cache.drop((key,))
        return AppendResult(*counts)

    async def write_snapshot(self, snapshot_id: str, records: Iterable[SnapshotRecord]) -> int:
        users_count = 0
        for batch in _batches(records, self._settings.bulk_users_count):
            # The set goes first: whatever a crash leaves behind can be found and deleted.
            commands: list[Command] = [
                ("SADD", users_key(snapshot_id), *(user_id for user_id, _, _ in batch))
            ]
            for user_id, snapshot, features in batch:
                if snapshot is not None:
                    commands.append(("SET", snapshot_key(user_id, snapshot_id), snapshot))
                if features is not None:
                    commands.append(("SET", features_key(user_id, snapshot_id), features))
            await self._change(*commands)
            users_count += len(batch)
        return users_count

    async def delete_snapshot(self, snapshot_id: str) -> int:
        users, timeout_ms = users_key(snapshot_id), self._settings.bulk_timeout_ms
        users_count: int
        (users_count,) = await self._ask(("SCARD", users), timeout_ms=timeout_ms)
        cursor: bytes | None = None
        while cursor != b"0":
            scan = ("SSCAN", users, cursor or b"0", "COUNT", self._settings.bulk_users_count)
            ((cursor, found),) = await self._ask(scan, timeout_ms=timeout_ms)
            keys = [read_keys(name.decode(), snapshot_id)[1:] for name in found]
            await self._change(*(("UNLINK", *of_user) for of_user in keys))
        await self._change(("UNLINK", users))
        return users_count

    async def ping(self) -> None:
        await self._ask(("PING",), timeout_ms=self._settings.timeout_ms)

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._connections.close()

    async def _read(self, keys: tuple[str, ...]) -> list[bytes | None]:
        """Return the keys' values: those that the cache holds from there, the others in one trip."""
        if not self._settings.cache_max_bytes:
            return await self._fetch(keys)
        found = self._cache.find(keys)
        lacking = tuple(key for key in keys if key not in found)
        if lacking:
            with self._cache.reading(lacking) as keep:
                values = await self._fetch(lacking)
                keep(values)
            found.update(zip(lacking, values, strict=True))
        return [found[key] for key in keys]

    async def _fetch(self, keys: tuple[str, ...]) -> list[bytes | None]:
        starts = range(0, len(keys), READ_KEYS_MAX)
        replies = await self._ask(
            *(("MGET", *keys[start : start + READ_KEYS_MAX]) for start in starts),
            timeout_ms=self._settings.timeout_ms,
        )
        values: list[bytes | None] = replies[0] if len(replies) == 1 else list(chain.from_iterable(replies))
        return values

    async def _change(self, *commands: Command) -> None:
        """Do part of a bulk write. Whoever writes in bulk starts with an empty cache afterwards."""
        try:
            await self._ask(*commands, timeout_ms=self._settings.bulk_timeout_ms)
        finally:
            self._cache.reset(WRITTEN)

    async def _ask(self, *commands: Command, timeout_ms: int) -> list[Any]:
        """Return the replies to commands, sent in one trip.

        Raises:
            StoreUnavailable: the server is gone, refuses, or gives no answer in time.
            NoScriptError: the server does not know a script by its digest.
        """
        try:
            with Deadline(timeout_ms / 1000):
                return await self._connections.ask(*commands)
        except NoScriptError:
            raise
        except TimeoutError as error:
            raise StoreTimeout(f"the store gave no answer within {timeout_ms} ms") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"the store does not serve: {type(error).__name__}: {error}") from error


def _record(values: Sequence[bytes | None]) -> UserRecord:
    """Return a user from the values of `read_keys`."""
    recent, snapshot, features = values if len(values) == 3 else (values[0], None, None)
    return UserRecord(snapshot, features, recent or b"")


def _batches(records: Iterable[SnapshotRecord], users_count: int) -> Iterator[list[SnapshotRecord]]:
    remaining = iter(records)
    while batch := list(islice(remaining, users_count)):
        yield batch


async def open_url(url: str, settings: StoreSettings, watch: CacheWatch) -> RedisStore:
    """Return a store on the server of a URL, `redis://[[user]:password@]host[:port][/database]`.

    Raises:
        StoreUrlError: the URL does not parse.
    """
    try:
        maker = ConnectionPool.from_url(url, **connection_options(settings))
    except (ValueError, TypeError) as error:
        raise StoreUrlError("the store's URL does not parse as redis://host:port/database") from error
    return RedisStore(maker.make_connection, settings, watch)
