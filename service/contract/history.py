"""The history of a request: the codec of what the store holds, and the one function that lays it out.

Training and serving both call `build_history`; nothing else decides which behaviors a request sees.
Knows nothing of stores, of artefacts' rows or of models: ids in here are catalogue ids.

A user's life cycle has two parts. The *snapshot* is made offline at a moment: clusters (TWIN-V2 virtual
items) of all behaviors strictly before that moment, an exact table of how often and when last each item
occurs in them, and the last few of those behaviors as they are, its *tail*. The *recent* behaviors are the
live ones, at or after that moment. A request at `at_ms` sees

    clusters  = the snapshot's clusters, or of more than `clusters_max` a sample that stands for all, then every
                recent behavior before at_ms as a singleton (size 1)
    recents   = the last `recents_max` behaviors of tail and recent together, before at_ms
    behaviors = the same, the last `behaviors_max`: what models read that know no clusters
    counted   = the snapshot's table, then every recent behavior before at_ms with count 1

A snapshot that is not strictly before the request is not used at all: its clusters know the future.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from service.contract.errors import BlobError
from service.contract.statistics import HALF_LIVES_DAYS, fade

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

UNKNOWN_ITEM: Final = 0
"""Catalogue id of an item that the catalogue lacks."""

AGE_S_MAX: Final = 2**32 - 1

STRENGTH_SCALE: Final = 1024
STRENGTH_MAX: Final = 65535 / STRENGTH_SCALE
"""Strength is stored as uint16 / 1024: steps of 0.001, up to 63.999."""

AGE_BUCKETS: Final = 40
STRENGTH_BUCKETS: Final = 20

_AGE_EDGES_S: Final = np.unique(
    np.rint(60.0 * np.power(2.0, np.arange(1, AGE_BUCKETS) * 0.5)).astype(np.int64)
)
_STRENGTH_EDGES: Final = np.arange(1, STRENGTH_BUCKETS, dtype=np.int64) * STRENGTH_SCALE // 16

BEHAVIOR_DTYPE: Final = np.dtype([("at_ms", "<i8"), ("event", "<u8"), ("item", "<u4"), ("strength", "<u2")])
"""One behavior in the store, 22 bytes packed: time, 64-bit hash of its event id, catalogue id, strength."""

SNAPSHOT_CODEC_VERSION: Final = 2
_SNAPSHOT_HEADER: Final = struct.Struct(
    "<B3xIIqII"
)  # version, clusters, tail, snapshot_at_ms, counted items, fading counts of each
_SNAPSHOT_HEADER_V1: Final = struct.Struct("<B3xIIq")  # without counted items


class HistoryLimits(BaseModel):
    """How much of a life cycle a model sees. Stated by the artefact: training and serving use the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clusters_max: int | None = Field(
        default=1024,
        ge=1,
        description="clusters of a snapshot; of more, a sample of so many stands for all behaviors; null is no limit",
    )
    singletons_max: int = Field(
        default=512, ge=0, description="newest behaviors since the snapshot, each a cluster of one"
    )
    recents_max: int = Field(default=50, ge=0, description="newest behaviors given to the short-term module")
    behaviors_max: int = Field(
        default=0, ge=0, description="newest behaviors given to modules that read a raw life cycle"
    )


