from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from service.contract.features import canonical_text
from training.data.columns import WRONG_LABEL, ColumnKind, conform
from training.data.errors import DataError


def _one(values, kind, dtype=None):
    return conform(pl.DataFrame({"x": pl.Series(values, dtype=dtype)}), {"x": kind}, file="f")["x"].to_list()


def test_a_missing_column_is_named_with_its_file():
    with pytest.raises(DataError, match=r"f\.parquet: column 'y' is missing; it has x"):
        conform(pl.DataFrame({"x": [1]}), {"x": ColumnKind.ID, "y": ColumnKind.ID}, file="f.parquet")


def test_an_unknown_column_is_named_with_its_file():
    with pytest.raises(DataError, match=r"f\.parquet: column 'z' is unknown"):
        conform(pl.DataFrame({"x": [1], "z": [1]}), {"x": ColumnKind.ID}, file="f.parquet")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ColumnKind.ID, [1.5]),
        (ColumnKind.REQUEST, [True]),
        (ColumnKind.TIME, ["2020-01-01"]),
        (ColumnKind.TIME, [1.0]),
        (ColumnKind.LABEL, ["1"]),
        (ColumnKind.NUMBER, ["1"]),
        (ColumnKind.CATEGORICAL, [1.5]),
        (ColumnKind.CATEGORICAL, [[1]]),
    ],
)
def test_a_column_of_a_wrong_type_is_refused(kind, values):
    with pytest.raises(DataError, match="f: column 'x' is of type"):
        _one(values, kind)


def test_times_become_milliseconds():
    assert _one([datetime(1970, 1, 2)], ColumnKind.TIME) == [86_400_000]
    assert _one([datetime(1970, 1, 2, tzinfo=UTC)], ColumnKind.TIME) == [86_400_000]
    assert _one([5, 2**64 - 1], ColumnKind.TIME, pl.UInt64()) == [5, None]


def test_labels_that_are_not_0_or_1_are_marked():
    assert _one([0, 1, None, 300, -1], ColumnKind.LABEL) == [0, 1, None, WRONG_LABEL, WRONG_LABEL]
    assert _one([0.0, 1.0, 0.5, float("nan")], ColumnKind.LABEL) == [0, 1, WRONG_LABEL, WRONG_LABEL]
    assert _one([True, False], ColumnKind.LABEL) == [1, 0]


@pytest.mark.parametrize("values", [[7, 8], [7.0, None], ["7", "a"], [True, False]])
def test_a_category_has_the_text_that_a_request_would_give_it(values):
    expected = [None if value is None else canonical_text(value) for value in values]
    assert _one(values, ColumnKind.CATEGORICAL) == expected


def test_request_ids_of_text_are_numbered():
    assert _one(["b", "a", "b"], ColumnKind.REQUEST) == [2, 1, 2]


def test_a_number_that_is_nan_is_null():
    assert _one([1.0, float("nan")], ColumnKind.NUMBER) == [1.0, None]
