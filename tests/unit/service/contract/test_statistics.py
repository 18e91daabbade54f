"""Statistics as feature ids: boundaries, what is unknown, and features left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract import statistics
from service.contract.features import BucketEncoder, FeatureEncoder, FeatureSpec, Side
from service.contract.statistics import (
    Counted,
    StatisticsEncoder,
    fade,
    level_of,
    statistics_features,
)
from tests.support.slow_statistics import (
    RELATIVE_TOLERANCE,
    STATISTICS,
    counts_of,
    dense,
    level_and_statistic,
    statistics_of,
)

LEVELS = ("any", "item_id", "product_type")
SIDES = (Side.MATCH, Side.POPULARITY)
FEATURES = statistics_features(Side.MATCH, LEVELS)
ONE = {level_and_statistic(feature)[1]: feature for feature in statistics_features(Side.MATCH, ("any",))}


@dataclass
class Told:
    """Pairs of a row and a level whose statistics are told: what an encoder reads of `Counted`."""

    row: np.ndarray
    level: np.ndarray
    values: Mapping[str, np.ndarray]

    def of(self, statistic: str) -> np.ndarray:
        return self.values[statistic]


def told(values: np.ndarray) -> Told:
    """Return every row and level of statistics (N, levels, STATISTICS) as a pair."""
    row, level = (places.ravel() for places in np.indices(values.shape[:2]))
    return Told(row, level, {name: values[..., i].ravel() for i, name in enumerate(STATISTICS)})


def id_of(name: str, value: float) -> int:
    one = Told(np.array([0]), np.array([0]), {name: np.array([value])})
    return int(StatisticsEncoder([ONE[name]]).encode(one, rows_count=1)[0, 0])


def test_the_statistics_are_those_that_a_definition_is_known_of() -> None:
    assert statistics.STATISTICS == STATISTICS


@pytest.mark.parametrize("side", SIDES)
def test_each_level_has_its_features_in_order_and_says_which_it_is(side: Side) -> None:
    features = statistics_features(side, LEVELS)
    assert [level_and_statistic(f) for f in features] == [(lev, s) for lev in LEVELS for s in STATISTICS]
    assert [level_of(f) for f in features] == [level for level in LEVELS for _ in STATISTICS]
    assert {f.side for f in features} == {side} and len({f.name for f in features}) == len(features)


@pytest.mark.parametrize("name", STATISTICS)
def test_boundaries_rise_and_survive_the_manifest(name: str) -> None:
    FeatureEncoder(ONE[name])  # which refuses boundaries that do not rise
    assert FeatureSpec.model_validate_json(ONE[name].model_dump_json()) == ONE[name]


@given(st.sampled_from(STATISTICS), st.floats(0, 1e12))
def test_ids_are_those_of_the_features_own_encoders(name: str, value: float) -> None:
    assert id_of(name, value) == FeatureEncoder(ONE[name]).encode(value)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_value_at_a_boundary_is_in_the_bucket_above_it(name: str) -> None:
    encoder = ONE[name].encoder
    assert isinstance(encoder, BucketEncoder) and len(encoder.boundaries) > 20
    for place, boundary in enumerate(encoder.boundaries):
        below = float(np.nextafter(boundary, -np.inf))
        assert (id_of(name, boundary), id_of(name, below)) == (place + 2, place + 1)


@pytest.mark.parametrize("name", STATISTICS)
def test_what_is_not_known_has_the_unknown_id_and_all_else_another(name: str) -> None:
    assert id_of(name, float("nan")) == 0
    assert id_of(name, 0.0) == 1
    assert id_of(name, 1e300) == ONE[name].encoder.ids_count - 1


def test_small_counts_have_an_id_each() -> None:
    assert [id_of("count", count) for count in range(8)] == list(range(1, 9))


def test_where_nothing_was_counted_the_count_is_0_and_the_rest_unknown() -> None:
    encoder = StatisticsEncoder(FEATURES)
    ids = encoder.nothing().tolist()
    assert encoder.encode(Counted.nothing(), rows_count=2).tolist() == [ids] * 2
    assert ids == [1 if level_and_statistic(f)[1] == "count" else 0 for f in FEATURES]
    assert StatisticsEncoder(()).nothing().tolist() == []


@given(st.data())
def test_an_encoder_gives_the_features_asked_for_in_their_order(data: st.DataObject) -> None:
    """Whatever a model leaves out: levels, statistics, or both."""
    values = np.random.default_rng(data.draw(st.integers(0, 99))).exponential(
        20, (4, len(LEVELS), len(STATISTICS))
    )
    values[values > 40] = np.nan
    asked = data.draw(st.lists(st.sampled_from(FEATURES), unique=True))
    encoder = StatisticsEncoder(asked)
    of_levels = values[:, [LEVELS.index(level) for level in encoder.levels]]
    whole = StatisticsEncoder(FEATURES).encode(told(values), rows_count=4)
    assert (
        encoder.encode(told(of_levels), rows_count=4).tolist()
        == whole[:, [FEATURES.index(f) for f in asked]].tolist()
    )
    assert set(encoder.levels) == {level_of(feature) for feature in asked}


def test_no_rows_have_no_ids() -> None:
    nothing = Counted.nothing()
    assert StatisticsEncoder(FEATURES).encode(nothing, rows_count=0).shape == (0, len(FEATURES))
    assert StatisticsEncoder(()).encode(nothing, rows_count=5).shape == (5, 0)


def test_pairs_that_were_not_counted_are_as_nothing_and_others_do_not_see_them() -> None:
    encoder = StatisticsEncoder(FEATURES)
    values = np.arange(1.0, 1 + 4 * 3 * len(STATISTICS)).reshape(4, 3, len(STATISTICS))
    whole, nothing = encoder.encode(told(values), rows_count=4), encoder.nothing()
    some = told(values)
    for one in range(12):
        alone = Told(some.row[[one]], some.level[[one]], {k: v[[one]] for k, v in some.values.items()})
        ids = encoder.encode(alone, rows_count=4)
        for column, feature in enumerate(FEATURES):
            of_level = LEVELS.index(level_of(feature)) == one % 3
            for row in range(4):
                expected = whole[row, column] if of_level and row == one // 3 else nothing[column]
                assert ids[row, column] == expected


def test_a_behavior_weighs_half_as_much_after_each_half_life() -> None:
    ages_s = np.array([0, 4 * 86_400, 14 * 86_400, 56 * 86_400])
    expected = [
        [1, 1, 1],
        [0.5, 0.5 ** (2 / 7), 0.5 ** (1 / 14)],
        [0.5**3.5, 0.5, 0.5**0.25],
        [0.5**14, 0.5**4, 0.5],
    ]
    np.testing.assert_allclose(fade(ages_s), expected)
    assert fade(0).tolist() == [1.0, 1.0, 1.0]
    assert fade(2**32 - 1).min() == 0.0  # and no warning of an underflow


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_statistics_of_counts_are_those_of_the_definition(ages_s: list[int]) -> None:
    counts = counts_of([(1, ages_s)])
    pair = np.zeros(1, np.int64)
    made = Counted(pair, pair, counts.count, counts.age_s, counts.oldest_s, counts.fading)
    expected = [[[np.nan if value is None else value for value in statistics_of(ages_s).values()]]]
    np.testing.assert_allclose(dense(made, 1, 1), expected, rtol=RELATIVE_TOLERANCE, atol=1e-9)


def test_what_came_in_one_go_is_not_due_for_ever() -> None:
    found = statistics_of([86_400] * 3)
    assert (found["gap"], found["due"]) == (0.0, 4.0)  # a day over a quarter of one
