"""Events to the store: behaviors to their users' recent lists; impressions and labels are only counted yet.

Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
import xxhash

from service.contract.history import UNKNOWN_ITEM, Behaviors, encode_behaviors, quantize_strength
from service.events.decode import BehaviorEvent, Event, ImpressionEvent
from service.guarded_store import GuardedStore
from service.models.live import Serving

REJECTIONS_MAX: Final = 20

USERS_AT_ONCE_COUNT: Final = 16
"""Calls under way together: each one's deadline runs while it waits for a connection."""


@dataclass(slots=True)
class Accepted:
    """What became of a batch of events. `rejections` are the first few: index in the batch, and reason."""

    behaviors_count: int = 0
    duplicates_count: int = 0
    dropped_count: int = 0
    unknown_items_count: int = 0
    impressions_count: int = 0
    labels_count: int = 0
    rejected_count: int = 0
    rejections: list[tuple[int, str]] = field(default_factory=list)


async def accept_events(
    events: Sequence[Event],
    *,
    serving: Serving,
    store: GuardedStore,
    now_ms: int,
    future_skew_max_ms: int,
    recent_max_count: int,
) -> Accepted:
    """Append behaviors, one call a user, and count the rest. Returns when the next /score sees them.

    A behavior of an item that the catalogue lacks is kept as the unknown item: that it happened counts.

    Raises:
        StoreUnavailable: some may be stored; sending all again is harmless.
    """
    accepted = Accepted()
    by_user: dict[str, list[BehaviorEvent]] = {}
    for i, event in enumerate(events):
        if event.at_ms is not None and event.at_ms > now_ms + future_skew_max_ms:
            accepted.rejected_count += 1
            if len(accepted.rejections) < REJECTIONS_MAX:
                accepted.rejections.append((i, "at_ms lies in the future"))
        elif isinstance(event, BehaviorEvent):
            by_user.setdefault(str(event.user_id), []).append(event)
        elif isinstance(event, ImpressionEvent):
            accepted.impressions_count += 1
        else:
            accepted.labels_count += 1

    item_ids = [str(behavior.item_id) for behaviors in by_user.values() for behavior in behaviors]
    catalogue_ids = dict(zip(item_ids, serving.catalogue.ids_of(item_ids).tolist(), strict=True))

    async def append(user_id: str, behaviors: list[BehaviorEvent]) -> Counter[str]:
        items = [catalogue_ids[str(behavior.item_id)] for behavior in behaviors]
        result = await store.append_behaviors(
            user_id,
            _pack(behaviors, items, now_ms),
            cap=recent_max_count,
            keep_from_ms=serving.covered_until_ms(),
        )
        return Counter(
            appended=result.appended_count,
            duplicates=result.duplicates_count,
            dropped=result.dropped_count,
            unknown=items.count(UNKNOWN_ITEM),
        )

    total: Counter[str] = Counter()
    waiting = iter(by_user.items())
    while batch := list(islice(waiting, USERS_AT_ONCE_COUNT)):
        for counts in await asyncio.gather(*(append(user, behaviors) for user, behaviors in batch)):
            total.update(counts)
    accepted.behaviors_count, accepted.duplicates_count = total["appended"], total["duplicates"]
    accepted.dropped_count, accepted.unknown_items_count = total["dropped"], total["unknown"]
    return accepted


def _pack(behaviors: Sequence[BehaviorEvent], items: Sequence[int], now_ms: int) -> bytes:
    times = [now_ms if behavior.at_ms is None else behavior.at_ms for behavior in behaviors]
    events = [xxhash.xxh3_64_intdigest(str(behavior.event_id).encode()) for behavior in behaviors]
    return encode_behaviors(
        Behaviors(
            np.array(times, np.int64),
            np.array(items, np.uint32),
            quantize_strength([behavior.strength for behavior in behaviors]),
        ),
        np.array(events, np.uint64),
    )
