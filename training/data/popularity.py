"""What everyone took to before a moment, counted from a dataset's behaviors: the contract's popularity tables.

A behavior has the context of its user's exposures at its time; without any it counts for the item alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl

from service.contract.features import Side
from service.contract.history import I64
from service.contract.match import ITEM
from service.contract.popularity import DAY_MS, Popularity, PopularityLevel, pair_keys
from service.contract.statistics import HALF_LIVES_DAYS, fade
from training.data.dataset import Dataset

_TABLES_KEPT = 4


def popularity_levels(dataset: Dataset) -> tuple[str, ...]:
    """Return the levels that a dataset has: the item, and the item in each categorical context feature."""
    contexts = [f.name for f in dataset.spec.features_of(Side.CONTEXT) if f.kind == "categorical"]
    return (ITEM, *contexts)


class PopularityCounts:
    """Popularity tables of a dataset at any moment."""

    def __init__(self, dataset: Dataset, levels: Sequence[str], item_rows: I64) -> None:
        """`item_rows` (L,) are the item rows of the dataset's behaviors, in their order."""
        at_ms = dataset.behaviors["at_ms"].to_numpy().astype(np.int64)
        order = np.argsort(at_ms, kind="stable")
        self.levels = tuple(levels)
        contexts = [level for level in self.levels if level != ITEM]
        values = _contexts_of_behaviors(dataset, contexts)
        self._counting: dict[str, _Counting] = {}
        for level in self.levels:
            texts = () if level == ITEM else tuple(sorted(values[level].drop_nulls().unique().to_list()))
            position = np.zeros(len(at_ms), np.int64) if level == ITEM else positions_of(values[level], texts)
            self._counting[level] = _Counting(at_ms[order], item_rows[order], position[order], texts)
        self._cached = lru_cache(_TABLES_KEPT)(self._table_at)

    def values_of(self, level: str) -> tuple[str, ...]:
        """Return the context values of a level, in the order of their positions."""
        return self._counting[level].values

    def table_at(self, at_ms: int) -> Popularity:
        """Return what was counted strictly before a moment. Items are item rows."""
        return self._cached(at_ms)

    def _table_at(self, at_ms: int) -> Popularity:
        return Popularity(at_ms, {name: counting.at(at_ms) for name, counting in self._counting.items()})


class _Counting:
    """One level, counted up to a moment; going back in time begins anew, to the very same numbers."""

    def __init__(self, at_ms: I64, item: I64, position: I64, values: tuple[str, ...]) -> None:
        counted = position >= 0
        self._at_ms = at_ms[counted]
        self._keys, self._pair = np.unique(pair_keys(item[counted], position[counted]), return_inverse=True)
        self.values = values
        # In proportion to their weight at the data's start, so that counting on never scales what was counted.
        self._start_ms = int(self._at_ms[0]) if len(self._at_ms) else 0
        half_lives_ms = np.array(HALF_LIVES_DAYS) * DAY_MS
        self._weight = np.exp2((self._at_ms - self._start_ms)[:, None] / half_lives_ms)
        self._first_ms = np.zeros(len(self._keys), np.int64)
        self._first_ms[self._pair[::-1]] = self._at_ms[::-1]  # the oldest is written last
        self._begin()

    def _begin(self) -> None:
        pairs = len(self._keys)
        self._done = 0
        self._count = np.zeros(pairs, np.int64)
        self._last_ms = np.zeros(pairs, np.int64)
        self._sum = np.zeros((len(HALF_LIVES_DAYS), pairs))

    def at(self, at_ms: int) -> PopularityLevel:
        """Return the level as counted strictly before a moment."""
        stop = int(np.searchsorted(self._at_ms, at_ms, side="left"))
        if stop < self._done:
            self._begin()
        new = slice(self._done, stop)
        pair = self._pair[new]
        np.add.at(self._count, pair, 1)
        self._last_ms[pair] = self._at_ms[new]  # in order of time: the newest is written last
        for sums, weight in zip(self._sum, self._weight[new].T, strict=True):
            np.add.at(sums, pair, weight)
        self._done = stop
        known = np.flatnonzero(self._count)
        return PopularityLevel(
            self._keys[known],
            self._count[known].astype(np.uint32),
            (at_ms - self._last_ms[known]) // 1000,
            (at_ms - self._first_ms[known]) // 1000,
            (self._sum[:, known].T * fade((at_ms - self._start_ms) / 1000)).astype(np.float32),
            self.values,
        )


def positions_of(column: pl.Series, values: tuple[str, ...]) -> I64:
    """Return each text's position among rising values, -1 for null and for what is not among them."""
    known = pl.DataFrame({"value": pl.Series(values, dtype=pl.String)}).with_row_index("position")
    joined = column.alias("value").to_frame().join(known, on="value", how="left", maintain_order="left")
    return joined["position"].cast(pl.Int64).fill_null(-1).to_numpy()


def _contexts_of_behaviors(dataset: Dataset, contexts: Sequence[str]) -> pl.DataFrame:
    visits = dataset.exposures.select("user_id", pl.col("shown_at_ms").alias("at_ms"), *contexts)
    visits = visits.unique(["user_id", "at_ms"], keep="first", maintain_order=True)
    return dataset.behaviors.select("user_id", "at_ms").join(
        visits, on=["user_id", "at_ms"], how="left", maintain_order="left"
    )
