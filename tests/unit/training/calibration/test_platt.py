from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.training.calibration.rows import rows_at_their_rates
from training.calibration._maps import CalibrationRows, sigmoid
from training.calibration.platt import SLOPE_BOUNDS, Options, build, fit_line

LOGITS = np.linspace(-9.0, 1.0, 200)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.5, -1.0), (2.5, 3.0), (1.0, -4.0)])
def test_a_line_that_was_bent_is_found_again(slope: float, shift: float) -> None:
    rows = rows_at_their_rates(LOGITS, lambda z: slope * z + shift, mass=np.exp(-np.arange(200) / 60))
    assert fit_line(rows) == pytest.approx((slope, shift), abs=1e-4)


def test_sampled_negatives_count_for_those_left_out() -> None:
    """Of 1,000 natural rows a logit a tenth of the negatives is there, at weight 10: the rates are the natural ones."""
    truth = 0.7 * LOGITS - 0.5
    positives = np.round(1000 * sigmoid(truth)).astype(int)
    kept = (1000 - positives) // 10
    rows = CalibrationRows(
        np.concatenate([np.repeat(LOGITS, positives), np.repeat(LOGITS, kept)]),
        np.repeat([1.0, 0.0], [positives.sum(), kept.sum()]),
        np.repeat([1.0, 10.0], [positives.sum(), kept.sum()]),
        np.zeros(positives.sum() + kept.sum(), np.int64),
    )
    assert fit_line(rows) == pytest.approx((0.7, -0.5), abs=0.02)


def test_what_was_learned_the_wrong_way_round_is_flattened_and_not_turned_over() -> None:
    slope, shift = fit_line(rows_at_their_rates(LOGITS, lambda z: -z - 8.0))
    assert slope == pytest.approx(SLOPE_BOUNDS[0])
    rate = sigmoid(-LOGITS - 8.0).mean()
    assert sigmoid(slope * LOGITS + shift).mean() == pytest.approx(rate, rel=1e-4)


def test_rows_that_a_threshold_separates_have_a_finite_line() -> None:
    label = (LOGITS > -4).astype(float)
    slope, shift = fit_line(CalibrationRows(LOGITS, label, np.ones(200), np.zeros(200, np.int64)))
    assert slope == pytest.approx(SLOPE_BOUNDS[1])
    assert np.isfinite(shift)


def test_one_logit_for_all_rows_gets_their_rate() -> None:
    rows = rows_at_their_rates(np.full(60, -2.0), lambda z: z - 1.0)
    slope, shift = fit_line(rows)
    assert slope * -2.0 + shift == pytest.approx(-3.0, abs=1e-5)


def test_ranking_is_kept_and_the_total_is_the_observed_one() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=4000) * 2 - 3
    label = (rng.random(4000) < sigmoid(0.6 * logit - 1)).astype(float)
    rows = CalibrationRows(logit, label, np.ones(4000), np.zeros(4000, np.int64))
    made = build(Options(), domains_count=1, tasks_count=1)
    made.fit(0, rows)
    z = torch.from_numpy(logit).float()[:, None]
    out = made(z, torch.zeros(1, dtype=torch.int64))
    assert torch.equal(torch.argsort(out[:, 0], stable=True), torch.argsort(z[:, 0], stable=True))
    assert float(torch.sigmoid(out).sum()) == pytest.approx(label.sum(), rel=1e-5)  # the shift's own optimum
