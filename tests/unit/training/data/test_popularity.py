"""What everyone took to before a moment, against a loop over all behaviors and exposures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from service.contract.popularity import Popularity
from tests.support.slow_statistics import STATISTICS, dense, statistics_of
from tests.support.synthetic_dataset import DAY_MS, END_DAYS, ITEMS_COUNT, START_MS, tiny_dataset
from tests.unit.training.data.small_tables import DAY_MS as SMALL_DAY_MS
from tests.unit.training.data.small_tables import small_tables, with_table
from training.data.canonical import write_dataset
from training.data.dataset import Dataset
from training.data.encoded import item_rows
from training.data.popularity import PopularityCounts, popularity_levels, positions_of
from training.data.raw import RawTables

LEVELS = ("item_id", "device")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The synthetic dataset where every other behavior happens at a visit, which has a device or none."""
    dataset = tiny_dataset(tmp_path_factory.mktemp("logs"))
    visits = dataset.exposures.select("user_id", "shown_at_ms").unique(maintain_order=True).rows()
    behaviors = [(user, f"i{i % 7:02d}", at_ms, 1.0) for i, (user, at_ms) in enumerate(visits) if i % 2]
    extra = pl.DataFrame(behaviors, schema=dataset.behaviors.schema, orient="row")
    together = pl.concat([dataset.behaviors, extra]).sort("user_id", "at_ms", maintain_order=True)
    dataset.__dict__["behaviors"] = together
    return dataset


def counts_of(dataset: Dataset, levels: tuple[str, ...] = LEVELS) -> PopularityCounts:
    return PopularityCounts(dataset, levels, item_rows(dataset, dataset.behaviors["item_id"]))


def slow(dataset: Dataset, cut_ms: int, row: int, device: str | None, at_ms: int) -> list[list[float]]:
    """Return the statistics of an item row altogether and with a device, by going over all behaviors."""
    items = ["", *dataset.items["item_id"].to_list()]
    devices: dict[tuple[str, int], str | None] = {}
    for user, moment, at in dataset.exposures.select("user_id", "shown_at_ms", "device").rows():
        devices.setdefault((user, moment), at)
    ages: tuple[list[int], list[int]] = ([], [])
    for user, item, moment in dataset.behaviors.select("user_id", "item_id", "at_ms").rows():
        if item == items[row] and moment < cut_ms:
            age_s = (cut_ms - moment) // 1000 + (at_ms - cut_ms) // 1000
            ages[0].append(age_s)
            if device is not None and devices.get((user, moment)) == device:
                ages[1].append(age_s)
    return [[np.nan if s is None else s for s in statistics_of(a).values()] for a in ages]


def check(dataset: Dataset, table: Popularity, cut_ms: int) -> None:
    for device in ("phone", "tv", "radio", None):
        rows = np.arange(0, ITEMS_COUNT + 1, 3, dtype=np.uint32)
        at_ms = cut_ms + 5_000_000
        found = dense(table.counted(LEVELS, rows, {"device": device}, at_ms), len(rows), len(LEVELS))
        expected = [slow(dataset, cut_ms, int(row), device, at_ms) for row in rows]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("days", [0, 7, 40.5, END_DAYS, 400])
def test_a_table_is_a_count_of_all_that_lies_before_its_cut(dataset: Dataset, days: float) -> None:
    cut_ms = START_MS + int(days * DAY_MS)
    table = counts_of(dataset).table_at(cut_ms)
    assert table.at_ms == cut_ms and tuple(table.levels) == LEVELS
    check(dataset, table, cut_ms)


def test_tables_are_the_same_in_whatever_order_they_are_asked_for(dataset: Dataset) -> None:
    moments = [START_MS + day * DAY_MS for day in (30, 90, 10, 60, 10, 90, 30, 5, 99)]
    counts = counts_of(dataset)
    for moment in moments:
        again, alone = counts.table_at(moment), counts_of(dataset).table_at(moment)
        for name in LEVELS:
            for column in ("keys", "count", "age_s", "oldest_s"):
                one, other = (getattr(table.levels[name], column) for table in (again, alone))
                np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(again.levels[name].fading, alone.levels[name].fading, rtol=1e-6)


def test_a_table_that_was_handed_out_stays_as_it_was(dataset: Dataset) -> None:
    counts = counts_of(dataset)
    early = counts.table_at(START_MS + 20 * DAY_MS)
    before = early.levels["item_id"].count.copy()
    counts.table_at(START_MS + 80 * DAY_MS)
    assert early.levels["item_id"].count.tolist() == before.tolist()


def written(folder: Path, raw: RawTables) -> Dataset:
    write_dataset(raw, folder / "out")
    return Dataset(folder / "out")


def test_a_behavior_at_the_cut_is_not_counted_and_one_just_before_is(tmp_path: Path) -> None:
    dataset = written(tmp_path, small_tables())  # jar twice on day 1, cup on day 2
    counts = counts_of(dataset)
    items = ["", *dataset.items["item_id"].to_list()]

    def table(at_ms: int) -> dict[str, int]:
        level = counts.table_at(at_ms).levels["item_id"]
        return {
            items[key & 0xFFFF_FFFF]: int(count) for key, count in zip(level.keys, level.count, strict=True)
        }

    assert table(SMALL_DAY_MS) == {}
    assert table(SMALL_DAY_MS + 1) == table(2 * SMALL_DAY_MS) == {"jar": 2}
    assert table(2 * SMALL_DAY_MS + 1) == {"jar": 2, "cup": 1}


def test_a_behavior_has_the_context_of_its_visit_and_none_counts_for_the_item_alone(tmp_path: Path) -> None:
    """Ann's cup of day 2 is at a visit with a tv; the jars of day 1 are at none."""
    dataset = written(tmp_path, small_tables())
    table = counts_of(dataset).table_at(30 * SMALL_DAY_MS)
    level = table.levels["device"]
    items = ["", *dataset.items["item_id"].to_list()]
    found = [(items[key & 0xFFFF_FFFF], level.values[key >> 32]) for key in level.keys.tolist()]
    assert found == [("cup", "tv")] and level.count.tolist() == [1]


def test_levels_are_the_item_and_categorical_features_of_the_context(tmp_path: Path) -> None:
    assert popularity_levels(written(tmp_path, small_tables())) == LEVELS


def test_without_behaviors_nothing_is_popular(tmp_path: Path) -> None:
    raw = small_tables()
    dataset = written(tmp_path, with_table(raw, "behaviors", raw.tables["behaviors"].clear()))
    table = counts_of(dataset).table_at(30 * SMALL_DAY_MS)
    assert [len(level.keys) for level in table.levels.values()] == [0, 0]
    counted = table.counted(LEVELS, np.array([1], np.uint32), {"device": "tv"}, 31 * SMALL_DAY_MS)
    found = dense(counted, 1, len(LEVELS))
    assert found[0, :, STATISTICS.index("count")].tolist() == [0, 0]


def test_no_levels_make_an_empty_table(dataset: Dataset) -> None:
    assert counts_of(dataset, ()).table_at(START_MS + DAY_MS).levels == {}


def test_positions_of_texts() -> None:
    column = pl.Series(["b", None, "a", "x", "b"], dtype=pl.String)
    assert positions_of(column, ("a", "b")).tolist() == [1, -1, 0, -1, 1]
    assert positions_of(column, ()).tolist() == [-1] * 5
