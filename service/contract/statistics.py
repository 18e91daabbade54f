"""Statistics of counted behaviors, and how they become feature ids.

What a key (this user and this product type, say) was counted to be before a moment: how many behaviors, days
since the newest, counts that fade, in which a behavior weighs half as much after each half-life, the mean
gap between behaviors, and how due the next one is: days since the newest over the gap. A number in buckets is a
feature like any other. Knows nothing of what was counted: `match.py` counts
one user's life cycle, `popularity.py` everyone's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from service.contract.buckets import BucketTables
from service.contract.features import BucketEncoder, FeatureSpec, Side

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

COUNT: Final = "count"
DAYS: Final = "days"
HALF_LIVES_DAYS: Final = (4.0, 14.0, 56.0)
FADING: Final = tuple(f"fading_{half_life:.0f}d" for half_life in HALF_LIVES_DAYS)
GAP: Final = "gap"
DUE: Final = "due"
STATISTICS: Final = (COUNT, DAYS, *FADING, GAP, DUE)
"""Where nothing was counted, count is 0 and the others are unknown; gap and due are unknown up to two."""

STEADY: Final = (DAYS, *FADING)
"""Those that do not grow with how long was counted."""

GAP_DAYS_MIN: Final = 0.25
"""A gap below this is read as this, so that what came in one go is not due for ever."""

SECONDS_PER_DAY: Final = 86_400.0

_COUNT_BOUNDARIES: Final = (
    *range(1, 8),
    *(round(8 * 2 ** (i / 3)) for i in range(1, 19)),
    *(round(8 * 2 ** (i / 2)) for i in range(13, 34)),
)
_DAYS_BOUNDARIES: Final = tuple(round(2 ** (i / 4), 4) for i in range(-8, 42))
_FADING_BOUNDARIES: Final = tuple(round(2 ** (i / 3), 5) for i in range(-15, 40))
_DUE_BOUNDARIES: Final = tuple(round(2 ** (i / 3), 5) for i in range(-15, 19))


def fade(age_s: npt.ArrayLike) -> F64:
    """Return what behaviors of an age weigh in each fading count, (...,) seconds to (..., half-lives)."""
    days = np.asarray(age_s, np.float64)[..., None] / SECONDS_PER_DAY
    faded: F64 = np.exp2(-days / np.array(HALF_LIVES_DAYS))
    return faded


def statistics_features(
    side: Side, levels: Sequence[str], statistics: Sequence[str] = STATISTICS
) -> tuple[FeatureSpec, ...]:
    """Return the features of each level, statistic by statistic, named `<side>_<level>_<statistic>`."""
    boundaries = {
        COUNT: _COUNT_BOUNDARIES,
        DAYS: _DAYS_BOUNDARIES,
        **dict.fromkeys(FADING, _FADING_BOUNDARIES),
        GAP: _DAYS_BOUNDARIES,
        DUE: _DUE_BOUNDARIES,
    }
    return tuple(
        FeatureSpec(
            name=f"{side.value}_{level}_{statistic}",
            side=side,
            encoder=BucketEncoder(boundaries=tuple(map(float, boundaries[statistic]))),
        )
        for level in levels
        for statistic in statistics
    )


def level_of(feature: FeatureSpec) -> str:
    """Return the level that a feature of `statistics_features` is of."""
    return feature.name.removeprefix(f"{feature.side.value}_").removesuffix(f"_{_statistic_of(feature)}")


def _statistic_of(feature: FeatureSpec) -> str:
    return next(statistic for statistic in STATISTICS if feature.name.endswith(f"_{statistic}"))


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of P pairs of a row and a level. Of pairs that are not here, nothing was.

    Axes:
        row: (P,) in the request; level: (P,) place among the levels asked for; count: (P,) at least 1;
        age_s, oldest_s: (P,) since the newest and the oldest behavior, in seconds; fading: (P, half-lives).
    """

    row: I64
    level: I64
    count: npt.NDArray[np.number]
    age_s: npt.NDArray[np.integer]
    oldest_s: npt.NDArray[np.integer]
    fading: npt.NDArray[np.floating]

    @staticmethod
    def nothing() -> Counted:
        """Return that nothing was counted."""
        none = np.zeros(0, np.int64)
        return Counted(none, none, none, none, none, np.zeros((0, len(HALF_LIVES_DAYS))))

    def of(self, statistic: str) -> npt.NDArray[np.number]:
        """Return a statistic of each pair, (P,); NaN is unknown."""
        if statistic == COUNT:
            return self.count
        if statistic in FADING:
            return self.fading[:, FADING.index(statistic)]
        days: F64 = self.age_s / SECONDS_PER_DAY
        if statistic == DAYS:
            return days
        span_days = np.where(self.count >= 2, self.oldest_s / SECONDS_PER_DAY - days, np.nan)
        gap: F64 = span_days / np.maximum(self.count - 1.0, 1.0)
        return gap if statistic == GAP else days / np.maximum(gap, GAP_DAYS_MIN)


def joined(parts: Sequence[Counted]) -> Counted:
    """Return several levels' pairs as one."""
    if len(parts) == 1:
        return parts[0]
    names = ("row", "level", "count", "age_s", "oldest_s", "fading")
    return Counted(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class StatisticsEncoder:
    """Turns statistics into the ids of the features that it was made for; of a level, some may be left out."""

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        self.levels = tuple(dict.fromkeys(level_of(feature) for feature in features))
        self._features_count = len(features)
        # By statistic and boundaries, which column is the feature of each level; the last column is nobody's.
        columns: dict[tuple[str, tuple[float, ...]], I64] = {}
        for i, feature in enumerate(features):
            boundaries = feature.encoder.boundaries if isinstance(feature.encoder, BucketEncoder) else ()
            nobodys = np.full(len(self.levels), len(features))
            of_level = columns.setdefault((_statistic_of(feature), boundaries), nobodys)
            of_level[self.levels.index(level_of(feature))] = i
        self._statistics = [statistic for statistic, _ in columns]
        self._buckets = BucketTables([boundaries for _, boundaries in columns])
        self._columns = np.array([*columns.values()], np.int64).reshape(len(columns), len(self.levels))
        self._nothing = np.zeros(len(features) + 1, np.int64)
        of_0 = self._buckets.of(np.zeros((len(columns), 1))) + 1
        for statistic, of_level, id_ in zip(self._statistics, self._columns, of_0, strict=True):
            self._nothing[of_level] = id_ if statistic == COUNT else 0

    def encode(self, counted: Counted, *, rows_count: int) -> I64:
        """Return ids (rows, features); where nothing was counted, counts are 0 and all else is unknown."""
        out = np.empty((rows_count, self._features_count + 1), np.int64)
        out[:] = self._nothing
        if len(counted.row) == 0 or not self._statistics:
            return out[:, :-1]
        values = np.empty((len(self._statistics), len(counted.row)))
        for own, statistic in zip(values, self._statistics, strict=True):
            own[:] = counted.of(statistic)
        unknown = np.isnan(values)
        values[unknown] = 0.0
        ids = self._buckets.of(values) + 1
        ids[unknown] = 0
        column = self._columns.take(counted.level, axis=1)  # (statistics, P)
        out.reshape(-1)[counted.row * out.shape[1] + column] = ids
        return out[:, :-1]

    def nothing(self) -> I64:
        """Return the ids where nothing was counted, (features,)."""
        return self._nothing[:-1].copy()
