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
from service.contract.statistics import HALF_LIVES_DAYS, Counted, fade, joined

FORMAT: Final = 2
_ITEM_MASK: Final = 0xFFFF_FFFF

DAY_MS: Final = 86_400_000


def cut_before_ms(at_ms: I64) -> I64:
    """Return the last midnight (UTC) at or before some moments."""
    return at_ms - at_ms % DAY_MS


def pair_keys(items: U32 | I64, positions: int | I64) -> I64:
    """Return the key of each pair of a catalogue id and a context value's position, which is 0 at the item's level.

    A request asks for one position, so its pairs lie next to each other.
    """
    return items.astype(np.int64) | np.int64(positions) << 32


@dataclass(frozen=True, slots=True)
class PopularityLevel:
    """The counted items, or pairs of item and context value, of one level.

    Axes:
        keys: (P,) rising, as `pair_keys` gives them.
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

    def counted(
        self, levels: Sequence[str], items: U32, context: Mapping[str, RawValue], at_ms: int
    ) -> Counted:
        """Return the statistics of items in one request's context.

        A moment before the cut is read as the cut: ages are never negative.

        Shapes:
            items: (N,) catalogue ids.
        """
        passed_s = np.int64(max(0, at_ms - self.at_ms) // 1000)
        positions = [self._position(level, context.get(level)) for level in levels]
        found = [
            self._of_level(number, level, items, position, passed_s)
            for number, (level, position) in enumerate(zip(levels, positions, strict=True))
        ]
        return joined(found)

    def counted_of_rows(
        self, levels: Sequence[str], items: U32, values: Mapping[str, I64], passed_s: I64
    ) -> Counted:
        """Return the statistics of rows, each with a context of its own.

        Shapes:
            items, passed_s: (N,) catalogue ids, seconds since the cut; values: (N,) positions per context level,
            -1 for a value that was never counted.
        """
        return joined(
            [
                self._of_level(number, level, items, values[level] if level != ITEM else 0, passed_s)
                for number, level in enumerate(levels)
            ]
        )

    def _of_level(
        self, number: int, name: str, items: U32, position: int | I64, passed_s: I64 | np.int64
    ) -> Counted:
        """Return the statistics of one level, the `number`th asked for; positions and times of all rows, or of each."""
        level = self.levels.get(name)
        if level is None or len(level.keys) == 0 or (isinstance(position, int) and position < 0):
            return Counted.nothing()
        asked = pair_keys(items, position)
        place = np.minimum(np.searchsorted(level.keys, asked), len(level.keys) - 1)
        known = np.flatnonzero((level.keys.take(place) == asked) & (items > 0))
        place = place.take(known)
        passed_s = passed_s.take(known) if np.ndim(passed_s) else passed_s
        return Counted(
            row=known,
            level=np.full(len(known), number),
            count=level.count.take(place),
            age_s=level.age_s.take(place) + passed_s,
            oldest_s=level.oldest_s.take(place) + passed_s,
            fading=level.fading.take(place, axis=0) * fade(passed_s),
        )

    def _position(self, level: str, value: RawValue) -> int:
        """Return where a context value stands, 0 at the level of the item, -1 for a value that was never counted."""
        if level == ITEM:
            return 0
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
                name: level.take(np.flatnonzero(np.isin(level.keys & _ITEM_MASK, wanted)))
                for name, level in self.levels.items()
            },
        )

    def renamed(self, ids: U32) -> Popularity:
        """Return the same with item i called `ids[i]`."""
        made: dict[str, PopularityLevel] = {}
        for name, level in self.levels.items():
            keys = pair_keys(ids[level.keys & _ITEM_MASK], level.keys >> 32)
            made[name] = replace(level, keys=keys).take(np.argsort(keys, kind="stable"))
        return Popularity(self.at_ms, made)

    @staticmethod
    def empty() -> Popularity:
        """Return the counts of nothing."""
        return Popularity(0, {})


def encode_popularity(popularity: Popularity) -> bytes:
    """Return a table as the bytes of an npz file: plain arrays, no pickles."""
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "format": np.array([FORMAT]),
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
        BlobError: they are not such bytes, or of another format or counted with other half-lives than this
            service reads.
    """
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
            if "format" not in arrays or arrays["format"].tolist() != [FORMAT]:
                raise BlobError("the popularity table is of another format; publish again")
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
