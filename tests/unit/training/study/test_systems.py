from __future__ import annotations

import numpy as np
import pytest

from tests.unit.training.study.made import alike, seeded, system
from training.study.systems import MACRO, rows_of_systems, seed_deviation


def test_an_estimate_is_the_mean_over_seeds() -> None:
    one = system("x", seeded(1, alike(0.9)), seeded(2, alike(0.8)))
    assert one.estimate("auc", "all").value == pytest.approx(0.85)
    assert one.estimate("auc", "all", seeds=[2]).value == pytest.approx(0.8)
    assert one.spread("auc", "all") == pytest.approx(np.std([0.9, 0.8], ddof=1))
    assert system("x", seeded(1, alike(0.9))).spread("auc", "all") is None


def test_macro_is_the_mean_over_domains_without_the_whole() -> None:
    one = system("x", seeded(1, {"all": 0.1, "a": 0.8, "b": 0.6}))
    assert one.domains == ("a", "b")
    assert one.estimate("auc", MACRO).value == pytest.approx(0.7)


def test_a_difference_is_paired() -> None:
    low, high = (
        system("x", seeded(1, alike(0.9))).over(system("y", seeded(1, alike(0.8))), "auc", "all").interval
    )
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))  # both were drawn alike


def test_seeds_that_both_sides_have_are_compared() -> None:
    x = system("x", seeded(1, alike(0.9)), seeded(2, alike(0.7)), seeded(3, alike(0.1)))
    y = system("y", seeded(1, alike(0.6)), seeded(2, alike(0.6)))
    assert x.over(y, "auc", "all").value == pytest.approx(0.2)
    assert x.over(system("z", seeded(2, alike(0.6))), "auc", "all").value == pytest.approx(0.7 - 0.6)
    single = system("z", seeded(9, alike(0.6)))
    assert x.over(single, "auc", "all").value == pytest.approx(np.mean([0.9, 0.7, 0.1]) - 0.6)


def test_what_a_seed_moves_is_pooled_over_systems() -> None:
    x = system("x", seeded(1, alike(0.9)), seeded(2, alike(0.8)))
    y = system("y", seeded(1, alike(0.5)), seeded(2, alike(0.5)), seeded(3, alike(0.8)))
    squares = 2 * 0.05**2 + 2 * 0.1**2 + 0.2**2
    assert seed_deviation([x, y], "auc") == pytest.approx((squares / 3) ** 0.5)


def test_a_metric_that_is_not_there_is_not_a_number() -> None:
    assert np.isnan(seeded(1, alike(0.9)).metric("auc", domain="all", task="gone"))


def test_results_have_exactly_the_agreed_keys() -> None:
    rows = rows_of_systems([system("x", seeded(4, alike(0.9)))])
    assert len(rows) == 4
    assert list(rows[0]) == [
        "name", "library", "seed", "split", "domain", "task", "auc", "gauc", "gauc_request", "log_loss", "pcoc",
        "calibration_error", "parameters", "train_samples_per_s",
    ]  # fmt: skip
    assert (rows[0]["name"], rows[0]["library"], rows[0]["seed"]) == ("x", "twinstar", 4)
