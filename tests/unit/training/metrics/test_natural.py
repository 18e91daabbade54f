"""Natural metrics against pairwise references, scikit-learn, replication, and cases right by construction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from training.metrics import natural

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    y: F64
    p: F64
    w: F64
    group: npt.NDArray[np.int64]

    def replicated(self) -> Rows:
        times = self.w.astype(np.int64)
        return Rows(*(np.repeat(a, times) for a in (self.y, self.p, np.ones(len(self.w)), self.group)))


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Rows with whole weights, few distinct probabilities (so ties) and few groups."""
    count = draw(st.integers(1, 40))

    def column(strategy: st.SearchStrategy[float]) -> F64:
        return np.array(draw(st.lists(strategy, min_size=count, max_size=count)), np.float64)

    return Rows(
        y=column(st.sampled_from([0.0, 1.0])),
        p=column(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.75, 1.0]) | st.floats(0, 1)),
        w=column(st.integers(1, 5).map(float)),
        group=column(st.integers(-1, 3).map(float)).astype(np.int64),
    )


def pairwise_auc(y: F64, p: F64, w: F64) -> float | None:
    won = pairs = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            pairs += w[i] * w[j]
            won += w[i] * w[j] * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    return won / pairs if pairs else None


def slow_gauc(r: Rows) -> float | None:
    total = exposures = 0.0
    for group in set(r.group.tolist()):
        mine = r.group == group
        value = pairwise_auc(r.y[mine], r.p[mine], r.w[mine])
        if value is not None:
            total += value * r.w[mine].sum()
            exposures += r.w[mine].sum()
    return total / exposures if exposures else None


def all_metrics(r: Rows) -> list[float | None]:
    table = natural.reliability(r.y, r.p, r.w)
    return [
        natural.auc(r.y, r.p, r.w),
        natural.gauc(r.y, r.p, r.w, r.group),
        natural.log_loss(r.y, r.p, r.w),
        natural.pcoc(r.y, r.p, r.w),
        natural.ece(table),
        natural.calibration_error(table),
    ]


@given(rows())
def test_auc_counts_pairs_and_half_of_ties(r: Rows) -> None:
    assert natural.auc(r.y, r.p, r.w) == pytest.approx(pairwise_auc(r.y, r.p, r.w))


@given(rows().filter(lambda r: len(set(r.y.tolist())) == 2))
def test_auc_and_log_loss_are_those_of_scikit_learn(r: Rows) -> None:
    assert natural.auc(r.y, r.p, r.w) == pytest.approx(roc_auc_score(r.y, r.p, sample_weight=r.w))
    clipped = np.clip(r.p, 1e-15, 1 - 1e-15)
    assert natural.log_loss(r.y, r.p, r.w) == pytest.approx(sklearn_log_loss(r.y, clipped, sample_weight=r.w))


@given(rows())
def test_gauc_is_the_mean_of_groups_weighted_by_natural_exposures(r: Rows) -> None:
    assert natural.gauc(r.y, r.p, r.w, r.group) == pytest.approx(slow_gauc(r))


def test_gauc_skips_groups_of_one_class() -> None:
    y, p, w = [1, 0, 1, 1, 0], [0.9, 0.1, 0.0, 0.2, 0.3], [1, 9, 1, 1, 7]
    assert natural.gauc(y, p, w, [0, 0, 1, 1, 2]) == 1.0
    assert natural.gauc(y[2:], p[2:], w[2:], [1, 1, 2]) is None


@given(rows())
def test_row_of_weight_three_is_three_rows(r: Rows) -> None:
    for one, many in zip(all_metrics(r), all_metrics(r.replicated()), strict=True):
        assert one == (None if many is None else pytest.approx(many, rel=1e-9, abs=1e-12))


