from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.study.made import alike, seeded, system
from training.study.bars import best_row, judge, judge_elsewhere
from training.study.config import Bar, BarElsewhere
from training.study.systems import System


def bar(**content: Any) -> Bar:
    return Bar.model_validate({"asked": "x", "row": "ours", "metrics": ["auc"], **content})


@pytest.fixture
def systems() -> dict[str, System]:
    made = [
        system("ours", seeded(1, {"all": 0.95, "a": 0.95, "b": 0.93}, validation=0.2, pcoc=1.02)),
        system("other", seeded(1, alike(0.92), validation=0.3)),
        system("rival", seeded(1, alike(0.944), validation=0.1), library="lightgbm"),
    ]
    return {one.name: one for one in made}


def test_a_difference_above_its_bound_is_met(systems: dict[str, System]) -> None:
    assert judge(bar(than=["rival"], at_least=0.005), systems).verdict == "met"
    assert judge(bar(than=["rival"], at_least=0.0065), systems).verdict == "missed"


def test_an_estimate_whose_interval_crosses_the_bound_is_within_chance(systems: dict[str, System]) -> None:
    assert judge(bar(at_least=0.9495), systems).verdict == "met, within chance"
    assert judge(bar(at_least=0.948), systems).verdict == "met"


def test_each_domain_must_hold(systems: dict[str, System]) -> None:
    found = judge(bar(than=["rival"], domains=["each"], at_least=0.005), systems)
    assert found.verdict == "missed"
    assert (found.findings[0].domain, found.findings[0].estimate.value) == ("b", pytest.approx(0.93 - 0.944))


def test_every_other_system_is_the_rivals_too(systems: dict[str, System]) -> None:
    found = judge(bar(than=["every"], at_least=0), systems)
    assert {finding.than for finding in found.findings} == {"other", "rival"}
    assert found.findings[0].than == "rival"  # the hardest first


def test_a_metric_may_have_two_bounds(systems: dict[str, System]) -> None:
    within = {"metrics": ["pcoc"], "at_least": 0.97, "at_most": 1.03}
    assert judge(bar(**within), systems).verdict == "met"
    assert judge(bar(**{**within, "at_most": 1.01}), systems).verdict == "missed"
    assert judge(bar(**within, domains=["all", "each"]), systems).findings[0].margin == pytest.approx(0.01)


def test_less_is_better_where_the_bound_is_at_most(systems: dict[str, System]) -> None:
    assert judge(bar(row="rival", than=["ours"], at_most=0), systems).verdict == "met"
    assert judge(bar(than=["rival"], at_most=0), systems).verdict == "missed"


def test_what_was_not_measured_is_not_met(systems: dict[str, System]) -> None:
    found = judge(bar(than=["rival", "gone"], at_least=0), systems)
    assert (found.verdict, found.lacking) == ("not measured", ("gone",))
    assert judge(bar(row="gone", at_least=0), systems).verdict == "not measured"
    assert judge(bar(domains=["nowhere"], at_least=0), systems).lacking == ("nowhere",)


def test_what_is_missed_already_stays_missed(systems: dict[str, System]) -> None:
    assert judge(bar(than=["rival", "gone"], at_least=0.1), systems).verdict == "missed"


def test_the_best_row_is_ours_by_validation_alone(systems: dict[str, System]) -> None:
    assert best_row(systems) == "ours"  # the rival's log-loss is less, but it is no row of the study
    assert judge(bar(row="best", at_least=0.9), systems).findings[0].row == "ours"
    assert best_row({}) is None


def test_a_bar_without_bounds_is_reported(systems: dict[str, System]) -> None:
    assert judge(bar(than=["rival"]), systems).verdict == "reported"
    assert judge(bar(than=["gone"]), systems).verdict == "not measured"


@pytest.fixture
def speeds(tmp_path: Path) -> Path:
    rows = [
        {"kind": "summary", "library": "one", "ratio": 3.5},
        {"kind": "summary", "library": "two", "ratio": 2.5},
        {"kind": "summary", "library": "ours", "ratio": 1.0},
        {"kind": "run", "library": "one", "ratio": None},
    ]
    path = tmp_path / "speeds.json"
    path.write_text(json.dumps({"rows": rows}))
    return path


def elsewhere(results: Path, **content: Any) -> BarElsewhere:
    meant = {"where": {"kind": "summary"}, "unlike": {"library": "ours"}, "value": "ratio"}
    return BarElsewhere.model_validate({"asked": "x", "results": results, **meant, **content})


def test_every_row_of_other_results_must_hold(speeds: Path) -> None:
    found = judge_elsewhere(elsewhere(speeds, at_least=2))
    assert found.verdict == "met"
    assert [value for value, _ in found.rows] == [2.5, 3.5]  # the hardest first
    assert judge_elsewhere(elsewhere(speeds, at_least=3)).verdict == "missed"
    assert judge_elsewhere(elsewhere(speeds, at_least=1, at_most=3)).verdict == "missed"
    assert judge_elsewhere(elsewhere(speeds)).verdict == "reported"


def test_results_that_are_not_there_are_not_measured(speeds: Path, tmp_path: Path) -> None:
    assert judge_elsewhere(elsewhere(tmp_path / "gone.json", at_least=2)).verdict == "not measured"
    assert judge_elsewhere(elsewhere(speeds, where={"kind": "gone"}, at_least=2)).verdict == "not measured"


def test_a_row_calibrated_on_validation_is_not_chosen_there(systems: dict[str, System]) -> None:
    assert best_row(systems) == "ours"
    calibrated = replace(
        system("calibrated", seeded(1, alike(0.9), validation=0.1)), calibrated_on_validation=True
    )
    assert best_row({**systems, "calibrated": calibrated}) == "ours"
