"""Statistics of counted behaviors, and how they become feature ids.

What a key (this user and this product type, say) was counted to be before a moment is four numbers: how many
behaviors, days since the newest, and two counts that fade, in which a behavior weighs half as much after each
half-life. A number in buckets is a feature like any other. Knows nothing of what was counted: `match.py` counts
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
HALF_LIVES_DAYS: Final = (14.0, 56.0)
FADING: Final = tuple(f"fading_{half_life:.0f}d" for half_life in HALF_LIVES_DAYS)
STATISTICS: Final = (COUNT, DAYS, *FADING)
"""In this order along the last axis of a (N, levels, STATISTICS) array. Where nothing was counted, count is 0 and
the others are NaN."""

SECONDS_PER_DAY: Final = 86_400.0

_COUNT_BOUNDARIES: Final = (
    *range(1, 8),
    *(round(8 * 2 ** (i / 3)) for i in range(1, 19)),
    *(round(8 * 2 ** (i / 2)) for i in range(13, 34)),
)
_DAYS_BOUNDARIES: Final = tuple(round(2 ** (i / 4), 4) for i in range(-8, 42))
_FADING_BOUNDARIES: Final = tuple(round(2 ** (i / 3), 5) for i in range(-15, 40))


def fade(age_s: npt.ArrayLike) -> F64:
    """Return what behaviors of an age weigh in each fading count, (...,) seconds to (..., half-lives)."""
    days = np.asarray(age_s, np.float64)[..., None] / SECONDS_PER_DAY
    faded: F64 = np.exp2(-days / np.array(HALF_LIVES_DAYS))
    return faded


def statistics_features(side: Side, levels: Sequence[str]) -> tuple[FeatureSpec, ...]:
    """Return the features of each level, statistic by statistic, named `<side>_<level>_<statistic>`."""
    boundaries = {
        COUNT: _COUNT_BOUNDARIES,
        DAYS: _DAYS_BOUNDARIES,
        **dict.fromkeys(FADING, _FADING_BOUNDARIES),
    }
    return tuple(
        FeatureSpec(
            name=f"{side.value}_{level}_{statistic}",
            side=side,
            encoder=BucketEncoder(boundaries=tuple(map(float, boundaries[statistic]))),
        )
        for level in levels
        for statistic in STATISTICS
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
        self._columns = [
            self.levels.index(level_of(f)) * len(STATISTICS) + STATISTICS.index(_statistic_of(f))
            for f in features
        ]
        self._boundaries = [
            np.array(f.encoder.boundaries if isinstance(f.encoder, BucketEncoder) else (), np.float64)
            for f in features
        ]

    def encode(self, statistics: F64) -> I64:
        """Return ids (N, features) of statistics (N, levels, STATISTICS); NaN is unknown."""
        flat = statistics.reshape(len(statistics), len(self.levels) * len(STATISTICS))
        out = np.empty((len(flat), len(self._columns)), np.int64)
        for i, (column, boundaries) in enumerate(zip(self._columns, self._boundaries, strict=True)):
            values = flat[:, column]
            out[:, i] = np.where(np.isnan(values), 0, np.searchsorted(boundaries, values, side="right") + 1)
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
