from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from benchmarks import rivals
from tests.unit.training.data.small_tables import SPLITS, small_tables
from training.data.canonical import write_dataset
from training.data.dataset import Dataset, DatasetTask

REQUESTS = 3000
KEEP = 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Requests of two items: `hot` is clicked in 20 % of exposures, `cold` in 2 %; negatives kept at KEEP."""
    rng = np.random.default_rng(0)
    request = np.repeat(np.arange(REQUESTS), 2)
    hot = np.tile([True, False], REQUESTS)
    click = rng.random(2 * REQUESTS) < np.where(hot, 0.2, 0.02)
    kept = click | (rng.random(2 * REQUESTS) < KEEP)
    step_ms = SPLITS.end_ms // REQUESTS
    exposures = pl.DataFrame(
        {
            "request_id": request,
            "user_id": [f"u{r % 7}" for r in request],
            "item_id": np.where(hot, "hot", "cold"),
            "domain": np.where(request % 2 == 0, "home", "search"),
            "shown_at_ms": request * step_ms,
            "keep_probability": np.full(2 * REQUESTS, KEEP),
            "click": click,
            "device": ["tv"] * 2 * REQUESTS,
            "position": np.zeros(2 * REQUESTS),
        }
    ).filter(pl.Series(kept))
    raw = small_tables()
    behaviors = pl.DataFrame({"user_id": ["u1"], "item_id": ["hot"], "at_ms": [0], "strength": [1.0]})
    tables = {**raw.tables, "exposures": exposures, "behaviors": behaviors}
    path = tmp_path_factory.mktemp("rivals") / "dataset"
    write_dataset(replace(raw, tables=tables, tasks=(DatasetTask(name="click"),)), path)
    return path


def _rates(dataset, probability):
    table = dataset.exposures.select("item_id", pl.Series("p", probability))
    return dict(table.group_by("item_id").agg(pl.col("p").mean()).rows())


@pytest.mark.parametrize(
    "rival",
    [
        lambda dataset: rivals.popularity(dataset, lambda line: None),
        lambda dataset: rivals.boosted_trees(dataset, lambda line: None, threads=1, candidate_features=True),
    ],
    ids=["popularity", "lightgbm"],
)
def test_a_rival_finds_the_natural_rates_behind_the_sample(rival, folder):
    dataset = Dataset(folder)
    rates = _rates(dataset, rival(dataset))
    assert rates["hot"] == pytest.approx(0.2, rel=0.3)
    assert rates["cold"] == pytest.approx(0.02, rel=0.6)


def test_popularity_of_an_item_without_training_rows_is_that_of_its_domain(folder):
    rows = Dataset(folder).exposures.select("item_id", "domain", "split", "click").with_columns(weight=1.0)
    unseen = rows.with_columns(
        pl.when(pl.col("split") == "train").then("item_id").otherwise(pl.lit("new")).alias("item_id")
    )
    probability = rivals._shrunk_rates(unseen, 1.0)
    train = unseen.filter(pl.col("split") == "train").group_by("domain").agg(pl.col("click").mean())
    rate = dict(train.rows())
    expected = [rate[domain] for domain in unseen.filter(pl.col("item_id") == "new")["domain"]]
    np.testing.assert_allclose(probability[(unseen["item_id"] == "new").to_numpy()], expected)
