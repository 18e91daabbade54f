from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from tests.unit.training.calibration.rows import rows_at_their_rates
from training.calibration._maps import F64, CalibrationRows, logit_of, sigmoid
from training.calibration.isotonic import Options, build, fit_knots

LOGITS = np.linspace(-9.0, 1.0, 2000)
FINE = Options(positives_min=1, knots_max=500, slope_min=1e-9, slope_max=1e9)


def drawn(truth: F64, *, rows_count: int = 6000, seed: int = 0) -> CalibrationRows:
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows_count) * 2 - 2
    label = (rng.random(rows_count) < sigmoid(np.interp(logit, LOGITS, truth))).astype(float)
    weight = np.where(label > 0, 1.0, rng.choice([5.0, 20.0], rows_count))
    return CalibrationRows(logit, label, weight, np.zeros(rows_count, np.int64))


def mapped(rows: CalibrationRows, logit: F64, options: Options) -> F64:
    made = build(options, domains_count=1, tasks_count=1)
    made.fit(0, rows)
    out = made(torch.from_numpy(logit).float()[:, None], torch.zeros(1, dtype=torch.int64))
    return np.asarray(out[:, 0].numpy(), np.float64)


@pytest.mark.parametrize(
    "bend",
    [
        lambda z: z,
        lambda z: 0.5 * z - 1.0,
        lambda z: np.where(z < -5, -6 + 0.3 * (z + 5), -6 + 1.5 * (z + 5)),
        lambda z: z + np.sin(z) * 0.8,
    ],
    ids=["straight", "flat", "bent", "wavy"],
)
def test_a_map_that_rises_is_found_again(bend: object) -> None:
    """The rate at each logit is exact, so that what is left is the straight line between the knots."""
    rows = rows_at_their_rates(LOGITS, bend)  # type: ignore[arg-type]
    inside = LOGITS[100:-100]
    found = mapped(rows, inside, Options(positives_min=20, knots_max=64))
    assert np.abs(found - bend(inside)).max() < 0.05  # type: ignore[operator]


def test_blocks_are_those_of_isotonic_regression() -> None:
    """Where nothing needs pooling, knots have the rates of scikit-learn's blocks that have both labels."""
    rows = drawn(0.8 * LOGITS)
    _, y = fit_knots(rows, FINE)
    fitted = IsotonicRegression().fit(rows.logit, rows.label, rows.weight).predict(rows.logit)
    rates = np.unique(fitted.round(12))
    inner = rates[(rates > 0) & (rates < 1)]
    found = sigmoid(y)
    assert len(found) <= len(inner)
    nearest = np.abs(found[1:-1, None] - inner).min(axis=1)  # the outer two have swallowed those of one label
    assert (nearest < 1e-9).mean() > 0.9


def test_every_knot_has_enough_rows_and_the_slopes_are_bounded() -> None:
    options = Options(positives_min=30, knots_max=12, slope_min=0.1, slope_max=2.0)
    rows = drawn(3.0 * LOGITS + 4.0)
    x, y = fit_knots(rows, options)
    assert 2 <= len(x) <= 12
    slope = np.diff(y) / np.diff(x)
    assert bool((np.diff(x) > 0).all())
    assert bool((slope >= 0.1).all()) and bool((slope <= 2.0).all())


def test_the_total_of_each_block_is_the_observed_one() -> None:
    """One knot: the logit of the mean probability goes to the logit of the rate, so the rest is a shift."""
    rows = drawn(LOGITS - 1.0)
    x, y = fit_knots(rows, Options(knots_max=1))
    w = rows.weight / rows.weight.sum()
    assert x == pytest.approx(logit_of(np.array([w @ sigmoid(rows.logit)])))
    assert y == pytest.approx(logit_of(np.array([w @ rows.label])))


def test_logits_never_change_places_and_go_on_beyond_the_knots() -> None:
    rows = drawn(LOGITS + np.sin(3 * LOGITS))
    logit = np.unique(np.random.default_rng(1).normal(size=20_000).astype(np.float32) * 8)
    out = mapped(rows, logit.astype(np.float64), Options())
    assert bool((np.diff(out) >= 0).all())
    apart = np.diff(logit) > 1e-4
    assert bool((np.diff(out)[apart] > 0).all())
    assert out[0] - out[1] == pytest.approx(float(logit[0] - logit[1]), abs=1e-5)
    assert out[-1] - out[-2] == pytest.approx(float(logit[-1] - logit[-2]), abs=1e-5)


def test_rates_that_fall_are_one_knot() -> None:
    rows = rows_at_their_rates(LOGITS, lambda z: -z - 8.0)
    x, _ = fit_knots(rows, Options())
    assert len(x) == 1
    out = mapped(rows, LOGITS, Options())
    np.testing.assert_allclose(np.diff(out), np.diff(LOGITS), atol=1e-5)
