"""What counting costs a request: match statistics and popularity of made-up behaviors, by the contract's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from benchmarks.made_up_request import BEHAVIORS_COUNT, ITEMS_COUNT, Request, features
from service.contract.features import Side
from service.contract.history import ItemCounts
from service.contract.match import MatchTable, match_keys
from service.contract.popularity import Popularity, PopularityLevel, pair_keys
from service.contract.statistics import HALF_LIVES_DAYS, StatisticsEncoder, level_of

STORES_COUNT: Final = 50
PAIRS_COUNT: Final = 100_000
AGE_MAX_S: Final = 30_000_000


def counting_calls(request: Request, rng: np.random.Generator) -> dict[str, Callable[[Request], object]]:
    """Return, by name, what is done of a request before its graph runs: counting, and turning counts into ids."""
    specs = features()
    encoders = {
        side: StatisticsEncoder([f for f in specs if f.side is side])
        for side in (Side.MATCH, Side.POPULARITY)
    }
    item_features = [f for f in specs if f.side is Side.ITEM]
    item_ids = np.stack([rng.integers(0, f.encoder.ids_count, ITEMS_COUNT) for f in item_features], 1)
    keys = match_keys(encoders[Side.MATCH].levels, item_ids, [f.name for f in item_features])
    table = MatchTable(keys)
    counted = _counted(np.unique(request.history.behavior_item), rng)
    popularity = _popularity(encoders[Side.POPULARITY].levels, rng)

    def match(of: Request) -> object:
        found = table.counted(counted.item.astype(np.int32), counted, of.item.astype(np.int32))
        return encoders[Side.MATCH].encode(found, rows_count=len(of.item))

    def popular(of: Request) -> object:
        levels = encoders[Side.POPULARITY].levels
        found = popularity.counted(levels, of.item, dict.fromkeys(levels, "7"), 3_600_000)
        return encoders[Side.POPULARITY].encode(found, rows_count=len(of.item))

    return {"match": match, "popularity": popular}


def match_levels_count() -> int:
    """Return how many numbers the match statistics store per item."""
    return len({level_of(f) for f in features() if f.side is Side.MATCH})


def _counted(items: np.ndarray[tuple[int], np.dtype[np.uint32]], rng: np.random.Generator) -> ItemCounts:
    """Return a life cycle of BEHAVIORS_COUNT behaviors or more, counted by item."""
    assert len(items) <= BEHAVIORS_COUNT
    newest_s = rng.integers(0, AGE_MAX_S // 2, len(items))
    return ItemCounts(
        item=items,
        count=rng.integers(1, 20, len(items)).astype(np.uint32),
        age_s=newest_s,
        oldest_s=newest_s + rng.integers(0, AGE_MAX_S // 2, len(items)),
        fading=rng.random((len(items), len(HALF_LIVES_DAYS))).astype(np.float32),
    )


def _popularity(levels: tuple[str, ...], rng: np.random.Generator) -> Popularity:
    """Return a table in which every item is counted, and some in each store."""
    values = tuple(sorted(str(store) for store in range(STORES_COUNT)))
    items = np.arange(1, ITEMS_COUNT, dtype=np.int64)
    pairs = np.unique(
        pair_keys(rng.integers(1, ITEMS_COUNT, PAIRS_COUNT), rng.integers(0, STORES_COUNT, PAIRS_COUNT))
    )
    return Popularity(
        0,
        {
            level: PopularityLevel(
                keys=keys,
                count=rng.integers(1, 500, len(keys)).astype(np.uint32),
                age_s=(newest_s := rng.integers(0, AGE_MAX_S // 2, len(keys))),
                oldest_s=newest_s + AGE_MAX_S // 2,
                fading=rng.random((len(keys), len(HALF_LIVES_DAYS))).astype(np.float32),
                values=() if level == "item_id" else values,
            )
            for level, keys in zip(levels, (items, pairs), strict=True)
        },
    )
