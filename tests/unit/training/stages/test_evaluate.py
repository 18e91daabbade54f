from __future__ import annotations

import orjson
import polars as pl
import pytest

from training.config import PipelineConfig
from training.workbench import Workbench


@pytest.fixture
def bench(finished_pipeline: PipelineConfig) -> Workbench:
    return Workbench(finished_pipeline)


def test_activity_counts_each_test_row_once_and_orders_users_by_their_behaviors(bench: Workbench) -> None:
    folder = bench.done("evaluate", "star")
    rows = pl.DataFrame(orjson.loads((folder / "activity.json").read_bytes()))
    shown = bench.dataset.exposures_of("test")
    before = bench.dataset.behaviors.filter(pl.col("at_ms") < bench.dataset.spec.splits.validation_end_ms)
    counts = dict(before.group_by("user_id").len().iter_rows())
    active = [counts.get(user, 0) for user in shown["user_id"].unique().to_list()]
    for domain in ("all", *bench.dataset.spec.domains):
        own = rows.filter(domain=domain, task="click").sort("decile")
        here = shown if domain == "all" else shown.filter(pl.col("domain") == domain)
        assert own["rows_count"].sum() == len(here)
        assert own["users_count"].sum() == here["user_id"].n_unique()
        assert own["activity_min"].to_list() == sorted(own["activity_min"].to_list())
        if domain == "all":
            assert (own["activity_min"].min(), own["activity_max"].max()) == (min(active), max(active))
    assert (folder / "activity.png").is_file()
