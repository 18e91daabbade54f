"""What every store does. The suite in `tests/suites/stores` holds each of them to it.

    StoreError
    ├── StoreUrlError       the URL names no store, or one that cannot be
    ├── StoreStartError     an embedded server did not start
    └── StoreUnavailable    gone, refused, or no answer within its time
        └── StoreTimeout    no answer within its time

Knows nothing of Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field


class StoreError(Exception):
    """Root of what stores raise."""


class StoreUrlError(StoreError):
    """The URL names no store, or one that cannot be."""


class StoreStartError(StoreError):
    """An embedded server did not start."""


class StoreUnavailable(StoreError):
    """The store is gone, refuses, or gives no answer within its time."""


class StoreTimeout(StoreUnavailable):
    """The store gives no answer within its time."""


class StoreSettings(BaseModel):
    """Limits of a store's client. A client's own defaults are made for patience, not for 10 ms.

    There is no cache unless it is asked for: with one, a read may miss what another process wrote a moment ago, until
    the server's word of it has come in, and each process hears of the writes of all. It pays where a process's hits
    outnumber everybody's writes; 64 MiB hold the snapshots of some thousand users.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_ms: int = Field(default=50, gt=0, description="one call, waiting and connecting included")
    bulk_timeout_ms: int = Field(default=60_000, gt=0, description="one batch of a bulk write")
    retries_count: int = Field(
        default=1, ge=0, description="at once, after a broken connection; inside timeout_ms"
    )
    connections_max: int = Field(default=32, gt=0, description="per worker; callers beyond it wait in line")
    bulk_users_count: int = Field(default=500, gt=0, description="users in one batch of a bulk write")
    cache_max_bytes: int = Field(default=0, ge=0, description="values kept in this process; 0 keeps none")


class CacheWatch:
    """Is told what a store's cache does, for counting. This one does not count."""

    def looked_up(self, hits_count: int, misses_count: int) -> None:
        """Keys of one read: found here, and asked for."""

    def holds(self, held_bytes: int) -> None:
        """What the cache takes now."""

    def invalidated(self, keys_count: int) -> None:
        """Keys that the server says were written, held here or not."""

    def was_reset(self, reason: str) -> None:
        """The cache was emptied: one of `RESET_REASONS` of `service/stores/cache.py`."""


@dataclass(frozen=True, slots=True)
class UserRecord:
    """What the store holds of one user. `snapshot` and `features` are None where there is none; `recent` is
    a run of packed BEHAVIOR_DTYPE records, oldest first, empty where there is none."""

    snapshot: bytes | None
    features: bytes | None
    recent: bytes


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What became of behaviors that were appended to a recent list.

    `dropped_count` behaviors, new or old, fell off the cap although no snapshot covers them.
    """

    appended_count: int
    duplicates_count: int
    dropped_count: int


SnapshotRecord = tuple[str, bytes | None, bytes | None]
"""A user id, and the user's snapshot and feature blobs; None where there is none to write."""


class Store(Protocol):
    """Users' life cycles. Every method raises StoreUnavailable where the store does not answer in time."""

    async def read_user(self, user_id: str, snapshot_id: str | None) -> UserRecord:
        """Return all that a request needs of its user, in one round trip; with no snapshot, recents only."""

    async def read_users(self, user_ids: Sequence[str], snapshot_id: str | None) -> list[UserRecord]:
        """Return what `read_user` returns for each user, in their order, in one round trip for all.

        The deadline around all of it is that of one user.
        """

    def held_user(self, user_id: str, snapshot_id: str | None) -> UserRecord | None:
        """Return what `read_user` would if that takes no trip to a server, None if it does."""

    async def append_behaviors(
        self, user_id: str, records: bytes, *, cap: int, keep_from_ms: int
    ) -> AppendResult:
        """Add behaviors to a user's recent list, atomically and in one round trip.

        `records` are as `encode_behaviors` packs them. A behavior whose event is in the list already is a
        duplicate and changes nothing, so sending one twice is harmless. The list stays sorted by time and
        keeps its newest `cap` behaviors; behaviors before `keep_from_ms` (the snapshot covers them) are the
        first to go and are not counted as dropped.
        """

    async def write_snapshot(self, snapshot_id: str, records: Iterable[SnapshotRecord]) -> int:
        """Write many users under a snapshot id and return how many, after they are safe.

        Nobody reads them before the registry names the snapshot; writing again after a crash is harmless.
        """

    async def delete_snapshot(self, snapshot_id: str) -> int:
        """Delete all that was written under a snapshot id, and return how many users that were."""

    async def ping(self) -> None:
        """Return if the store answers."""

    async def close(self) -> None:
        """Give back connections; the last user of an embedded server stops it. Closing twice is harmless."""
