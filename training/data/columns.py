"""Columns: which a table must have, which types are accepted, and the canonical types they become.

What cannot become its canonical type is a matter of the file where the whole column is of a wrong type
(DataError), and of the row where single values are: those become null, or WRONG_LABEL, for `validation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import polars as pl

from training.data.errors import DataError

WRONG_LABEL: Final = -1
"""What a label that is neither 0, 1 nor null becomes."""


class ColumnKind(Enum):
    """What a column means; the value says to a person which types are accepted."""

    ID = "text or whole numbers (an id)"
    REQUEST = "whole numbers or text (a request id)"
    TIME = "whole numbers (milliseconds since 1970 UTC) or timestamps"
    LABEL = "0, 1 or null"
    NUMBER = "numbers"
    CATEGORICAL = "text, booleans or whole numbers"


def conform(frame: pl.DataFrame, kinds: Mapping[str, ColumnKind], *, file: str) -> pl.DataFrame:
    """Return a table with exactly these columns, in this order, in canonical types.

    Raises:
        DataError: a column is missing, unknown, or of a type that is not accepted.
    """
    missing = [name for name in kinds if name not in frame.columns]
    unknown = [name for name in frame.columns if name not in kinds]
    if missing:
        raise DataError(f"{file}: column {missing[0]!r} is missing; it has {', '.join(frame.columns)}")
    if unknown:
        raise DataError(
            f"{file}: column {unknown[0]!r} is unknown; declare it as a feature or task, or leave it out"
        )
    return frame.select(_conformed(frame[name], kind, file=file) for name, kind in kinds.items())


def _conformed(column: pl.Series, kind: ColumnKind, *, file: str) -> pl.Series:
    dtype = column.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        column, dtype = column.cast(pl.String), pl.String()
    text, whole, number = dtype == pl.String, dtype.is_integer(), dtype.is_numeric()
    if dtype == pl.Null:
        return column.cast(_CANONICAL[kind])
    if kind is ColumnKind.ID and (text or whole):
        return column.cast(pl.String)
    if kind is ColumnKind.REQUEST and whole:
        return column.cast(pl.Int64, strict=False)
    if kind is ColumnKind.REQUEST and text:
        return column.rank("dense").cast(pl.Int64)
    if kind is ColumnKind.TIME and whole:
        return column.cast(pl.Int64, strict=False)
    if kind is ColumnKind.TIME and isinstance(dtype, pl.Datetime):
        return column.dt.epoch("ms")
    if kind is ColumnKind.LABEL and (number or dtype == pl.Boolean):
        return _label(column)
    if kind is ColumnKind.NUMBER and (number or dtype == pl.Boolean):
        return column.cast(pl.Float64).fill_nan(None)
    if kind is ColumnKind.CATEGORICAL and (text or whole):
        return column.cast(pl.String)
    if kind is ColumnKind.CATEGORICAL and dtype == pl.Boolean:
        return column.replace_strict({True: "True", False: "False"}, return_dtype=pl.String)
    if kind is ColumnKind.CATEGORICAL and number and _is_whole(column):
        return column.fill_nan(None).cast(pl.Int64).cast(pl.String)
    raise DataError(f"{file}: column {column.name!r} is of type {dtype}, expected {kind.value}")


_CANONICAL: Final = {
    ColumnKind.ID: pl.String(),
    ColumnKind.REQUEST: pl.Int64(),
    ColumnKind.TIME: pl.Int64(),
    ColumnKind.LABEL: pl.Int8(),
    ColumnKind.NUMBER: pl.Float64(),
    ColumnKind.CATEGORICAL: pl.String(),
}


def _label(column: pl.Series) -> pl.Series:
    value = column.cast(pl.Float64)
    zero_or_one = value.is_in([0.0, 1.0])
    return (
        pl.select(
            pl.when(value.is_null())
            .then(None)
            .when(zero_or_one)
            .then(value)
            .otherwise(pl.lit(WRONG_LABEL))
            .cast(pl.Int8)
        )
        .to_series()
        .alias(column.name)
    )


def _is_whole(column: pl.Series) -> bool:
    """Say whether a column of floats holds whole numbers only: what a data frame makes of ids with gaps."""
    values = column.fill_nan(None).drop_nulls()
    return bool(values.is_finite().all()) and bool((values == values.floor()).all())
