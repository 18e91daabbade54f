"""The gate of a variant, with variants that are off by a known amount."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.contract.history import F32
from service.contract.manifest import Distance
from tests.support.synthetic_encoded import tiny_encoded
from tests.unit.service.contract.made import manifest
from training.data.encoded import EncodedData
from training.export.variants import (
    AUC_DROP_LIMIT,
    PCOC_CHANGE_LIMIT,
    distance,
    refusals,
    requests_of_test_weeks,
)

FAULTLESS = Distance(
    rows_count=10,
    auc_drop_max=0.0,
    pcoc_change_max=0.0,
    probability_difference_max=0.0,
    log_odds_difference_max=0.0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    folder: Path = tmp_path_factory.mktemp("logs")
    return tiny_encoded(folder)[1]


def off_by(fp32: F32, variant: F32, data: EncodedData, labels: F32) -> Distance:
    rows = np.arange(len(fp32))
    known = replace(data, labels=labels)
    return distance(known, rows, fp32, variant, manifest())


def both_classes(data: EncodedData) -> F32:
    """Return labels of two tasks with a positive and a negative in every domain, each third row a positive."""
    labels = np.zeros((len(data.item), 2), np.float32)
    for number in range(len(data.domains)):
        rows = np.flatnonzero(data.domain[data.row_request] == number)
        labels[rows[::3]] = 1
    return labels


def test_a_variant_at_its_limits_passes_and_one_beyond_is_refused() -> None:
    at_limit = {"auc_drop_max": AUC_DROP_LIMIT, "pcoc_change_max": PCOC_CHANGE_LIMIT}
    assert refusals(FAULTLESS.model_copy(update=at_limit), 1e-4) == []
    for name, limit in at_limit.items():
        for wrong in (limit * 1.001, math.nan):
            assert len(refusals(FAULTLESS.model_copy(update={name: wrong}), 0.0)) == 1
    for wrong in (1.01e-4, math.nan):
        (line,) = refusals(FAULTLESS, wrong)
        assert "other candidates" in line


def test_equal_probabilities_are_at_no_distance(data: EncodedData) -> None:
    p = np.full((len(data.item), 2), 0.25, np.float32)
    found = off_by(p, p, data, both_classes(data))
    assert found == FAULTLESS.model_copy(update={"rows_count": len(p)})


def test_too_large_probabilities_of_one_task_in_one_domain_show(data: EncodedData) -> None:
    labels = both_classes(data)
    fp32 = np.full(labels.shape, 0.25, np.float32)
    there = data.domain[data.row_request] == 1
    for factor in (1.02, 0.98):
        variant = fp32.copy()
        variant[there, 1] *= factor
        found = off_by(fp32, variant, data, labels)
        # Predicted over observed is .25 over the natural rate of the domain, and moves by the factor.
        weight = np.where(labels[there, 0] > 0, 1.0, 1 / data.keep_probability[there])
        rate = (weight * labels[there, 1]).sum() / weight.sum()
        assert found.pcoc_change_max == pytest.approx(0.02 * 0.25 / rate, rel=1e-4)
        assert found.probability_difference_max == pytest.approx(0.005, rel=1e-4)
        moved = 0.25 * factor
        assert found.log_odds_difference_max == pytest.approx(
            abs(math.log(moved / (1 - moved)) - math.log(1 / 3)), rel=1e-4
        )
        assert found.auc_drop_max == 0.0


def test_a_lost_order_is_an_auc_drop_and_a_better_one_is_none(data: EncodedData) -> None:
    labels = both_classes(data)
    right, flat = (0.2 + 0.1 * labels).astype(np.float32), np.full(labels.shape, 0.2, np.float32)
    assert off_by(right, flat, data, labels).auc_drop_max == pytest.approx(0.5)
    assert off_by(flat, right, data, labels).auc_drop_max == pytest.approx(-0.5)
    lost = right.copy()
    there = data.domain[data.row_request] == 2
    lost[there, 1] = 0.2
    assert off_by(right, lost, data, labels).auc_drop_max == pytest.approx(0.5)


def test_a_task_without_positives_is_not_compared(data: EncodedData) -> None:
    labels = both_classes(data)
    labels[:, 1] = 0
    p = np.full(labels.shape, 0.25, np.float32)
    variant = p.copy()
    variant[:, 1] *= 1.5
    found = off_by(p, variant, data, labels)
    assert (found.auc_drop_max, found.pcoc_change_max) == (0.0, 0.0)
    assert found.probability_difference_max == pytest.approx(0.125)


def test_requests_are_whole_of_the_test_weeks_and_the_same_each_time(data: EncodedData) -> None:
    every = requests_of_test_weeks(data, rows_max=10**9, rng=np.random.default_rng(0))
    rows = data.rows_of(data.visits_of("test"))
    assert np.concatenate([case.rows for case in every]).tolist() == sorted(rows.tolist())
    few = [
        requests_of_test_weeks(data, rows_max=len(rows) // 2, rng=np.random.default_rng(0)) for _ in range(2)
    ]
    for one, other in zip(*few, strict=True):
        assert one.request == other.request
        assert one.rows.tolist() == np.flatnonzero(data.row_request == one.request).tolist()
    assert len(rows) // 4 < sum(len(case.rows) for case in few[0]) <= len(rows) // 2
