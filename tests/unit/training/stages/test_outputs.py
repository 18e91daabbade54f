"""What embed, cluster, evaluate and export wrote for the synthetic logs, against the logs themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from service.contract.catalogue import Catalogue, write_catalogue
from service.contract.history import decode_snapshot
from service.contract.served_inputs import read_item_tables
from tests.support.pipelines import copied
from tests.support.synthetic_dataset import (
    DAY_MS,
    DOMAINS,
    FIRST_SNAPSHOT_DAYS,
    SNAPSHOT_EVERY_DAYS,
    START_MS,
)
from training.config import PipelineConfig
from training.data.encoded import behaviors_by_user
from training.history.storage import SnapshotTable
from training.workbench import ITEM_VECTORS_FILE, SNAPSHOTS_FILE, Workbench

ITEM_ROWS_COUNT = 31
PARTS_READ = {"star": {"clusters", "recents"}, "pepnet": {"clusters"}}


@pytest.fixture
def bench(finished_pipeline: PipelineConfig) -> Workbench:
    return Workbench(finished_pipeline)


def test_item_vectors_are_one_a_row_and_of_unit_length(bench: Workbench) -> None:
    vectors = np.load(bench.done("embed") / ITEM_VECTORS_FILE)
    width = bench.config.embed.embedding_width * len([f for f in bench.features if f.side == "item"])
    assert vectors.shape == (ITEM_ROWS_COUNT, width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_item_vectors_are_fitted_on_what_lies_before_the_first_snapshot(bench: Workbench) -> None:
    first_ms = START_MS + FIRST_SNAPSHOT_DAYS * DAY_MS
    assert bench.snapshot_moments_ms[0] == first_ms
    before = bench.dataset.exposures.filter(pl.col("shown_at_ms") < first_ms)
    record = orjson.loads((bench.done("embed") / "stage.json").read_bytes())
    assert record["summary"]["rows"] == len(before)


def test_snapshots_lie_on_schedule_and_at_the_datas_end(bench: Workbench) -> None:
    end_ms = bench.dataset.spec.splits.end_ms
    scheduled = range(START_MS + FIRST_SNAPSHOT_DAYS * DAY_MS, end_ms, SNAPSHOT_EVERY_DAYS * DAY_MS)
    moments = SnapshotTable.load(bench.done("cluster") / SNAPSHOTS_FILE).moments_ms
    assert moments == tuple(bench.snapshot_moments_ms) == (*scheduled, end_ms)


def test_a_snapshot_holds_each_behavior_strictly_before_it_once(bench: Workbench) -> None:
    behaviors = behaviors_by_user(bench.dataset)
    for at_ms in bench.snapshot_moments_ms.tolist():
        sizes = {user: int(decode_snapshot(b).size.sum()) for user, b in bench.snapshots.at(at_ms)}
        past = {user: int((b.at_ms < at_ms).sum()) for user, b in behaviors.items()}
        assert sizes == {user: count for user, count in past.items() if count}


def test_metrics_are_of_each_split_weighting_domain_and_task(bench: Workbench) -> None:
    rows = pl.DataFrame(orjson.loads((bench.done("evaluate", "star") / "metrics.json").read_bytes()))
    for split in ("validation", "test"):
        exposures = bench.dataset.exposures_of(split)
        for domain in DOMAINS:
            shown = exposures.filter(pl.col("domain") == domain)
            for weighting in ("natural", "sampled"):
                one = rows.filter(split=split, weighting=weighting, domain=domain, task="click").to_dicts()[0]
                assert one["rows_count"] == len(shown)
                assert one["positives_count"] == shown["click"].sum()


def test_tables_are_keyed_by_the_ids_of_a_catalogue_that_knew_other_items_before(
    finished_pipeline: PipelineConfig, tmp_path: Path
) -> None:
    config = copied(finished_pipeline, tmp_path)
    older = Catalogue(config.publish.catalogue, ("i07", "of another shop"))
    write_catalogue(config.publish.registry / "catalogues" / older.name, older)
    bench = Workbench(config)
    assert bench.catalogue.item_ids[:2] == older.item_ids
    assert len(bench.catalogue) == ITEM_ROWS_COUNT
    items = ["", *bench.dataset.items["item_id"].to_list()]
    assert [bench.catalogue.id_of(item) for item in items] == bench.catalogue_ids.tolist()


def test_an_exports_tables_have_a_row_for_every_item(bench: Workbench) -> None:
    for model in bench.config.models:
        tables = read_item_tables(bench.done("export", model))
        assert set(tables.history) == PARTS_READ[model]
        assert {len(table) for table in (tables.shared, *tables.history.values())} == {ITEM_ROWS_COUNT}
        np.testing.assert_array_equal(tables.rows_of(bench.catalogue_ids), np.arange(ITEM_ROWS_COUNT))
        assert tables.rows_of(np.array([999], np.uint32)).tolist() == [0]
