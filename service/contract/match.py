"""Match statistics: how often, and how long ago, a life cycle had a candidate, or something like it.

Softmax attention and clusters blur what counting keeps: that this user bought this very product seven times,
the last time twelve days ago. For each *level* (the candidate itself, one of its features such as its type or
maker, or anything at all) a request has the statistics of the behaviors that share the candidate's value there.

They are computed by `MatchTable` from one exact table, bounded in the snapshot, and the live behaviors
since. Training and serving both call it; nothing else computes them. Knows nothing of stores and of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from service.contract.history import ItemCounts
from service.contract.statistics import F64, Counted

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

ANY: Final = "any"
"""The level at which every behavior matches every candidate: the length and freshness of a life cycle."""

ITEM: Final = "item_id"
"""The level of the candidate itself, known to the vocabulary or not."""


def match_keys(levels: Sequence[str], item_ids: npt.NDArray[np.integer], item_features: Sequence[str]) -> I32:
    """Return, for every item row and level, what must be equal to match, (I, K); 0 never matches.

    Each level has keys of its own, from 1 on one after the other: one for `ANY`, the rows themselves for `ITEM`, else
    the ids of that feature of the item.

    Shapes:
        item_ids: (I, F) ids of the item's features, in the order of `item_features`; row 0 is the cold-start item.
    """
    keys = np.zeros((len(item_ids), len(levels)), np.int32)
    before = 0
    for column, level in enumerate(levels):
        own = _own_keys(level, item_ids, item_features, rows=np.arange(len(item_ids)))
        keys[:, column] = np.where(own > 0, own + before, 0)
        before += int(own.max(initial=0))
    return keys


def match_key_ends(keys: I32) -> tuple[int, ...]:
    """Return the last key of each level, (K,): what `new_item_keys` must know of all items. Reads every row."""
    return tuple(np.maximum.accumulate(keys.max(axis=0, initial=0)).tolist())


def new_item_keys(
    levels: Sequence[str],
    item_ids: npt.NDArray[np.integer],
    item_features: Sequence[str],
    *,
    ends: Sequence[int],
) -> I32:
    """Return the keys of items without a row, (P, K), among those of `match_keys`.

    As a candidate such an item matches by its features what an item with a row would; as `ITEM` it matches nothing.

    Shapes:
        item_ids: (P, F) ids of the items' features, in the order of `item_features`; ends: (K,).
    """
    keys = np.zeros((len(item_ids), len(levels)), np.int32)
    before = 0
    for column, (level, end) in enumerate(zip(levels, ends, strict=True)):
        own = _own_keys(level, item_ids, item_features, rows=np.zeros(len(item_ids), np.int64))
        # An id that no item has is past the level's end: a key of the next level.
        keys[:, column] = np.where((own > 0) & (own + before <= end), own + before, 0)
        before = end
    return keys


def _own_keys(
    level: str, item_ids: npt.NDArray[np.integer], item_features: Sequence[str], *, rows: I64
) -> I64:
    """Return items' keys within a level, from 1 on; 0 never matches."""
    if level == ANY:
        return np.ones(len(item_ids), np.int64)
    return rows if level == ITEM else item_ids[:, item_features.index(level)].astype(np.int64)


class MatchTable:
    """Every item's keys, and the statistics of what matches them. For one thread: it keeps a place to write in."""

    def __init__(self, keys: I32) -> None:
        """`keys` are as `match_keys` gives them, (I, K)."""
        self._keys = keys
        self._place_of_key: I32 | None = None

    def counted(
        self,
        history_rows: I32 | I64,
        counts: ItemCounts,
        rows: I32 | I64,
        *,
        own_keys: tuple[I64, I32] | None = None,
    ) -> Counted:
        """Return the statistics of the behaviors that match each candidate at each level.

        Shapes:
            history_rows: (H,) item rows of the entries of `counts`; rows: (N,) item rows of the candidates.
            own_keys: places among the candidates, (P,), and keys (P, K) that go before those of their rows.
        """
        levels = self._keys.shape[1]
        wanted = self._keys.take(rows, axis=0)
        if own_keys is not None:
            places, keys = own_keys
            wanted[places] = keys
        wanted = wanted.reshape(-1)  # (N * K,)
        if len(history_rows) == 0 or len(wanted) == 0:
            return Counted.nothing()
        held = self._keys.take(history_rows, axis=0).reshape(-1)  # (H * K,)
        # One place for each key that is held: that of the last of its entries. The table is never cleaned: a place
        # from an earlier request is known by the key that stands there now.
        if self._place_of_key is None:
            self._place_of_key = np.zeros(int(self._keys.max()) + 1, np.int32)
        self._place_of_key[held] = np.arange(len(held), dtype=np.int32)
        place = np.minimum(self._place_of_key.take(wanted), len(held) - 1)
        known = np.flatnonzero((held.take(place) == wanted) & (wanted > 0))
        place = place.take(known)
        group = self._place_of_key.take(held)
        entry = np.repeat(np.arange(len(history_rows)), levels)

        summed = np.concatenate(
            [counts.count[:, None], counts.fading], axis=1, dtype=np.float64
        )  # (H, 1 + .)
        parts = summed.shape[1]
        cells = group[:, None].astype(np.int64) * parts + np.arange(parts)
        totals: F64 = np.bincount(
            cells.reshape(-1), summed.take(entry, axis=0).reshape(-1), len(held) * parts
        ).astype(np.float64, copy=False)
        sums = totals.reshape(-1, parts).take(place, axis=0)
        newest_s = np.full(len(held), np.iinfo(np.int64).max)
        oldest_s = np.zeros(len(held), np.int64)
        np.minimum.at(newest_s, group, counts.age_s.take(entry))
        np.maximum.at(oldest_s, group, counts.oldest_s.take(entry))
        return Counted(
            row=known // levels,
            level=known % levels,
            count=sums[:, 0],
            age_s=newest_s.take(place),
            oldest_s=oldest_s.take(place),
            fading=sums[:, 1:],
        )