@dataclass(frozen=True, slots=True)
class Behaviors:
    """Behaviors of one user as parallel arrays, (L,)."""

    at_ms: I64
    item: U32
    strength: U16  # fixed point, see STRENGTH_SCALE

    def __len__(self) -> int:
        return len(self.at_ms)

    def take(self, places: I64) -> Behaviors:
        """Return the behaviors in some places, in that order."""
        return Behaviors(self.at_ms.take(places), self.item.take(places), self.strength.take(places))

    def newest(self, count: int) -> Behaviors:
        """Return the last so many."""
        first = max(0, len(self) - count)
        return Behaviors(self.at_ms[first:], self.item[first:], self.strength[first:])

    def and_then(self, later: Behaviors) -> Behaviors:
        """Return both, end to end."""
        if len(later) == 0:
            return self
        return Behaviors(
            np.concatenate([self.at_ms, later.at_ms]),
            np.concatenate([self.item, later.item]),
            np.concatenate([self.strength, later.strength]),
        )

    @staticmethod
    def empty() -> Behaviors:
        """Return no behaviors."""
        return Behaviors(np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint16))


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """How often items occur in a life cycle, and the age of the newest occurrence. An item may stand twice.

    Axes:
        item: (K,) catalogue ids; count: (K,) at least 1; age_s, oldest_s: (K,) ages of the newest and of the oldest
        occurrence, in whole seconds;
        fading: (K, half-lives) see `statistics.py`, at the moment that ages are counted from.
    """

    item: U32
    count: U32
    age_s: I64
    oldest_s: I64
    fading: F32

    def __len__(self) -> int:
        return len(self.item)

    @staticmethod
    def empty() -> ItemCounts:
        """Return no counts."""
        none = np.zeros(0, np.uint32)
        fading = np.zeros((0, len(HALF_LIVES_DAYS)), np.float32)
        return ItemCounts(none, none, np.zeros(0, np.int64), np.zeros(0, np.int64), fading)

    def later(self, seconds: int) -> ItemCounts:
        """Return the same counts as they are some seconds later."""
        fading = (self.fading * fade(seconds)).astype(np.float32)
        return ItemCounts(self.item, self.count, self.age_s + seconds, self.oldest_s + seconds, fading)

    def and_then(self, other: ItemCounts) -> ItemCounts:
        """Return both, end to end."""
        if len(other) == 0:
            return self
        return ItemCounts(
            np.concatenate([self.item, other.item]),
            np.concatenate([self.count, other.count]),
            np.concatenate([self.age_s, other.age_s]),
            np.concatenate([self.oldest_s, other.oldest_s]),
            np.concatenate([self.fading, other.fading]),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A user's life cycle strictly before `at_ms`: clusters (C,), a tail of the newest behaviors (S,), and counts.

    Axes:
        item: (C,) catalogue id of each cluster's medoid. Clusters of like behaviors lie next to one another.
        size: (C,) number of behaviors in the cluster, or that it stands for, at least 1.
        mean_age_s: (C,) mean age of its behaviors at `at_ms`, in whole seconds.
        strength: (C,) mean strength, fixed point.
        counts: (K,) each item once, ages at `at_ms`; where there are more than the table's bound, those met last.
    """

    at_ms: int
    item: U32
    size: U32
    mean_age_s: U32
    strength: U16
    tail: Behaviors
    counts: ItemCounts = field(default_factory=ItemCounts.empty)

    def sampled(self, clusters_max: int | None) -> Snapshot:
        """Return the same with no more clusters than that, which stand for all behaviors; None is no limit."""
        if clusters_max is None or len(self.item) <= clusters_max:
            return self
        places, size = sample_clusters(self.size, clusters_max)
        return replace(
            self,
            item=self.item[places],
            size=size,
            mean_age_s=self.mean_age_s[places],
            strength=self.strength[places],
        )


@dataclass(frozen=True, slots=True)
class History:
    """What a request sees of its user, ids only. Clusters first, then singletons from old to new.

    Axes:
        item, size, age, strength: (C,) catalogue ids, sizes, age and strength bucket ids.
        recent_item, recent_age, recent_strength: (S,) the newest behaviors, from old to new.
        behavior_item, behavior_age, behavior_strength: (L,) likewise, as many as `behaviors_max` allows.
        counted: (K,) what match statistics are computed from.
    """

    item: U32
    size: F32
    age: U8
    strength: U8
    recent_item: U32
    recent_age: U8
    recent_strength: U8
    behavior_item: U32 = field(default_factory=lambda: np.zeros(0, np.uint32))
    behavior_age: U8 = field(default_factory=lambda: np.zeros(0, np.uint8))
    behavior_strength: U8 = field(default_factory=lambda: np.zeros(0, np.uint8))
    counted: ItemCounts = field(default_factory=ItemCounts.empty)


def sample_clusters(size: U32, count: int) -> tuple[I64, U32]:
    """Return which clusters stand for a whole life cycle, rising, and for how many behaviors each: a systematic sample.

    All behaviors in a row, cluster by cluster, are cut into `count` runs of one length, but for rounding; the cluster
    that a run's middle lies in stands for the run. Like clusters lie next to one another, so a run is of like
    behaviors: no interest is left out, and none weighs more than it did. Attention's sums over clusters, n·e^α and
    n·e^α·v, are estimated by those over the sample; the best k clusters (a GSU) would lose the mass of all others.

    Shapes:
        size: (C,) at least 1 each, C > count; returns two of (at most count,), sizes that sum up to the same.
    """
    ends = np.cumsum(size, dtype=np.int64)
    total = int(ends[-1])
    cuts = np.arange(count + 1) * total // count
    places, first_run = np.unique(
        np.searchsorted(ends, (cuts[:-1] + cuts[1:]) // 2, side="right"), return_index=True
    )
    return places, np.diff(np.append(cuts[first_run], total)).astype(np.uint32)


def quantize_strength(strength: npt.ArrayLike) -> U16:
    """Return strengths as the store keeps them; below 0 and NaN become 0, above the range the range's end."""
    raw = np.nan_to_num(np.asarray(strength, np.float64), nan=0.0, posinf=STRENGTH_MAX, neginf=0.0)
    return np.rint(np.clip(raw, 0.0, STRENGTH_MAX) * STRENGTH_SCALE).astype(np.uint16)


def age_buckets(age_s: I64) -> U8:
    """Return bucket ids in [0, AGE_BUCKETS): two buckets an octave, from under 85 s to over 514 days."""
    return np.searchsorted(_AGE_EDGES_S, age_s, side="right").astype(np.uint8)


def strength_buckets(strength: U16) -> U8:
    """Return bucket ids in [0, STRENGTH_BUCKETS): sixteenths up to 1, then up to 19/16 and beyond."""
    return np.searchsorted(_STRENGTH_EDGES, strength, side="right").astype(np.uint8)


def build_history(
    snapshot: Snapshot | None,
    recent: Behaviors,
    *,
    at_ms: int,
    limits: HistoryLimits,
    counts: bool = True,
) -> History:
    """Lay out the history of one request. The only place where this is decided.

    `recent` may be in any order and may hold behaviors that the snapshot already covers, or that lie at or
    after the request: both are left out. Behaviors of equal time keep their order in `recent`. Ages are whole
    seconds at the snapshot and whole seconds since: up to a second less than the age from moment to moment.
    Without `counts`, which only match statistics are computed from, none are laid out.

    Shapes:
        returns: clusters (at most limits.clusters_max, and singletons,), recents (at most limits.recents_max,),
            behaviors (at most limits.behaviors_max,), counted (K + live behaviors,).
    """
    if snapshot is not None and snapshot.at_ms >= at_ms:
        snapshot = None
    if snapshot is not None:
        snapshot = snapshot.sampled(limits.clusters_max)
    live = _between(recent, None if snapshot is None else snapshot.at_ms, at_ms)
    since_s = 0 if snapshot is None else (at_ms - snapshot.at_ms) // 1000

    singles = live.newest(limits.singletons_max)
    item, strength = singles.item, singles.strength
    size, age_s = np.ones(len(singles), np.float32), (at_ms - singles.at_ms) // 1000
    if snapshot is not None and len(singles) == 0:
        item, strength = snapshot.item, snapshot.strength
        size, age_s = snapshot.size.astype(np.float32), snapshot.mean_age_s + np.int64(since_s)
    elif snapshot is not None:
        item = np.concatenate([snapshot.item, item])
        size = np.concatenate([snapshot.size, size], dtype=np.float32, casting="unsafe")
        age_s = np.concatenate([snapshot.mean_age_s + np.int64(since_s), age_s])
        strength = np.concatenate([snapshot.strength, strength])

    newest = live if snapshot is None else snapshot.tail.and_then(live)
    recents, behaviors = newest.newest(limits.recents_max), newest.newest(limits.behaviors_max)
    counted = ItemCounts.empty()
    if counts:
        counted = _counted_once(live, at_ms)
        if snapshot is not None:
            counted = snapshot.counts.later(since_s).and_then(counted)
    return History(
        item=item,
        size=size,
        age=age_buckets(age_s),
        strength=strength_buckets(strength),
        recent_item=recents.item,
        recent_age=age_buckets((at_ms - recents.at_ms) // 1000),
        recent_strength=strength_buckets(recents.strength),
        behavior_item=behaviors.item,
        behavior_age=age_buckets((at_ms - behaviors.at_ms) // 1000),
        behavior_strength=strength_buckets(behaviors.strength),
        counted=counted,
    )


def _between(recent: Behaviors, from_ms: int | None, before_ms: int) -> Behaviors:
    """Return the behaviors of a span of time, oldest first; those of equal time keep their order."""
    if len(recent) == 0:
        return recent
    inside = recent.at_ms < before_ms
    if from_ms is not None:
        inside &= recent.at_ms >= from_ms
    chosen = np.flatnonzero(inside)
    return recent.take(chosen[np.argsort(recent.at_ms[chosen], kind="stable")])


def _counted_once(behaviors: Behaviors, at_ms: int) -> ItemCounts:
    """Return behaviors as counts of one each, at a moment."""
    if len(behaviors) == 0:
        return ItemCounts.empty()
    age_s = (at_ms - behaviors.at_ms) // 1000
    ones = np.ones(len(behaviors), np.uint32)
    return ItemCounts(behaviors.item, ones, age_s, age_s, fade(age_s).astype(np.float32))


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return the store's bytes of a snapshot: a header, then each array whole, little-endian."""
    tail, counts = snapshot.tail, snapshot.counts
    header = _SNAPSHOT_HEADER.pack(
        SNAPSHOT_CODEC_VERSION,
        len(snapshot.item),
        len(tail),
        snapshot.at_ms,
        len(counts),
        len(HALF_LIVES_DAYS),
    )
    return b"".join(
        (
            header,
            tail.at_ms.astype("<i8").tobytes(),
            snapshot.item.astype("<u4").tobytes(),
            snapshot.size.astype("<u4").tobytes(),
            snapshot.mean_age_s.astype("<u4").tobytes(),
            tail.item.astype("<u4").tobytes(),
            counts.item.astype("<u4").tobytes(),
            counts.count.astype("<u4").tobytes(),
            np.clip(counts.age_s, 0, AGE_S_MAX).astype("<u4").tobytes(),
            np.clip(counts.oldest_s, 0, AGE_S_MAX).astype("<u4").tobytes(),
            counts.fading.astype("<f4").tobytes(),
            snapshot.strength.astype("<u2").tobytes(),
            tail.strength.astype("<u2").tobytes(),
        )
    )


def decode_snapshot(blob: bytes) -> Snapshot:
    """Return the snapshot in the store's bytes, as views of them. One of version 1 has no counts.

    Raises:
        BlobError: the version or the number of fading counts is unknown, or the length does not fit the header.
    """
    header = _SNAPSHOT_HEADER_V1 if blob[:1] == b"\x01" else _SNAPSHOT_HEADER
    if len(blob) < header.size:
        raise BlobError(f"history blob of {len(blob)} bytes, expected at least {header.size}")
    version, clusters, tail, at_ms, *counted = header.unpack_from(blob)
    if version > SNAPSHOT_CODEC_VERSION or version == 0:
        raise BlobError(f"history blob of version {version}, this service reads {SNAPSHOT_CODEC_VERSION}")
    counts, half_lives = counted or (0, len(HALF_LIVES_DAYS))
    if half_lives != len(HALF_LIVES_DAYS):
        raise BlobError(
            f"history blob with {half_lives} fading counts, this service reads {len(HALF_LIVES_DAYS)}:"
            " publish the snapshots again"
        )
    expected = header.size + clusters * 14 + tail * 14 + counts * (16 + 4 * len(HALF_LIVES_DAYS))
    if len(blob) != expected:
        raise BlobError(f"history blob of {len(blob)} bytes, its header asks for {expected}")
    offset = header.size

    def take(dtype: str, count: int) -> npt.NDArray[np.generic]:
        nonlocal offset
        view = np.frombuffer(blob, dtype, count, offset)
        offset += view.nbytes
        return view

    tail_at = take("<i8", tail)
    item, size, age = take("<u4", clusters), take("<u4", clusters), take("<u4", clusters)
    tail_item = take("<u4", tail)
    counted_item, count = take("<u4", counts), take("<u4", counts)
    age_s, oldest_s = take("<u4", counts).astype(np.int64), take("<u4", counts).astype(np.int64)
    fading = take("<f4", counts * len(HALF_LIVES_DAYS)).reshape(counts, len(HALF_LIVES_DAYS))
    strength, tail_strength = take("<u2", clusters), take("<u2", tail)
    return Snapshot(
        at_ms,
        item,  # type: ignore[arg-type]
        size,  # type: ignore[arg-type]
        age,  # type: ignore[arg-type]
        strength,  # type: ignore[arg-type]
        Behaviors(tail_at, tail_item, tail_strength),  # type: ignore[arg-type]
        ItemCounts(counted_item, count, age_s, oldest_s, fading),  # type: ignore[arg-type]
    )


def encode_behaviors(behaviors: Behaviors, events: U64) -> bytes:
    """Return behaviors as the store's recent list holds them: packed records, in the order given.

    `events` (L,) are 64-bit hashes of the event ids, by which a behavior sent twice is known.
    """
    records = np.zeros(len(behaviors), BEHAVIOR_DTYPE)
    records["at_ms"], records["item"] = behaviors.at_ms, behaviors.item
    records["strength"], records["event"] = behaviors.strength, events
    return records.tobytes()


def encode_behavior(*, at_ms: int, event: int, item: int, strength: float) -> bytes:
    """Return one behavior as the store's recent list holds it."""
    one = Behaviors(np.array([at_ms]), np.array([item], np.uint32), quantize_strength([strength]))
    return encode_behaviors(one, np.array([event], np.uint64))


def decode_behaviors(blob: bytes) -> Behaviors:
    """Return the behaviors of a recent list, given as one run of packed records.

    Raises:
        BlobError: the length is not a whole number of records.
    """
    if len(blob) % BEHAVIOR_DTYPE.itemsize:
        raise BlobError(
            f"recent list of {len(blob)} bytes is no whole number of {BEHAVIOR_DTYPE.itemsize}-byte records"
        )
    records = np.frombuffer(blob, BEHAVIOR_DTYPE)
    return Behaviors(records["at_ms"], records["item"], records["strength"])
