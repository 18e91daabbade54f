"""Raw values to ids: known values, unknown ones, and values that nobody should send."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.contract.errors import FeatureError
from service.contract.features import (
    BucketEncoder,
    CategoricalEncoder,
    FeatureEncoder,
    FeatureSpec,
    RawValue,
    Side,
    canonical_text,
    encode_row,
    time_encoder,
    time_values,
)

WORDS = CategoricalEncoder(values=("A", "B", "7", "True", ""))
BUCKETS = BucketEncoder(boundaries=(-1.0, 0.0, 10.0))

raw_values: st.SearchStrategy[RawValue] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from([10**400, -(10**5000)])
)


def encoder(spec: CategoricalEncoder | BucketEncoder, name: str = "f") -> FeatureEncoder:
    return FeatureEncoder(FeatureSpec(name=name, side=Side.CONTEXT, encoder=spec))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[("A", 1), ("B", 2), ("7", 3), (7, 3), (7.0, 3), (True, 4), ("", 5)],
        *[("a", 0), (None, 0), ("C", 0), (7.5, 0), (8, 0), (False, 0), (math.nan, 0), (math.inf, 0)],
    ],
)
def test_categorical_ids(value: RawValue, expected: int) -> None:
    assert encoder(WORDS).encode(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[
            (-5, 1),
            (-1.0, 2),
            (-0.5, 2),
            (-0.0, 3),
            (0, 3),
            (9.99, 3),
            (10, 4),
            (10**400, 4),
            (-(10**400), 1),
        ],
        *[(None, 0), ("3", 0), (True, 0), (math.nan, 0), (math.inf, 0), (-math.inf, 0)],
    ],
)
def test_bucket_ids(value: RawValue, expected: int) -> None:
    assert encoder(BUCKETS).encode(value) == expected


def test_one_bucket_without_boundaries() -> None:
    assert encoder(BucketEncoder(boundaries=())).encode_many([3, None]).tolist() == [1, 0]


@pytest.mark.parametrize("spec", [WORDS, BUCKETS])
@given(value=raw_values)
def test_any_value_has_an_id_within_the_table(
    spec: CategoricalEncoder | BucketEncoder, value: RawValue
) -> None:
    assert 0 <= encoder(spec).encode(value) < spec.ids_count


@given(st.lists(raw_values, max_size=10))
def test_many_values_are_each_encoded(values: list[RawValue]) -> None:
    one = encoder(WORDS)
    assert one.encode_many(values).tolist() == [one.encode(value) for value in values]


@given(st.integers(-(2**53), 2**53))
def test_whole_floats_are_the_integers_they_equal(value: int) -> None:
    assert canonical_text(float(value)) == canonical_text(value) == str(value)


def test_row_has_an_id_per_encoder_in_their_order() -> None:
    encoders = [encoder(BUCKETS, "spend"), encoder(WORDS, "place"), encoder(WORDS, "gone")]
    assert encode_row(encoders, {"place": "B", "spend": 3, "other": "A"}) == [3, 2, 0]


def test_repeated_value_is_refused() -> None:
    with pytest.raises(FeatureError, match="'f': a value occurs twice"):
        encoder(CategoricalEncoder(values=("A", "A")))


@pytest.mark.parametrize("boundaries", [(1.0, 1.0), (2.0, 1.0), (1.0, math.nan, 2.0)])
def test_boundaries_that_do_not_rise_are_refused(boundaries: tuple[float, ...]) -> None:
    with pytest.raises(FeatureError, match="must rise"):
        encoder(BucketEncoder(boundaries=boundaries))


def test_spec_round_trip_and_unknown_kinds() -> None:
    for spec in (WORDS, BUCKETS):
        feature = FeatureSpec(name="f", side=Side.ITEM, encoder=spec)
        assert FeatureSpec.model_validate_json(feature.model_dump_json()) == feature
    with pytest.raises(ValidationError):
        FeatureSpec.model_validate({"name": "f", "side": "item", "encoder": {"kind": "hash", "size": 3}})


@pytest.mark.parametrize(
    ("at_ms", "hour", "day"),
    [(0, "0", "3"), (-1, "23", "2"), (1_700_000_000_000, "22", "1"), (4 * 86_400_000, "0", "0")],
)
def test_time_is_utc_and_monday_is_day_0(at_ms: int, hour: str, day: str) -> None:
    assert time_values(at_ms) == {"hour_of_day": hour, "day_of_week": day}


@given(st.integers(0, 4_000_000_000_000))
def test_time_values_are_all_in_their_vocabulary(at_ms: int) -> None:
    for name, value in time_values(at_ms).items():
        assert encoder(time_encoder(name), name).encode(value) > 0


def test_only_time_features_have_a_time_encoder() -> None:
    with pytest.raises(FeatureError, match="they are hour_of_day, day_of_week"):
        time_encoder("month")