@given(rows(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(r: Rows, random: object) -> None:
    order = np.arange(len(r.y))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Rows(r.y[order], r.p[order], r.w[order], r.group[order])
    for one, other in zip(all_metrics(r), all_metrics(shuffled), strict=True):
        assert one == (None if other is None else pytest.approx(other, rel=1e-9, abs=1e-12))


@given(rows())
def test_bins_hold_every_row_once_and_no_more_than_their_mass(r: Rows) -> None:
    table = natural.reliability(r.y, r.p, r.w)
    assert table.rows_count.sum() == len(r.y)
    assert table.mass.sum() == pytest.approx(1.0)
    assert (table.mass * table.mean_probability).sum() == pytest.approx((r.w * r.p).sum() / r.w.sum())
    assert (table.mass * table.observed_rate).sum() == pytest.approx((r.w * r.y).sum() / r.w.sum())
    assert (np.diff(table.mean_probability) > 0).all()


def test_bins_have_equal_natural_mass() -> None:
    """100 rows of weights 1 and 3 by turns: 200 of mass, 10 a bin, whatever the number of rows in it."""
    w = np.tile([1.0, 3.0], 50)
    table = natural.reliability(np.zeros(100), np.arange(100) / 100, w)
    assert len(table.mass) == 20
    assert np.abs(table.mass - 0.05).max() <= 3 / 200


def test_calibration_error_by_construction() -> None:
    """Half of the mass says .1 and half .3; .2 and .3 happened: (.5·.1 + 0) / .25 = .2."""
    y = np.array([1] * 2 + [0] * 8 + [1] * 3 + [0] * 7, np.float64)
    p = np.repeat([0.1, 0.3], 10)
    table = natural.reliability(y, p, np.ones(20))
    assert table.mass.tolist() == pytest.approx([0.5, 0.5])
    assert table.observed_rate.tolist() == pytest.approx([0.2, 0.3])
    assert natural.ece(table) == pytest.approx(0.05)
    assert natural.calibration_error(table) == pytest.approx(0.2)
    assert natural.pcoc(y, p, np.ones(20)) == pytest.approx(4 / 5)


@given(rows())
def test_with_one_bin_calibration_error_is_the_distance_of_pcoc_from_one(r: Rows) -> None:
    error = natural.calibration_error(natural.reliability(r.y, r.p, r.w, bins_count=1))
    ratio = natural.pcoc(r.y, r.p, r.w)
    assert error == (None if ratio is None else pytest.approx(abs(ratio - 1.0), abs=1e-12))


def test_weights_recover_the_natural_rate_from_sampled_negatives() -> None:
    """1,000 exposures with 2 positives, a fiftieth of the negatives kept."""
    y = np.array([1.0, 1.0] + [0.0] * 998)
    kept = np.concatenate([[0, 1], np.arange(2, 1000, 50)])
    w = natural.natural_weights(y[kept], np.full(len(kept), len(kept[2:]) / 998))
    assert w[:2].tolist() == [1.0, 1.0]
    assert w.sum() == pytest.approx(1000.0)
    assert natural.pcoc(y[kept], np.full(len(kept), 0.002), w) == pytest.approx(1.0)


def test_certain_mistake_stays_finite() -> None:
    value = natural.log_loss([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])
    assert value is not None and math.isfinite(value) and value > 30


@pytest.mark.parametrize("metric", [natural.auc, natural.log_loss, natural.pcoc])
def test_no_rows_are_undefined(metric: object) -> None:
    assert metric([], [], []) is None  # type: ignore[operator]
    table = natural.reliability([], [], [])
    assert natural.ece(table) is None and natural.calibration_error(table) is None
    assert natural.gauc([], [], [], []) is None


def test_one_class_is_undefined_where_it_must_be() -> None:
    y, p, w = [0.0, 0.0], [0.1, 0.2], [1.0, 1.0]
    assert natural.auc(y, p, w) is None
    assert natural.pcoc(y, p, w) is None
    assert natural.calibration_error(natural.reliability(y, p, w)) is None
    assert natural.ece(natural.reliability(y, p, w)) == pytest.approx(0.15)
