"""What is asked in a benchmark of /score: real requests, and the users who ask, in a store of their own.

Requests are drawn from the dataset's test weeks: a visit's context, candidates of its domain with the placement
they had, and a time just after the published snapshot, as a live request has. Users are the published ones. If
too few of them have about LONG_CLUSTERS_COUNT clusters, users are made who do, by joining life cycles of real
users. Knows nothing of servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import orjson
import polars as pl

from service.contract.features import RawValue, Side
from service.contract.history import Snapshot, decode_snapshot, encode_snapshot
from service.stores import open_store
from service.stores.base import SnapshotRecord, StoreSettings
from training.data.dataset import Dataset

LONG_CLUSTERS_COUNT: Final = 200
LONG_TOLERANCE_COUNT: Final = 20
LONG_USERS_MIN: Final = 24
USERS_COUNT: Final = 48
AFTER_SNAPSHOT_MS: Final = 3_600_000
READ_TIMEOUT_MS: Final = 5_000
SEED: Final = 1


class WorkloadError(Exception):
    """The published users cannot be asked for."""


@dataclass(frozen=True)
class User:
    """A user, what the store is to hold of them, and how many clusters that is."""

    user_id: str
    snapshot: bytes
    features: bytes | None

    @property
    def clusters_count(self) -> int:
        """Return the number of clusters in the snapshot."""
        return len(decode_snapshot(self.snapshot).item)

    def record(self) -> SnapshotRecord:
        """Return the user as a store takes it."""
        return self.user_id, self.snapshot, self.features


@dataclass(frozen=True)
class Ask:
    """One request: its domain and its body."""

    domain: str
    body: bytes


@dataclass(frozen=True)
class Workload:
    """Requests of some users. `clusters_mean` is over those users."""

    name: str
    users: str
    clusters_mean: float
    asks: tuple[Ask, ...]


async def read_users(store_url: str, snapshot_id: str, user_ids: Iterable[str]) -> list[User]:
    """Return the published users who have a life cycle."""
    store = await open_store(store_url, StoreSettings(timeout_ms=READ_TIMEOUT_MS))
    try:
        found: list[User] = []
        for user_id in user_ids:
            record = await store.read_user(user_id, snapshot_id)
            if record.snapshot is not None:
                found.append(User(user_id, record.snapshot, record.features))
        return found
    finally:
        await store.close()


def load_users(store_url: str, snapshot_id: str, dataset: Dataset) -> list[User]:
    """Return the dataset's users as they were published.

    Raises:
        WorkloadError: the store holds none of them.
    """
    ids: list[str] = dataset.users["user_id"].to_list()
    users = asyncio.run(read_users(store_url, snapshot_id, ids))
    if not users:
        raise WorkloadError(f"{store_url} holds no user of snapshot {snapshot_id}: publish again")
    return users


def draw_real(users: Sequence[User], rng: np.random.Generator) -> list[User]:
    """Return some users, each as likely as any other."""
    return [users[i] for i in rng.permutation(len(users))[:USERS_COUNT]]


def draw_long(users: Sequence[User], rng: np.random.Generator) -> tuple[list[User], str]:
    """Return users with about LONG_CLUSTERS_COUNT clusters, real if there are enough, and what they are."""
    near = [u for u in users if abs(u.clusters_count - LONG_CLUSTERS_COUNT) <= LONG_TOLERANCE_COUNT]
    if len(near) >= LONG_USERS_MIN:
        return near[:USERS_COUNT], "real"
    made: list[User] = []
    for number in range(USERS_COUNT):
        parts: list[User] = []
        while sum(part.clusters_count for part in parts) < LONG_CLUSTERS_COUNT:
            parts.append(users[int(rng.integers(len(users)))])
        snapshot = joined([decode_snapshot(part.snapshot) for part in parts], LONG_CLUSTERS_COUNT)
        made.append(User(f"bench-long-{number}", encode_snapshot(snapshot), parts[0].features))
    return made, "joined life cycles of real users"


def joined(snapshots: Sequence[Snapshot], clusters_count: int) -> Snapshot:
    """Return the first `clusters_count` clusters of several life cycles, with the tail of the first."""
    return replace(
        snapshots[0],
        item=np.concatenate([s.item for s in snapshots])[:clusters_count],
        size=np.concatenate([s.size for s in snapshots])[:clusters_count],
        mean_age_s=np.concatenate([s.mean_age_s for s in snapshots])[:clusters_count],
        strength=np.concatenate([s.strength for s in snapshots])[:clusters_count],
    )


class Requests:
    """Bodies of requests, drawn from the exposures of the test weeks."""

    def __init__(self, dataset: Dataset, *, candidates_count: int, bare: bool) -> None:
        """With `bare`, candidates are ids alone, without their placement."""
        self._context = [feature.name for feature in dataset.spec.features_of(Side.CONTEXT)]
        self._placement = [feature.name for feature in dataset.spec.features_of(Side.CANDIDATE)]
        self._count, self._bare = candidates_count, bare
        test = dataset.exposures_of("test")
        self._of_domain = {
            domain: test.filter(pl.col("domain") == domain).unique(
                "item_id", keep="first", maintain_order=True
            )
            for domain in dataset.spec.domains
        }
        self.domains = tuple(d for d, rows in self._of_domain.items() if len(rows))

    def draw(self, user_id: str, domain: str, at_ms: int, rng: np.random.Generator) -> Ask:
        """Return a request of a user: candidates and context as they occur together in the domain."""
        rows = self._of_domain[domain]
        chosen = rows[rng.permutation(len(rows))[: self._count]]
        if len(chosen) < self._count:  # a small dataset: some candidates are asked for twice
            chosen = rows[rng.integers(len(rows), size=self._count)]
        context = chosen[0].select(self._context).to_dicts()[0]
        candidates = chosen.select("item_id", *self._placement).to_dicts()
        return Ask(domain, body_of(user_id, at_ms, context, candidates, bare=self._bare))


def body_of(
    user_id: str,
    at_ms: int,
    context: dict[str, RawValue],
    candidates: Sequence[dict[str, RawValue]],
    *,
    bare: bool,
) -> bytes:
    """Return the JSON of a request; values that are not there are not sent."""

    def candidate(row: dict[str, RawValue]) -> RawValue | dict[str, object]:
        placement = {k: v for k, v in row.items() if k != "item_id" and v is not None}
        if bare or not placement:
            return row["item_id"]
        return {"item_id": row["item_id"], "context": placement}

    return orjson.dumps(
        {
            "user_id": user_id,
            "at_ms": at_ms,
            "context": {k: v for k, v in context.items() if v is not None},
            "candidates": [candidate(row) for row in candidates],
        }
    )


def make_workload(
    name: str, kind: str, users: Sequence[User], requests: Requests, at_ms: int, rng: np.random.Generator
) -> Workload:
    """Return one request a user, the domains in turn."""
    asks = [
        requests.draw(user.user_id, requests.domains[i % len(requests.domains)], at_ms, rng)
        for i, user in enumerate(users)
    ]
    return Workload(name, kind, float(np.mean([user.clusters_count for user in users])), tuple(asks))
