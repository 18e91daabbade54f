"""Popularity: how often, and how long ago, anybody took to an item, and did so in this context (in this store).

Counted over everyone's behaviors up to a cut, published beside the snapshots of life cycles, and read with the
age that it has at the request. In training each exposure sees the table cut at the last midnight (UTC) before
it; publish daily, and serving sees the same. Levels: the item, and the item in each categorical feature of the
request's context. Knows nothing of stores and of models.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final
from zipfile import BadZipFile

import numpy as np

from service.contract.errors import BlobError
from service.contract.features import RawValue, canonical_text
from service.contract.history import F32, I64, U32
from service.contract.match import ITEM
from service.contract.statistics import (
    COUNT,
    DAYS,
    F64,
    FADING_COLUMNS,
    HALF_LIVES_DAYS,
    SECONDS_PER_DAY,
    STATISTICS,
    fade,
    nothing_counted,
    with_gaps,
)

DAY_MS: Final = 86_400_000


def cut_before_ms(at_ms: I64) -> I64:
    """Return the last midnight (UTC) at or before some moments."""
    return at_ms - at_ms % DAY_MS


@dataclass(frozen=True, slots=True)
class PopularityLevel:
    """The counted items, or pairs of item and context value, of one level.

    Axes:
        keys: (P,) rising, catalogue id (below 2^31) << 32 | position of the context value; position 0 at the level of
        the item.
        count: (P,); age_s, oldest_s: (P,) ages of the newest and the oldest behavior at the cut;
        fading: (P, half-lives) at the cut.
        values: texts of the context's values, rising; empty at the level of the item.
    """

    keys: I64
    count: U32
    age_s: I64
    oldest_s: I64
    fading: F32
    values: tuple[str, ...] = ()

    def take(self, places: I64) -> PopularityLevel:
        """Return the level with the keys at some places only, in that order."""
        return PopularityLevel(
            self.keys[places],
            self.count[places],
            self.age_s[places],
            self.oldest_s[places],
            self.fading[places],
            self.values,
        )


@dataclass(frozen=True)
class Popularity:
    """Everyone's behaviors before `at_ms`, counted level by level."""

    at_ms: int
    levels: Mapping[str, PopularityLevel]

    def statistics(
        self, levels: Sequence[str], items: U32, context: Mapping[str, RawValue], at_ms: int
    ) -> F64:
        """Return the statistics of items in one request's context, (N, levels, STATISTICS).

        A moment before the cut is read as the cut: ages are never negative.

        Shapes:
            items: (N,) catalogue ids.
        """
        passed_s = np.full(len(items), max(0, at_ms - self.at_ms) // 1000)
        values = {
            level: np.full(len(items), self._position(level, context.get(level)))
            for level in levels
            if level != ITEM
        }
        return self.statistics_of_rows(levels, items, values, passed_s)

    def statistics_of_rows(
        self, levels: Sequence[str], items: U32, values: Mapping[str, I64], passed_s: I64
    ) -> F64:
        """Return the statistics of rows, each with a context of its own, (N, levels, STATISTICS).

        Shapes:
            items, passed_s: (N,) catalogue ids, seconds since the cut; values: (N,) positions per context level,
            -1 for a value that was never counted.
        """
        out = nothing_counted(len(items), len(levels))
        for number, name in enumerate(levels):
            level = self.levels.get(name)
            if level is None or len(level.keys) == 0:
                continue
            position = np.zeros(len(items), np.int64) if name == ITEM else values[name]
            asked = items.astype(np.int64) << 32 | np.maximum(position, 0)
            place = np.minimum(np.searchsorted(level.keys, asked), len(level.keys) - 1)
            known = np.flatnonzero((level.keys[place] == asked) & (position >= 0) & (items > 0))
            place = place[known]
            passed = passed_s[known]
            mine = nothing_counted(len(known), 1)[:, 0]
            mine[:, STATISTICS.index(COUNT)] = level.count[place]
            mine[:, STATISTICS.index(DAYS)] = (level.age_s[place] + passed) / SECONDS_PER_DAY
            mine[:, FADING_COLUMNS] = level.fading[place] * fade(passed)
            with_gaps(mine, (level.oldest_s[place] + passed) / SECONDS_PER_DAY)
            out[known, number] = mine
        return out

    def _position(self, level: str, value: RawValue) -> int:
        known = self._positions.get(level)
        return -1 if known is None or value is None else known.get(canonical_text(value), -1)

    @cached_property
    def _positions(self) -> dict[str, dict[str, int]]:
        return {
            name: {value: i for i, value in enumerate(level.values)} for name, level in self.levels.items()
        }

    def of_items(self, items: U32) -> Popularity:
        """Return what is counted of some items only: what a golden request carries."""
        wanted = np.unique(items).astype(np.int64)
        return Popularity(
            self.at_ms,
            {
                name: level.take(np.flatnonzero(np.isin(level.keys >> 32, wanted)))
                for name, level in self.levels.items()
            },
        )

    def renamed(self, ids: U32) -> Popularity:
        """Return the same with item i called `ids[i]`."""
        made: dict[str, PopularityLevel] = {}
        for name, level in self.levels.items():
            keys = ids[level.keys >> 32].astype(np.int64) << 32 | (level.keys & 0xFFFF_FFFF)
            made[name] = replace(level, keys=keys).take(np.argsort(keys, kind="stable"))
        return Popularity(self.at_ms, made)

    @staticmethod
    def empty() -> Popularity:
        """Return the counts of nothing."""
        return Popularity(0, {})


def encode_popularity(popularity: Popularity) -> bytes:
    """Return a table as the bytes of an npz file: plain arrays, no pickles."""
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "at_ms": np.array([popularity.at_ms], np.int64),
        "levels": np.array(list(popularity.levels), np.str_),
        "half_lives_days": np.array(HALF_LIVES_DAYS),
    }
    for number, level in enumerate(popularity.levels.values()):
        arrays |= {
            f"{number}.keys": level.keys,
            f"{number}.count": level.count,
            f"{number}.age_s": level.age_s,
            f"{number}.oldest_s": level.oldest_s,
            f"{number}.fading": level.fading,
            f"{number}.values": np.array(level.values, np.str_),
        }
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def decode_popularity(blob: bytes) -> Popularity:
    """Return the table in the bytes of `encode_popularity`.

    Raises:
        BlobError: they are not such bytes, or were counted with other half-lives than this service reads.
    """
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
            if arrays["half_lives_days"].tolist() != list(HALF_LIVES_DAYS):
                raise BlobError("the popularity table was counted with other half-lives; publish again")
            levels = {
                str(name): PopularityLevel(
                    arrays[f"{number}.keys"],
                    arrays[f"{number}.count"],
                    arrays[f"{number}.age_s"],
                    arrays[f"{number}.oldest_s"],
                    arrays[f"{number}.fading"],
                    tuple(str(value) for value in arrays[f"{number}.values"]),
                )
                for number, name in enumerate(arrays["levels"])
            }
            return Popularity(int(arrays["at_ms"][0]), levels)
    except (OSError, ValueError, LookupError, EOFError, NotImplementedError, BadZipFile) as error:
        raise BlobError("the popularity table does not decode; publish again") from error
