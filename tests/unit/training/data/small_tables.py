"""A small dataset whose every answer is plain to see: two users, three items, four requests."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from service.contract.features import Side
from training.data.dataset import DatasetFeature, DatasetSampling, DatasetSplits, DatasetTask
from training.data.raw import RawTables, TableName

DAY_MS = 24 * 3600 * 1000
SPLITS = DatasetSplits(train_end_ms=10 * DAY_MS, validation_end_ms=20 * DAY_MS, end_ms=30 * DAY_MS)


def small_tables() -> RawTables:
    """Return raw tables without a bad row. Exposure rows 0-1, 2, 3-4 and 5 are requests 7, 8, 9 and 10."""
    exposures = pl.DataFrame(
        {
            "request_id": [7, 7, 8, 9, 9, 10],
            "user_id": ["ann", "ann", "ann", "bob", "bob", "bob"],
            "item_id": ["cup", "pan", "cup", "cup", "jar", "pan"],
            "domain": ["home", "home", "search", "home", "home", "search"],
            "shown_at_ms": [d * DAY_MS for d in (2, 2, 9, 11, 11, 25)],
            "keep_probability": [0.5, 0.5, 1.0, 0.25, 0.25, 1.0],
            "click": [1, 0, 1, 0, 1, 0],
            "buy": [1, 0, 0, 0, 1, 0],
            "device": ["tv", "tv", "phone", "phone", "phone", None],
            "position": [1.0, 2.0, 1.0, 1.0, 2.0, 1.0],
        }
    )
    behaviors = pl.DataFrame(
        {
            "user_id": ["ann", "bob", "ann"],
            "item_id": ["jar", "jar", "cup"],
            "at_ms": [DAY_MS, DAY_MS, 2 * DAY_MS],
            "strength": [0.5, 1.0, 0.0],
        }
    )
    return RawTables(
        name="small",
        domains=("home", "search"),
        tasks=(DatasetTask(name="click"), DatasetTask(name="buy", given="click", matures_after_days=2)),
        features=(
            DatasetFeature(name="user_id", side=Side.USER),
            DatasetFeature(name="country", side=Side.USER),
            DatasetFeature(name="device", side=Side.CONTEXT),
            DatasetFeature(name="position", side=Side.CANDIDATE, kind="numeric"),
            DatasetFeature(name="item_id", side=Side.ITEM),
            DatasetFeature(name="price", side=Side.ITEM, kind="numeric"),
        ),
        splits=SPLITS,
        sampling=DatasetSampling(description="by hand"),
        tables={
            "exposures": exposures,
            "behaviors": behaviors,
            "users": pl.DataFrame({"user_id": ["ann"], "country": ["NZ"]}),
            "items": pl.DataFrame({"item_id": ["cup", "new", "pan"], "price": [2.5, 9.0, None]}),
        },
    )


def with_table(raw: RawTables, table: TableName, frame: pl.DataFrame) -> RawTables:
    """Return the tables with one of them replaced."""
    return replace(raw, tables={**raw.tables, table: frame})


def with_value(raw: RawTables, table: TableName, row: int, column: str, value: object) -> RawTables:
    """Return the tables with one value replaced."""
    values = raw.tables[table][column].to_list()
    values[row] = value
    return with_table(raw, table, raw.tables[table].with_columns(pl.Series(column, values, strict=False)))
