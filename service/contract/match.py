"""Match statistics: how often, and how long ago, a life cycle had a candidate, or something like it.

Softmax attention and clusters blur what counting keeps: that this user bought this very product seven times,
the last time twelve days ago. For each *level* (the candidate itself, one of its features such as its type or
maker, or anything at all) a request has two numbers per candidate: how many behaviors share the candidate's
value there, and the age of the newest of them.

They are computed by `match_statistics` from one exact table, bounded in the snapshot, and the live behaviors
since. Training and serving both call it; nothing else computes them. Knows nothing of stores and of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from service.contract.features import BucketEncoder, FeatureSpec, Side
from service.contract.history import I64, U32, ItemCounts

I32 = npt.NDArray[np.int32]

ANY: Final = "any"
"""The level at which every behavior matches every candidate: the length and freshness of a life cycle."""

NEVER_S: Final = -1
"""The age where nothing matches."""

_COUNT: Final = "count"
_DAYS: Final = "days"
_SECONDS_PER_DAY: Final = 86_400.0

_COUNT_BOUNDARIES: Final = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    9,
    11,
    14,
    17,
    21,
    26,
    33,
    46,
    65,
    91,
    129,
    182,
    257,
    363,
    513,
)
_LONG_COUNT_BOUNDARIES: Final = tuple(round(513 * 2 ** (i / 2)) for i in range(1, 15))
_DAYS_BOUNDARIES: Final = tuple(round(2 ** (i / 4), 4) for i in range(-8, 42))
"""Whole counts up to 7, then two to four buckets an octave; days from a quarter of one to over three years."""


def match_features(levels: Sequence[str]) -> tuple[FeatureSpec, ...]:
    """Return the two features of each level, in the order in which `MatchEncoder` gives their ids."""
    counts = BucketEncoder(boundaries=tuple(map(float, _COUNT_BOUNDARIES + _LONG_COUNT_BOUNDARIES)))
    days = BucketEncoder(boundaries=_DAYS_BOUNDARIES)
    return tuple(
        FeatureSpec(name=f"match_{level}_{statistic}", side=Side.MATCH, encoder=encoder)
        for level in levels
        for statistic, encoder in ((_COUNT, counts), (_DAYS, days))
    )


def level_of(feature: FeatureSpec) -> str:
    """Return the level of a match feature."""
    return feature.name.removeprefix("match_").rpartition("_")[0]


def match_keys(levels: Sequence[str], item_ids: npt.NDArray[np.integer], item_features: Sequence[str]) -> I32:
    """Return, for every item row and level, what must be equal to match, (I, K); 0 never matches.

    Level by level: the row itself, the id of one of the item's features, or 1 for `ANY`.

    Shapes:
        item_ids: (I, F) ids of the item's features, in the order of `item_features`; row 0 is the cold-start item.
    """
    columns: list[npt.NDArray[np.integer]] = []
    for level in levels:
        if level == ANY:
            columns.append(np.ones(len(item_ids), np.int32))
        elif level == "item_id":
            columns.append(np.arange(len(item_ids)))
        else:
            columns.append(item_ids[:, item_features.index(level)])
    keys = np.stack(columns, axis=1) if columns else np.zeros((len(item_ids), 0))
    return np.ascontiguousarray(keys, np.int32)


def match_statistics(history_keys: I32, counts: U32, age_s: I64, candidate_keys: I32) -> tuple[I64, I64]:
    """Return how many behaviors match each candidate at each level, and the age of the newest of them.

    Shapes:
        history_keys: (H, K); counts, age_s: (H,) behaviors of an entry, and the age of its newest in seconds.
        candidate_keys: (N, K); returns (N, K) counts and (N, K) ages in seconds, NEVER_S where nothing matches.
    """
    levels = candidate_keys.shape[1]
    if len(history_keys) == 0 or levels == 0:
        return np.zeros(candidate_keys.shape, np.int64), np.full(candidate_keys.shape, NEVER_S, np.int64)
    level = np.arange(levels, dtype=np.int64) << 32
    # Oldest first within a key, so that the last of a key's run is the newest.
    by_age = np.argsort(-age_s, kind="stable")
    line = (history_keys[by_age] + level).T.ravel()
    order = np.argsort(line, kind="stable")
    line = line[order]
    entry = by_age[order % len(by_age)]
    total = np.concatenate([[0], np.cumsum(counts[entry], dtype=np.int64)])
    asked = (candidate_keys + level).ravel()
    first, last = np.searchsorted(line, asked, side="left"), np.searchsorted(line, asked, side="right")
    known = (last > first) & (candidate_keys.ravel() > 0)
    count = np.where(known, total[last] - total[first], 0)
    age = np.where(known, age_s[entry[np.maximum(last, 1) - 1]], NEVER_S)
    return count.reshape(candidate_keys.shape), age.reshape(candidate_keys.shape)


def unmatched_ids(features: Sequence[FeatureSpec]) -> I64:
    """Return the ids of a candidate that no behavior matches, (features,)."""
    encoder = MatchEncoder(features)
    nothing = np.zeros((1, len(encoder.levels)), np.int64)
    ids: I64 = encoder.encode(nothing, nothing + NEVER_S)[0]
    return ids


class MatchEncoder:
    """Turns a request's match statistics into ids, (N, 2 levels), for the features it was made for."""

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        """`features` are the model's features of side MATCH, in the order of their columns."""
        self.levels = tuple(dict.fromkeys(level_of(feature) for feature in features))
        self._columns = [(self.levels.index(level_of(f)), f.name.endswith(_COUNT)) for f in features]
        self._boundaries = [
            np.array(f.encoder.boundaries if isinstance(f.encoder, BucketEncoder) else (), np.float64)
            for f in features
        ]

    def ids(self, keys: I32, counted: ItemCounts, *, counted_rows: I64, candidate_rows: I64) -> I64:
        """Return the ids of each candidate's statistics.

        Shapes:
            keys: (I, K) as `match_keys` gives them for this encoder's levels.
            counted_rows: (H,) item rows of what was counted; candidate_rows: (N,); returns (N, features).
        """
        count, age_s = match_statistics(
            keys[counted_rows], counted.count, counted.age_s, keys[candidate_rows]
        )
        return self.encode(count, age_s)

    def encode(self, count: I64, age_s: I64) -> I64:
        """Return the ids of statistics (N, levels); an age where nothing matches is unknown."""
        out = np.empty((len(count), len(self._columns)), np.int64)
        for i, ((level, is_count), boundaries) in enumerate(
            zip(self._columns, self._boundaries, strict=True)
        ):
            if is_count:
                out[:, i] = np.searchsorted(boundaries, count[:, level], side="right") + 1
            else:
                ids = np.searchsorted(boundaries, age_s[:, level] / _SECONDS_PER_DAY, side="right") + 1
                out[:, i] = np.where(age_s[:, level] == NEVER_S, 0, ids)
        return out
