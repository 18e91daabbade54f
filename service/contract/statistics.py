"""Statistics of counted behaviors, and how they become feature ids.

What a key (this user and this product type, say) was counted to be before a moment: how many behaviors, days
since the newest, counts that fade, in which a behavior weighs half as much after each half-life, the mean
gap between behaviors, and how due the next one is: days since the newest over the gap. A number in buckets is a
feature like any other. Knows nothing of what was counted: `match.py` counts
one user's life cycle, `popularity.py` everyone's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

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
"""In this order along the last axis of a (N, levels, STATISTICS) array. Where nothing was counted, count is 0 and
the others are NaN; gap and due are NaN up to two."""

STEADY: Final = (DAYS, *FADING)
"""Those that do not grow with how long was counted."""

FADING_COLUMNS: Final = slice(STATISTICS.index(FADING[0]), STATISTICS.index(FADING[-1]) + 1)

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


class StatisticsEncoder:
    """Turns statistics into the ids of the features that it was made for; of a level, some may be left out."""

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        self.levels = tuple(dict.fromkeys(level_of(feature) for feature in features))
        self._features_count = len(features)
        # Features of equal boundaries are encoded together: a call for all levels of a statistic, not one for each.
        alike: dict[tuple[float, ...], list[tuple[int, int]]] = {}
        for i, feature in enumerate(features):
            column = self.levels.index(level_of(feature)) * len(STATISTICS)
            column += STATISTICS.index(_statistic_of(feature))
            boundaries = feature.encoder.boundaries if isinstance(feature.encoder, BucketEncoder) else ()
            alike.setdefault(boundaries, []).append((i, column))
        self._groups = [
            (np.array(boundaries), np.array([i for i, _ in places]), np.array([c for _, c in places]))
            for boundaries, places in alike.items()
        ]

    def encode(self, statistics: F64) -> I64:
        """Return ids (N, features) of statistics (N, levels, STATISTICS); NaN is unknown."""
        flat = statistics.reshape(len(statistics), len(self.levels) * len(STATISTICS))
        out = np.empty((len(flat), self._features_count), np.int64)
        for boundaries, features, columns in self._groups:
            values = flat[:, columns]
            ids = np.searchsorted(boundaries, values, side="right") + 1
            out[:, features] = np.where(np.isnan(values), 0, ids)
        return out

    def nothing(self) -> I64:
        """Return the ids where nothing was counted, (features,)."""
        ids: I64 = self.encode(nothing_counted(1, len(self.levels)))[0]
        return ids


def nothing_counted(rows: int, levels: int) -> F64:
    """Return the statistics of keys that nothing was counted for, (rows, levels, STATISTICS)."""
    out = np.full((rows, levels, len(STATISTICS)), np.nan)
    out[..., 0] = 0.0
    return out


def with_gaps(statistics: F64, oldest_days: F64) -> None:
    """Fill in gap and due from count, days and the age of the oldest behavior, in place.

    Shapes:
        statistics: (..., STATISTICS); oldest_days: (...,) in days, of any value where fewer than two were counted.
    """
    count, days = statistics[..., STATISTICS.index(COUNT)], statistics[..., STATISTICS.index(DAYS)]
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.where(count >= 2, (oldest_days - days) / (count - 1), np.nan)
    statistics[..., STATISTICS.index(GAP)] = gap
    statistics[..., STATISTICS.index(DUE)] = days / np.maximum(gap, GAP_DAYS_MIN)
