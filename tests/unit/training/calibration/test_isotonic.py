from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.unit.training.calibration.rows import rows_at_their_rates
from training.calibration._maps import F64, CalibrationRows, sigmoid
from training.calibration.isotonic import Options, build, fit_pieces, knots_of
from training.calibration.platt import fit_line

LOGITS = np.linspace(-9.0, 1.0, 2000)
FEW = {"positives_per_piece": 100}


def drawn(truth: F64, *, rows_count: int = 6000) -> CalibrationRows:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=rows_count) * 2 - 2
    label = (rng.random(rows_count) < sigmoid(np.interp(logit, LOGITS, truth))).astype(float)
    weight = np.where(label > 0, 1.0, rng.choice([5.0, 20.0], rows_count))
    return CalibrationRows(logit, label, weight, np.zeros(rows_count, np.int64))


def mapped(rows: CalibrationRows, logit: F64, options: Options) -> F64:
    made = build(options, domains_count=1, tasks_count=1)
    made.fit(0, rows)
    out = made(torch.from_numpy(logit).float()[:, None], torch.zeros(1, dtype=torch.int64))
    return np.asarray(out[:, 0].numpy(), np.float64)


def straight(z: F64) -> F64:
    return 0.5 * z - 1.0


def bent(z: F64) -> F64:
    return np.where(z < -4, -6 + 0.3 * (z + 4), -6 + 1.5 * (z + 4))


def wavy(z: F64) -> F64:
    return z + np.sin(z) * 0.8


@pytest.mark.parametrize("bend", [straight, bent, wavy])
def test_a_map_that_rises_is_found_again(bend: Callable[[F64], F64]) -> None:
    """The rate at each logit is exact, so that what is left is that pieces are straight."""
    rows = rows_at_their_rates(LOGITS, bend)
    found = mapped(rows, LOGITS, Options(**FEW))
    assert np.abs(found - bend(LOGITS)).max() < 0.12


def test_a_bend_at_a_knot_is_exact() -> None:
    rows = rows_at_their_rates(LOGITS, bent)
    level, slopes = fit_pieces(rows, np.array([-4.0, -2.0]), Options(**FEW))
    assert [level, *slopes] == pytest.approx([-6.0, 0.3, 1.5, 1.5], abs=1e-3)


def test_no_map_within_the_bounds_has_less_loss() -> None:
    rows = drawn(np.where(LOGITS < -3, -6.0, -6.0 + 8.0 * (LOGITS + 3)))  # too flat, then too steep
    options = Options(positives_per_piece=60, slope_min=0.2, slope_max=2.0)
    knots = knots_of(rows, options)
    level, slopes = fit_pieces(rows, knots, options)
    assert bool((slopes >= 0.2 - 1e-9).all()) and bool((slopes <= 2.0 + 1e-9).all())

    def loss(level: float, slopes: F64) -> float:
        ends = np.concatenate([[-1e3], knots, [1e3]])
        middle = np.interp(rows.logit, ends, np.concatenate([[0.0], np.cumsum(slopes * np.diff(ends))]))
        z = level + middle - slopes[0] * (knots[0] + 1e3)
        return float(rows.weight @ (np.logaddexp(0.0, z) - rows.label * z))

    best = loss(level, slopes)
    rng = np.random.default_rng(1)
    for _ in range(200):
        step = rng.normal(size=len(slopes)) * 10.0 ** rng.uniform(-4, -1)
        other = np.clip(slopes + step, 0.2, 2.0)
        assert loss(level + float(rng.normal()) * 0.01, other) >= best - 1e-6 * abs(best)


def test_as_many_positives_are_predicted_as_there_are() -> None:
    rows = drawn(LOGITS + np.sin(3 * LOGITS))
    p = sigmoid(mapped(rows, rows.logit, Options(**FEW)))
    assert float(rows.weight @ p) == pytest.approx(float(rows.weight @ rows.label), rel=1e-3)


def test_every_piece_has_its_positives_and_one_piece_is_platts_line() -> None:
    rows = drawn(LOGITS)
    positive = rows.logit[rows.label > 0]
    knots = knots_of(rows, Options(positives_per_piece=90))
    counts = np.histogram(positive, np.concatenate([[-np.inf], knots, [np.inf]]))[0]
    assert len(counts) == len(positive) // 90 and counts.min() >= 89
    assert len(knots_of(rows, Options(positives_per_piece=1, pieces_max=5))) == 4
    for options in (Options(positives_per_piece=len(positive)), Options(pieces_max=1)):
        slope, shift = fit_line(rows)
        np.testing.assert_allclose(mapped(rows, LOGITS, options), slope * LOGITS + shift, atol=1e-3)


def test_logits_never_change_places() -> None:
    rows = drawn(LOGITS + np.sin(3 * LOGITS))
    logit = np.unique(np.random.default_rng(1).normal(size=20_000).astype(np.float32) * 8)
    out = mapped(rows, logit.astype(np.float64), Options(positives_per_piece=50))
    assert bool((np.diff(out) >= 0).all())
    apart = np.diff(logit) > 1e-4
    assert bool((np.diff(out)[apart] > 0).all())


def test_rates_that_fall_are_as_flat_as_may_be() -> None:
    rows = rows_at_their_rates(LOGITS, lambda z: -z - 8.0)
    out = mapped(rows, LOGITS, Options(**FEW))
    np.testing.assert_allclose(np.diff(out), 0.05 * np.diff(LOGITS), atol=1e-5)


def test_bounds_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="slope_max must be at least slope_min"):
        Options(slope_min=3.0, slope_max=2.0)
