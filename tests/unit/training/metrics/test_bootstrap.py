from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.metrics import natural
from training.metrics.bootstrap import METRICS, Estimate, group_aucs, resample, user_times


@pytest.fixture
def rows() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(12), 20)
    labels = (rng.random(240) < 0.3).astype(float)
    labels[users == 3] = 0.0  # a user of one class
    probability = np.round(np.clip(0.2 + 0.3 * labels + rng.normal(0, 0.2, 240), 0.01, 0.99), 2)  # with ties
    weights = np.where(labels > 0, 1.0, rng.integers(1, 9, 240))
    return {
        "labels": labels,
        "probability": probability,
        "weights": weights,
        "users": users,
        "requests": users * 4 + np.tile(np.repeat(np.arange(4), 5), 12),
    }


def natural_metrics(rows: dict[str, Any]) -> dict[str, float | None]:
    y, p, w = rows["labels"], rows["probability"], rows["weights"]
    return {
        "auc": natural.auc(y, p, w),
        "gauc": natural.gauc(y, p, w, rows["users"]),
        "gauc_request": natural.gauc(y, p, w, rows["requests"]),
        "log_loss": natural.log_loss(y, p, w),
        "pcoc": natural.pcoc(y, p, w),
        "calibration_error": natural.calibration_error(natural.reliability(y, p, w)),
    }


def test_every_user_once_gives_the_metrics_themselves(rows: dict[str, Any]) -> None:
    drawn = resample(**rows, times=np.ones((1, 12)))
    assert {name: values[0] for name, values in drawn.items()} == pytest.approx(natural_metrics(rows))


def test_a_user_drawn_twice_counts_like_two_users_with_its_rows(rows: dict[str, Any]) -> None:
    times = np.zeros(12)
    times[[0, 1, 5]] = (2, 1, 3)
    drawn = resample(**rows, times=times[None])
    copies: list[dict[str, Any]] = []
    for user, count in ((0, 2), (1, 1), (5, 3)):
        for copy in range(count):
            own = rows["users"] == user
            part = {name: values[own] for name, values in rows.items()}
            part["users"] = part["users"] + 100 * copy
            part["requests"] = part["requests"] + 1000 * copy
            copies.append(part)
    joined = {name: np.concatenate([part[name] for part in copies]) for name in rows}
    expected = natural_metrics(joined)
    del expected["calibration_error"]  # its bins stay those of all users
    assert {name: drawn[name][0] for name in expected} == pytest.approx(expected)


def test_labels_that_are_not_known_do_not_count(rows: dict[str, Any]) -> None:
    known = rows["users"] != 7
    times = np.ones((1, 12))
    without = resample(**{name: values[known] for name, values in rows.items()}, times=times)
    masked = resample(**{**rows, "labels": np.where(known, rows["labels"], np.nan)}, times=times)
    for name in METRICS:
        np.testing.assert_allclose(masked[name], without[name])


def test_a_draw_without_positives_is_undefined(rows: dict[str, Any]) -> None:
    times = np.zeros((1, 12))
    times[0, 3] = 12
    drawn = resample(**rows, times=times)
    assert np.isnan(drawn["auc"][0])
    assert np.isnan(drawn["gauc"][0])


def test_no_rows_have_no_metrics() -> None:
    none = np.zeros(0)
    drawn = resample(none, none, none, users=none.astype(int), requests=none, times=np.ones((2, 3)))
    assert all(np.isnan(values).all() and values.shape == (2,) for values in drawn.values())


def test_each_resample_draws_as_many_users_as_there_are() -> None:
    times = user_times(40, resamples_count=30, seed=1)
    assert times.shape == (30, 40)
    assert (times.sum(axis=1) == 40).all()
    np.testing.assert_array_equal(times, user_times(40, resamples_count=30, seed=1))


def test_group_aucs_are_those_of_each_group_alone(rows: dict[str, Any]) -> None:
    y, p, w = rows["labels"], rows["probability"], rows["weights"]
    values, exposures = group_aucs(y, p, w, rows["users"])
    for user in range(12):
        own = rows["users"] == user
        expected = natural.auc(y[own], p[own], w[own])
        assert np.isnan(values[user]) if expected is None else values[user] == pytest.approx(expected)
        assert exposures[user] == pytest.approx(w[own].sum())


def test_a_system_against_itself_differs_by_nothing(rows: dict[str, Any]) -> None:
    drawn = resample(**rows, times=user_times(12, resamples_count=50))
    one = Estimate(0.5, drawn["auc"])
    assert (one - one).interval == (0.0, 0.0)


def test_a_paired_interval_is_narrower_than_what_both_systems_share(rows: dict[str, Any]) -> None:
    times = user_times(12, resamples_count=200)
    first = resample(**rows, times=times)["log_loss"]
    second = resample(**{**rows, "probability": rows["probability"] * 0.98}, times=times)["log_loss"]
    low, high = (Estimate(0, first) - Estimate(0, second)).interval
    assert high - low < np.subtract(*np.percentile(first, [97.5, 2.5])) / 3


def test_the_mean_of_estimates_is_drawn_together() -> None:
    mean = Estimate.mean([Estimate(1.0, np.array([1.0, 2.0])), Estimate(3.0, np.array([5.0, 6.0]))])
    assert mean.value == 2.0
    np.testing.assert_array_equal(mean.draws, [3.0, 4.0])
