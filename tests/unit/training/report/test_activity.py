from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from training.config import PipelineConfig
from training.data.dataset import Dataset
from training.metrics.activity import ActivityRow
from training.progress import Progress
from training.report.activity import behaviors_before, plot_activity
from training.report.study import behaviors_before_exposures
from training.study.run import make_inputs
from training.workbench import Workbench


def dataset_of(*behaviors: tuple[str, int]) -> Dataset:
    table = pl.DataFrame(behaviors, schema={"user_id": pl.String, "at_ms": pl.Int64}, orient="row")
    return cast(Dataset, SimpleNamespace(behaviors=table))


def test_behaviors_count_up_to_the_moment_and_not_at_it() -> None:
    dataset = dataset_of(("b", 1), ("a", 5), ("b", 6), ("b", 7), ("b", 7))
    assert behaviors_before(dataset, ["a", "b", "c"], 7).tolist() == [1, 2, 0]
    assert behaviors_before(dataset, ["c", "b"], 8).tolist() == [0, 4]
    assert behaviors_before(dataset, [], 8).tolist() == []


def test_behaviors_before_each_exposure_are_counted(finished_pipeline: PipelineConfig) -> None:
    inputs = make_inputs(Workbench(finished_pipeline), Progress(quiet=True))
    found = behaviors_before_exposures(inputs)
    dataset = inputs.bench.dataset
    shown = dataset.exposures[inputs.splits["test"].rows]
    assert len(shown) > 0
    own: dict[str, list[int]] = {}
    for user, at_ms in dataset.behaviors.select("user_id", "at_ms").iter_rows():
        own.setdefault(user, []).append(at_ms)
    expected = [
        sum(moment < at_ms for moment in own.get(user, []))
        for user, at_ms in shown.select("user_id", "shown_at_ms").iter_rows()
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("name", ["activity.svg", "activity.png"])
def test_the_plot_is_drawn_where_deciles_are_missing_or_undefined(tmp_path: Path, name: str) -> None:
    facts: dict[str, Any] = {
        "activity_min": 0.0, "activity_max": 1.0, "users_count": 1, "rows_count": 1, "positives_count": 0
    }  # fmt: skip
    rows = [
        ActivityRow(domain="all", task="click", decile=1, ece=0.1, pcoc=None, **facts),
        ActivityRow(domain="all", task="click", decile=9, ece=None, pcoc=1.1, **facts),
    ]
    plot_activity(tmp_path / name, {"x": rows, "y": []}, task="click", domain_names=("a",))
    assert (tmp_path / name).stat().st_size > 0
