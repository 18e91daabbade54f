"""Match statistics: how often, and how long ago, a life cycle had a candidate, or something like it.

Softmax attention and clusters blur what counting keeps: that this user bought this very product seven times,
the last time twelve days ago. For each *level* (the candidate itself, one of its features such as its type or
maker, or anything at all) a request has the statistics of the behaviors that share the candidate's value there.

They are computed by `match_statistics` from one exact table, bounded in the snapshot, and the live behaviors
since. Training and serving both call it; nothing else computes them. Knows nothing of stores and of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from service.contract.history import ItemCounts
from service.contract.statistics import (
    COUNT,
    DAYS,
    F64,
    FADING_COLUMNS,
    SECONDS_PER_DAY,
    STATISTICS,
    nothing_counted,
    with_gaps,
)

I32 = npt.NDArray[np.int32]

ANY: Final = "any"
"""The level at which every behavior matches every candidate: the length and freshness of a life cycle."""

ITEM: Final = "item_id"
"""The level of the candidate itself, known to the vocabulary or not."""


def match_keys(levels: Sequence[str], item_ids: npt.NDArray[np.integer], item_features: Sequence[str]) -> I32:
    """Return, for every item row and level, what must be equal to match, (I, K); 0 never matches.

    Level by level: 1 for `ANY`, the row itself for `ITEM`, else the id of that feature of the item.

    Shapes:
        item_ids: (I, F) ids of the item's features, in the order of `item_features`; row 0 is the cold-start item.
    """
    columns: list[npt.NDArray[np.integer]] = []
    for level in levels:
        if level == ANY:
            columns.append(np.ones(len(item_ids), np.int32))
        elif level == ITEM:
            columns.append(np.arange(len(item_ids)))
        else:
            columns.append(item_ids[:, item_features.index(level)])
    keys = np.stack(columns, axis=1) if columns else np.zeros((len(item_ids), 0))
    return np.ascontiguousarray(keys, np.int32)


def match_statistics(history_keys: I32, counted: ItemCounts, candidate_keys: I32) -> F64:
    """Return the statistics of the behaviors that match each candidate at each level, (N, K, STATISTICS).

    Shapes:
        history_keys: (H, K) of the entries of `counted`; candidate_keys: (N, K).
    """
    levels = candidate_keys.shape[1]
    out = nothing_counted(len(candidate_keys), levels)
    if len(history_keys) == 0 or levels == 0:
        return out
    level = np.arange(levels, dtype=np.int64) << 32
    line = (history_keys + level).T.ravel()
    order = np.argsort(line, kind="stable")
    entry = order % len(history_keys)
    starts = np.flatnonzero(np.diff(line[order], prepend=-1))
    keys = line[order[starts]]
    asked = (candidate_keys + level).ravel()
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    known = np.flatnonzero((keys[place] == asked) & (candidate_keys.ravel() > 0))
    place = place[known]
    flat = out.reshape(-1, len(STATISTICS))
    flat[known, STATISTICS.index(COUNT)] = np.add.reduceat(counted.count[entry], starts, dtype=np.int64)[
        place
    ]
    newest_s = np.minimum.reduceat(counted.age_s[entry], starts)
    flat[known, STATISTICS.index(DAYS)] = newest_s[place] / SECONDS_PER_DAY
    fading = np.add.reduceat(counted.fading[entry], starts, axis=0, dtype=np.float64)
    flat[known, FADING_COLUMNS] = fading[place]
    oldest_days = np.zeros(len(flat))
    oldest_days[known] = np.maximum.reduceat(counted.oldest_s[entry], starts)[place] / SECONDS_PER_DAY
    with_gaps(flat, oldest_days)
    return out
