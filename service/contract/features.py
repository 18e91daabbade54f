"""Features: how raw values become ids, the same way in training and in serving.

Knows nothing of files, of stores or of what a model does with an id. Id 0 of every feature is the
unknown value: missing, never seen in training, or not a value of the feature's type.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from service.contract.errors import FeatureError

I64 = npt.NDArray[np.int64]
RawValue = str | int | float | bool | None

UNKNOWN_ID = 0

_FLOAT_MAX = int(sys.float_info.max)

HOUR_OF_DAY = "hour_of_day"
DAY_OF_WEEK = "day_of_week"
TIME_FEATURES = (HOUR_OF_DAY, DAY_OF_WEEK)
"""Context features that every request has: derived from its time, so nobody sends or stores them."""


class Side(StrEnum):
    """Where a feature's value comes from in a request."""

    USER = "user"  # the store's feature blob; user_id itself too
    CONTEXT = "context"  # the request, the same for all its candidates
    CANDIDATE = "candidate"  # the candidate in this request (where it is placed, say)
    MATCH = "match"  # computed from the candidate and the user's life cycle, see match.py
    POPULARITY = "popularity"  # computed from the candidate and everyone's behaviors, see popularity.py
    ITEM = "item"  # the catalogue; part of the item tables, never sent


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CategoricalEncoder(_Frozen):
    """A closed list of values; value `values[i]` has id `i + 1`."""

    kind: Literal["categorical"] = "categorical"
    values: tuple[str, ...]

    @property
    def ids_count(self) -> int:
        """Rows of an embedding table for this feature, the unknown row included."""
        return len(self.values) + 1


class BucketEncoder(_Frozen):
    """A number in one of `len(boundaries) + 1` buckets; bucket `i` has id `i + 1`.

    A value equal to a boundary lies in the bucket above it. NaN and infinities are unknown.
    """

    kind: Literal["bucket"] = "bucket"
    boundaries: tuple[float, ...]

    @property
    def ids_count(self) -> int:
        """Rows of an embedding table for this feature, the unknown row included."""
        return len(self.boundaries) + 2


Encoder = Annotated[CategoricalEncoder | BucketEncoder, Field(discriminator="kind")]


class FeatureSpec(_Frozen):
    """One feature: its name, the side it belongs to, and how its values become ids."""

    name: str
    side: Side
    encoder: Encoder


def time_encoder(name: str) -> CategoricalEncoder:
    """Return the fixed encoder of a time feature.

    Raises:
        FeatureError: `name` is not a time feature.
    """
    counts = {HOUR_OF_DAY: 24, DAY_OF_WEEK: 7}
    if name not in counts:
        raise FeatureError(f"{name!r} is not a time feature; they are {', '.join(TIME_FEATURES)}")
    return CategoricalEncoder(values=tuple(str(i) for i in range(counts[name])))


def time_values(at_ms: int) -> dict[str, str]:
    """Return the time features' raw values at a moment, in UTC (Monday is day 0)."""
    at = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    return {HOUR_OF_DAY: str(at.hour), DAY_OF_WEEK: str(at.weekday())}


class FeatureEncoder:
    """Encodes raw values of one feature; holds the look-up that the frozen spec does not."""

    __slots__ = ("_boundaries", "_ids", "spec")

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        encoder = spec.encoder
        self._ids: dict[str, int] = {}
        self._boundaries: tuple[float, ...] = ()
        if isinstance(encoder, CategoricalEncoder):
            self._ids = {value: i + 1 for i, value in enumerate(encoder.values)}
            if len(self._ids) != len(encoder.values):
                raise FeatureError(f"feature {spec.name!r}: a value occurs twice in its vocabulary")
        else:
            self._boundaries = encoder.boundaries
            if not all(a < b for a, b in zip(self._boundaries, self._boundaries[1:], strict=False)):
                raise FeatureError(f"feature {spec.name!r}: bucket boundaries must rise")

    def encode(self, value: RawValue) -> int:
        """Return the id of one raw value; UNKNOWN_ID for what the vocabulary lacks. Never raises."""
        if value is None:
            return UNKNOWN_ID
        if type(value) is str:  # nearly all values; a bucket feature's look-up is empty
            return self._ids.get(value, UNKNOWN_ID)
        if isinstance(self.spec.encoder, CategoricalEncoder):
            if isinstance(value, int) and abs(value) > _FLOAT_MAX:
                return UNKNOWN_ID  # a text of thousands of digits is no value of any vocabulary
            return self._ids.get(canonical_text(value), UNKNOWN_ID)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return UNKNOWN_ID
        if isinstance(value, int):  # beyond any float, an integer only has a side
            value = max(-_FLOAT_MAX, min(_FLOAT_MAX, value))
        if not math.isfinite(value):
            return UNKNOWN_ID
        return bisect_right(self._boundaries, value) + 1

    def encode_many(self, values: Sequence[RawValue]) -> I64:
        """Return the ids of many raw values, (len(values),)."""
        find = self._ids.get
        ids = np.array([find(value, UNKNOWN_ID) for value in values], np.int64)  # type: ignore[arg-type]
        for i in np.flatnonzero(
            ids == UNKNOWN_ID
        ).tolist():  # few, or alike: what is no text of the vocabulary
            if not isinstance(values[i], str | None):
                ids[i] = self.encode(values[i])
        return ids


def canonical_text(value: RawValue) -> str:
    """Return the text under which a categorical value is known: `7`, `7.0` and `"7"` are one value."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def encode_row(encoders: Sequence[FeatureEncoder], values: Mapping[str, RawValue]) -> list[int]:
    """Return one id per encoder, in the encoders' order; a value that is not there is unknown."""
    return [encoder.encode(values.get(encoder.spec.name)) for encoder in encoders]
