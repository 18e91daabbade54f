"""From a source's raw tables to a canonical dataset on disk: types, bad rows, splits, maturity, order, files.

Knows nothing of where the tables came from. Either the whole dataset is written or nothing is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl
from pydantic import ValidationError

from service.contract.features import TIME_FEATURES, Side
from training.data.columns import ColumnKind, conform
from training.data.dataset import (
    BEHAVIOR_COLUMNS,
    EXPOSURE_COLUMNS,
    SET_ASIDE_FILE,
    SPEC_FILE,
    SPLITS,
    DatasetFeature,
    DatasetSpec,
)
from training.data.errors import BadRowsError, DataError
from training.data.fingerprint import fingerprint
from training.data.raw import CANONICAL_FILES, Progress, RawTables, TableName
from training.data.validation import (
    Rule,
    bad_rows_of,
    behavior_rules,
    exposure_rules,
    find_bad_rows,
    item_rules,
    user_rules,
)

STEPS: Final = ("checking rows", "ordering", "writing")
_MS_PER_DAY: Final = 24 * 3600 * 1000
_BAD_ROWS_NAMED: Final = 20
_SIDES: Final[Mapping[TableName, tuple[Side, ...]]] = {
    "exposures": (Side.CONTEXT, Side.CANDIDATE),
    "behaviors": (),
    "users": (Side.USER,),
    "items": (Side.ITEM,),
}


def write_dataset(raw: RawTables, out: Path, *, progress: Progress = lambda step: None) -> DatasetSpec:
    """Check raw tables, complete them, and write them as a canonical dataset in place of what `out` holds.

    Raises:
        DataError: a column or the description is wrong, or nothing is left.
        BadRowsError: rows are bad and are not to be set aside.
    """
    _check_description(raw)
    progress(STEPS[0])
    raw, bad = _without_bad_rows(_conformed(raw))
    _check_sampling(raw)
    progress(STEPS[1])
    tables = _completed(raw)
    spec = _described(raw, tables, bad_rows=bad)
    progress(STEPS[2])
    _write(spec, tables, bad, out)
    return spec


def _check_description(raw: RawTables) -> None:
    """Refuse a description that contradicts itself."""
    splits = raw.splits
    if not splits.train_end_ms < splits.validation_end_ms < splits.end_ms:
        raise DataError("splits: train_end, validation_end and end must follow one another in time")
    names = [task.name for task in raw.tasks]
    if not names or not raw.domains:
        raise DataError("tasks and domains: at least one of each is needed")
    for place, task in enumerate(raw.tasks):
        if task.given is not None and task.given not in names[:place]:
            raise DataError(f"task {task.name!r}: its `given` {task.given!r} is no task listed before it")
    columns = [*EXPOSURE_COLUMNS, *BEHAVIOR_COLUMNS, *TIME_FEATURES]
    columns = [name for name in dict.fromkeys(columns) if name not in ("user_id", "item_id")]
    columns += [*names, *(feature.name for feature in raw.features)]
    twice = next((name for i, name in enumerate(columns) if name in columns[:i]), None)
    if twice is not None:
        raise DataError(f"the name {twice!r} is taken: features, tasks and columns need different names")
    sides = {feature.name: feature.side for feature in raw.features}
    if sides.get("user_id") is not Side.USER or sides.get("item_id") is not Side.ITEM:
        raise DataError("features: user_id must be a user feature and item_id an item feature")


def _check_sampling(raw: RawTables) -> None:
    """Refuse what cannot be brought back to natural rates: rows are sampled through one task's label only."""
    alone = [task.name for task in raw.tasks if task.given is None]
    sampled = bool((raw.tables["exposures"]["keep_probability"] < 1).any())
    if sampled and len(alone) > 1:
        raise DataError(
            f"keep_probability is below 1, and tasks {', '.join(alone)} have no `given`: negatives can be left out "
            f"through one task only. Let the others be `given` {alone[0]!r}, or keep all rows"
        )


def _kinds(raw: RawTables, table: TableName) -> dict[str, ColumnKind]:
    """Return the columns of a table, in canonical order."""
    kinds: dict[str, ColumnKind] = {
        "exposures": {
            "request_id": ColumnKind.REQUEST,
            "user_id": ColumnKind.ID,
            "item_id": ColumnKind.ID,
            "domain": ColumnKind.CATEGORICAL,
            "shown_at_ms": ColumnKind.TIME,
            "keep_probability": ColumnKind.NUMBER,
            **{task.name: ColumnKind.LABEL for task in raw.tasks},
        },
        "behaviors": {
            "user_id": ColumnKind.ID,
            "item_id": ColumnKind.ID,
            "at_ms": ColumnKind.TIME,
            "strength": ColumnKind.NUMBER,
        },
        "users": {"user_id": ColumnKind.ID},
        "items": {"item_id": ColumnKind.ID},
    }[table]
    for feature in raw.features:
        if feature.side in _SIDES[table] and feature.name not in kinds:
            kinds[feature.name] = _kind_of(feature)
    return kinds


def _kind_of(feature: DatasetFeature) -> ColumnKind:
    return ColumnKind.CATEGORICAL if feature.kind == "categorical" else ColumnKind.NUMBER


def _conformed(raw: RawTables) -> RawTables:
    tables: dict[TableName, pl.DataFrame] = {
        table: conform(raw.tables[table], _kinds(raw, table), file=raw.file_names[table])
        for table in CANONICAL_FILES
    }
    return replace(raw, tables=tables)


