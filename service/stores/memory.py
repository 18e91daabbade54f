"""`memory://`: a store in this process's memory, for unit tests. The plain reference of the other stores.

Knows nothing of persistence: what it holds is gone when it is closed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from service.contract.history import BEHAVIOR_DTYPE
from service.contract.store_keys import features_key, recent_key, snapshot_key, users_key
from service.stores.base import (
    AppendResult,
    CacheWatch,
    SnapshotRecord,
    StoreSettings,
    StoreUrlError,
    UserRecord,
)

_RECORD_BYTES = BEHAVIOR_DTYPE.itemsize
_AT_MS = struct.Struct("<q")


class MemoryStore:
    """Dictionaries with the keys of the real stores."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.sets: dict[str, set[str]] = {}

    async def read_user(self, user_id: str, snapshot_id: str | None) -> UserRecord:
        recent = self.values.get(recent_key(user_id), b"")
        if snapshot_id is None:
            return UserRecord(None, None, recent)
        return UserRecord(
            self.values.get(snapshot_key(user_id, snapshot_id)),
            self.values.get(features_key(user_id, snapshot_id)),
            recent,
        )

    async def read_users(self, user_ids: Sequence[str], snapshot_id: str | None) -> list[UserRecord]:
        return [await self.read_user(user_id, snapshot_id) for user_id in user_ids]

    def held_user(self, user_id: str, snapshot_id: str | None) -> UserRecord | None:
        return None

    async def append_behaviors(
        self, user_id: str, records: bytes, *, cap: int, keep_from_ms: int
    ) -> AppendResult:
        held = self.values.get(recent_key(user_id), b"")
        lost_count = 0
        if len(held) % _RECORD_BYTES:
            lost_count, held = len(held) // _RECORD_BYTES, b""
        kept, new = _split(held), _split(records)
        events = {_event(record) for record in kept}
        appended_count = 0
        for record in new:
            if _event(record) not in events:
                events.add(_event(record))
                kept.append(record)
                appended_count += 1
        if not appended_count and not lost_count:
            return AppendResult(0, len(new), 0)
        kept.sort(key=_at_ms)
        fallen, kept = kept[: max(0, len(kept) - cap)], kept[max(0, len(kept) - cap) :]
        self.values[recent_key(user_id)] = b"".join(kept)
        return AppendResult(
            appended_count,
            len(new) - appended_count,
            lost_count + sum(_at_ms(record) >= keep_from_ms for record in fallen),
        )

    async def write_snapshot(self, snapshot_id: str, records: Iterable[SnapshotRecord]) -> int:
        users_count = 0
        for user_id, snapshot, features in records:
            self.sets.setdefault(users_key(snapshot_id), set()).add(user_id)
            if snapshot is not None:
                self.values[snapshot_key(user_id, snapshot_id)] = snapshot
            if features is not None:
                self.values[features_key(user_id, snapshot_id)] = features
            users_count += 1
        return users_count

    async def delete_snapshot(self, snapshot_id: str) -> int:
        user_ids = self.sets.pop(users_key(snapshot_id), set())
        for user_id in user_ids:
            self.values.pop(snapshot_key(user_id, snapshot_id), None)
            self.values.pop(features_key(user_id, snapshot_id), None)
        return len(user_ids)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self.values.clear()
        self.sets.clear()


def _split(packed: bytes) -> list[bytes]:
    return [packed[i : i + _RECORD_BYTES] for i in range(0, len(packed), _RECORD_BYTES)]


def _event(record: bytes) -> bytes:
    return record[8:16]


def _at_ms(record: bytes) -> int:
    at_ms: int = _AT_MS.unpack_from(record)[0]
    return at_ms


async def open_url(url: str, settings: StoreSettings, watch: CacheWatch) -> MemoryStore:
    """Return a new, empty store.

    Raises:
        StoreUrlError: the URL says more than `memory://`.
    """
    parts = urlsplit(url)
    if parts.netloc or parts.path:
        raise StoreUrlError("memory:// takes no host and no path")
    return MemoryStore()
