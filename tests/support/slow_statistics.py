"""Statistics by their definition: from the ages of all behaviors that count, one by one, and nothing clever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from service.contract.features import FeatureEncoder, FeatureSpec
from service.contract.history import ItemCounts
from service.contract.popularity import Popularity, PopularityLevel, pair_keys
from service.contract.statistics import Counted

DAY_S = 86_400
RELATIVE_TOLERANCE = 1e-6
"""Fading counts are stored in single precision, and sums are taken in another order here."""


def statistics_of(ages_s: Sequence[int]) -> dict[str, float | None]:
    """Return each statistic, from the ages in seconds of what counts; None is unknown."""
    days = [age_s / DAY_S for age_s in ages_s]
    count = len(days)
    gap = (max(days) - min(days)) / (count - 1) if count > 1 else None
    return {
        "count": float(count),
        "days": min(days) if days else None,
        "fading_4d": sum(0.5 ** (day / 4) for day in days) if days else None,
        "fading_14d": sum(0.5 ** (day / 14) for day in days) if days else None,
        "fading_56d": sum(0.5 ** (day / 56) for day in days) if days else None,
        "gap": gap,
        "due": None if gap is None else min(days) / max(gap, 0.25),
    }


STATISTICS = tuple(statistics_of(()))
FADING = ("fading_4d", "fading_14d", "fading_56d")


def dense(counted: Counted, rows: int, levels: int) -> np.ndarray:
    """Return what was counted as (rows, levels, STATISTICS); where nothing was, the count is 0 and all else NaN."""
    out = np.full((rows, levels, len(STATISTICS)), np.nan)
    out[..., STATISTICS.index("count")] = 0.0
    for place, name in enumerate(STATISTICS):
        out[counted.row, counted.level, place] = counted.of(name)
    return out


def level_and_statistic(feature: FeatureSpec) -> tuple[str, str]:
    """Return what a feature of statistics is of, by its name."""
    name = feature.name.removeprefix(f"{feature.side.value}_")
    statistic = next(statistic for statistic in STATISTICS if name.endswith(f"_{statistic}"))
    return name.removesuffix(f"_{statistic}"), statistic


def ids_of(feature: FeatureSpec, ages_s: Sequence[int]) -> set[int]:
    """Return the ids that a feature may have: one, or two where its value lies on a boundary but for rounding."""
    value = statistics_of(ages_s)[level_and_statistic(feature)[1]]
    if value is None or value == round(value):
        return {FeatureEncoder(feature).encode(value)}
    near = (value * (1 - RELATIVE_TOLERANCE), value, value * (1 + RELATIVE_TOLERANCE))
    return {FeatureEncoder(feature).encode(one) for one in near}


def counts_of(entries: Sequence[tuple[int, Sequence[int]]]) -> ItemCounts:
    """Return the counts of (item, ages in seconds of its behaviors), an entry each."""
    fading = [[statistics_of(ages_s)[name] or 0.0 for name in FADING] for _, ages_s in entries]
    return ItemCounts(
        np.array([item for item, _ in entries], np.uint32),
        np.array([len(ages_s) for _, ages_s in entries], np.uint32),
        np.array([min(ages_s) for _, ages_s in entries], np.int64),
        np.array([max(ages_s) for _, ages_s in entries], np.int64),
        np.array(fading, np.float32).reshape(-1, len(FADING)),
    )


def popularity_of(
    ages_s: Mapping[int, Mapping[str, Sequence[int]]], *, at_ms: int, context: str = "store"
) -> Popularity:
    """Return the table of what everyone did, item -> value of a context feature -> ages at the cut."""
    stores = tuple(sorted({store for of_store in ages_s.values() for store in of_store}))
    items = [
        (_key(item, 0), [age_s for of_store in by_store.values() for age_s in of_store])
        for item, by_store in ages_s.items()
    ]
    pairs = [
        (_key(item, stores.index(store)), of_store)
        for item, by_store in ages_s.items()
        for store, of_store in by_store.items()
    ]
    return Popularity(
        at_ms, {"item_id": _popularity_level(items, ()), context: _popularity_level(pairs, stores)}
    )


def _key(item: int, position: int) -> int:
    return int(pair_keys(np.array([item], np.uint32), position)[0])


def _popularity_level(entries: list[tuple[int, list[int]]], values: tuple[str, ...]) -> PopularityLevel:
    entries = sorted((key, list(ages_s)) for key, ages_s in entries)
    counts = counts_of([(0, ages_s) for _, ages_s in entries])
    keys = np.array([key for key, _ in entries], np.int64)
    return PopularityLevel(keys, counts.count, counts.age_s, counts.oldest_s, counts.fading, values)