def _without_bad_rows(raw: RawTables) -> tuple[RawTables, pl.DataFrame]:
    """Return the tables without their bad rows, and where those were."""
    kept: dict[TableName, pl.DataFrame] = {}
    bad: list[pl.DataFrame] = []
    for table, frame in raw.tables.items():
        found = find_bad_rows(frame, _rules(raw, table), file=raw.file_names[table])
        bad.append(found)
        kept[table] = frame
        if len(found):
            rows = frame.with_row_index("_row")
            kept[table] = rows.filter(~pl.col("_row").is_in(found["row"].implode())).drop("_row")
    everything = pl.concat(bad)
    if len(everything) and raw.bad_rows == "refuse":
        raise BadRowsError(bad_rows_of(everything, _BAD_ROWS_NAMED), rows_count=len(everything))
    if kept["exposures"].is_empty():
        raise DataError(f"{raw.file_names['exposures']}: no row is left")
    return replace(raw, tables=kept), everything


def _rules(raw: RawTables, table: TableName) -> Sequence[Sequence[Rule]]:
    frame, end_ms = raw.tables[table], raw.splits.end_ms
    if table == "exposures":
        context = [feature.name for feature in raw.features if feature.side is Side.CONTEXT]
        return exposure_rules(
            frame, domains=raw.domains, tasks=raw.tasks, context_features=context, end_ms=end_ms
        )
    if table == "behaviors":
        return behavior_rules(frame, end_ms=end_ms)
    return user_rules() if table == "users" else item_rules(frame)


def _completed(raw: RawTables) -> dict[TableName, pl.DataFrame]:
    """Return the canonical tables: splits, maturity masks, every user and item, order."""
    exposures = _in_splits(raw).sort("user_id", "shown_at_ms", "request_id", "item_id")
    behaviors = (
        raw.tables["behaviors"]
        .with_columns(pl.col("strength").cast(pl.Float32))
        .sort("user_id", "at_ms", maintain_order=True)
    )
    seen = pl.concat(
        [
            behaviors.select("user_id", "item_id", "at_ms"),
            exposures.select("user_id", "item_id", pl.col("shown_at_ms").alias("at_ms")),
        ]
    )
    items = (
        seen.group_by("item_id")
        .agg(pl.col("at_ms").min())
        .join(raw.tables["items"], on="item_id", how="full", coalesce=True)
        .sort("at_ms", "item_id", nulls_last=True)
        .drop("at_ms")
    )
    users = (
        seen.select("user_id")
        .unique()
        .join(raw.tables["users"], on="user_id", how="full", coalesce=True)
        .sort("user_id")
    )
    return {"exposures": exposures, "behaviors": behaviors, "users": users, "items": items}


def _in_splits(raw: RawTables) -> pl.DataFrame:
    """Return the exposures with their split, and with labels masked that their split's end did not know."""
    exposures, splits, at = raw.tables["exposures"], raw.splits, pl.col("shown_at_ms")
    split = (
        pl.when(at < splits.train_end_ms)
        .then(pl.lit("train"))
        .when(at < splits.validation_end_ms)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("test"))
    )
    ends = [splits.end_of_ms(name) for name in SPLITS]
    known_until = pl.col("split").replace_strict(list(SPLITS), ends, return_dtype=pl.Int64)
    labels = [
        pl.when(at + round(task.matures_after_days * _MS_PER_DAY) <= known_until)
        .then(pl.col(task.name))
        .alias(task.name)
        for task in raw.tasks
        if task.matures_after_days > 0
    ]
    names = [
        *EXPOSURE_COLUMNS,
        *(column for column in exposures.columns if column not in EXPOSURE_COLUMNS),
    ]
    return exposures.with_columns(split.alias("split")).with_columns(labels).select(names)


def _described(
    raw: RawTables, tables: Mapping[TableName, pl.DataFrame], *, bad_rows: pl.DataFrame
) -> DatasetSpec:
    try:
        spec = DatasetSpec(
            name=raw.name,
            fingerprint="",
            domains=raw.domains,
            tasks=raw.tasks,
            features=raw.features,
            splits=raw.splits,
            sampling=raw.sampling,
            counts=_counts(raw, tables, bad_rows=bad_rows),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: {first['msg']}") from error
    return spec.model_copy(update={"fingerprint": fingerprint(spec.model_dump_json(), tables.items())})


def _counts(
    raw: RawTables, tables: Mapping[TableName, pl.DataFrame], *, bad_rows: pl.DataFrame
) -> dict[str, int]:
    exposures, first = tables["exposures"], raw.tasks[0].name
    with_positive = exposures.filter(pl.col(first) == 1)["request_id"].n_unique()
    return {
        **{str(table): len(frame) for table, frame in tables.items()},
        "requests": exposures["request_id"].n_unique(),
        f"requests_with_{first}": with_positive,
        **{f"exposures_{split}": int((exposures["split"] == split).sum()) for split in SPLITS},
        **{f"{task.name}_positives": int((exposures[task.name] == 1).sum()) for task in raw.tasks},
        **{f"{task.name}_masked": exposures[task.name].null_count() for task in raw.tasks},
        "rows_set_aside": len(bad_rows),
        **raw.counts,
    }


def _write(
    spec: DatasetSpec, tables: Mapping[TableName, pl.DataFrame], bad_rows: pl.DataFrame, out: Path
) -> None:
    """Write beside `out` and rename into its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        new = staging / "new"
        new.mkdir()
        for table, frame in tables.items():
            frame.write_parquet(new / CANONICAL_FILES[table])
        if len(bad_rows):
            bad_rows.write_parquet(new / SET_ASIDE_FILE)
        (new / SPEC_FILE).write_text(spec.model_dump_json(indent=2))
        if out.exists():
            out.rename(staging / "old")
        new.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
