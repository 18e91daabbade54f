"""Hydrate: what the store knows of the user, in one round trip, and what is done without it.

Ways to answer with less, each named in the answer and counted:

    history                       the store is gone, slow, or left alone by the breaker: nothing is known
    snapshot_damaged              the snapshot does not decode: only recent behaviors are used
    recent_damaged                the recent list does not decode: only the snapshot is used
    features_damaged              the user's features do not decode: they are unknown
    snapshot_newer_than_request   a replay from before the snapshot: its clusters know the future
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from service.contract.errors import BlobError
from service.contract.features import RawValue
from service.contract.history import Behaviors, History, build_history, decode_behaviors, decode_snapshot
from service.contract.store_keys import decode_user_features
from service.guarded_store import GuardedStore
from service.models.live import LiveModel
from service.stores.base import StoreUnavailable, UserRecord

T = TypeVar("T")

NO_HISTORY: Final = "history"
SNAPSHOT_DAMAGED: Final = "snapshot_damaged"
RECENT_DAMAGED: Final = "recent_damaged"
FEATURES_DAMAGED: Final = "features_damaged"
SNAPSHOT_NEWER: Final = "snapshot_newer_than_request"

_NOTHING: Final = UserRecord(None, None, b"")


@dataclass(frozen=True, slots=True)
class User:
    """What a request sees of its user. `degraded` names what it could not see."""

    history: History
    features: Mapping[str, RawValue]
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom a request is of, as which model sees them, and at what moment."""

    model: LiveModel
    user_id: str
    at_ms: int

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot that the model reads, None where nothing was published."""
        return self.model.snapshot.snapshot_id if self.model.snapshot else None


async def hydrate(store: GuardedStore, wanted: Wanted) -> User:
    """Return a user's history and features at a moment. Never raises for want of a store."""
    try:
        record = await store.read_user(wanted.user_id, wanted.snapshot_id)
    except StoreUnavailable:
        record = None
    return _decoded(record, wanted)


async def hydrate_many(store: GuardedStore, wanted: Sequence[Wanted]) -> list[User]:
    """Return the same of several requests, in their order: one trip for all that read the same snapshot."""
    users: dict[int, User] = {}
    by_snapshot: dict[str | None, list[int]] = {}
    for i, one in enumerate(wanted):
        by_snapshot.setdefault(one.snapshot_id, []).append(i)
    for snapshot_id, places in by_snapshot.items():
        records: Sequence[UserRecord | None]
        try:
            records = await store.read_users([wanted[i].user_id for i in places], snapshot_id)
        except StoreUnavailable:
            records = [None] * len(places)
        users |= {i: _decoded(record, wanted[i]) for i, record in zip(places, records, strict=True)}
    return [users[i] for i in range(len(wanted))]


def _decoded(record: UserRecord | None, wanted: Wanted) -> User:
    """Return what a record tells of its user at a moment; None is no answer of the store."""
    degraded = [NO_HISTORY] if record is None else []
    record = record or _NOTHING

    def decode(fallback: str, decoder: Callable[[bytes], T], blob: bytes | None, default: T) -> T:
        if not blob:
            return default
        try:
            return decoder(blob)
        except BlobError:
            degraded.append(fallback)
            return default

    snapshot = decode(SNAPSHOT_DAMAGED, decode_snapshot, record.snapshot, None)
    recent = decode(RECENT_DAMAGED, decode_behaviors, record.recent, Behaviors.empty())
    no_features: dict[str, RawValue] = {}
    features = decode(FEATURES_DAMAGED, decode_user_features, record.features, no_features)
    if snapshot is not None and snapshot.at_ms >= wanted.at_ms:
        degraded.append(SNAPSHOT_NEWER)
    history = build_history(
        snapshot,
        recent,
        at_ms=wanted.at_ms,
        limits=wanted.model.manifest.history,
        counts=wanted.model.encoder.reads_counts,
    )
    return User(history, features, tuple(degraded))
