from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from tests.unit.training.data.small_tables import DAY_MS, SPLITS, small_tables, with_table, with_value
from training.data.canonical import write_dataset
from training.data.dataset import BEHAVIOR_COLUMNS, EXPOSURE_COLUMNS, SET_ASIDE_FILE, Dataset, DatasetSpec
from training.data.errors import BadRowsError, DataError
from training.data.raw import CANONICAL_FILES


def _written(raw, tmp_path):
    write_dataset(raw, tmp_path / "dataset")
    return Dataset(tmp_path / "dataset")


def _exposure(dataset, request_id, item_id):
    return dataset.exposures.row(
        by_predicate=(pl.col("request_id") == request_id) & (pl.col("item_id") == item_id), named=True
    )


def test_what_is_written_reads_back_in_canonical_types(tmp_path):
    dataset = _written(small_tables(), tmp_path)
    labels = {"click": pl.Int8(), "buy": pl.Int8()}
    features = {"device": pl.String(), "position": pl.Float64()}
    assert dict(dataset.exposures.schema) == {**EXPOSURE_COLUMNS, **labels, **features}
    assert dict(dataset.behaviors.schema) == BEHAVIOR_COLUMNS
    assert dataset.spec.counts["requests"] == 4
    assert dataset.spec.counts["requests_with_click"] == 3


def test_splits_follow_the_time_shown(tmp_path):
    dataset = _written(small_tables(), tmp_path)
    assert [len(dataset.exposures_of(split)) for split in ("train", "validation", "test")] == [3, 2, 1]


def test_a_label_that_its_split_could_not_know_is_masked(tmp_path):
    dataset = _written(small_tables(), tmp_path)
    assert _exposure(dataset, 7, "cup")["buy"] == 1
    assert (
        _exposure(dataset, 8, "cup")["buy"] is None
    )  # shown on day 9, known on day 11, training ends on day 10
    assert _exposure(dataset, 8, "cup")["click"] == 1


def test_a_label_known_at_the_very_end_of_its_split_counts(tmp_path):
    raw = with_value(small_tables(), "exposures", 2, "shown_at_ms", SPLITS.train_end_ms - 2 * DAY_MS)
    assert _exposure(_written(raw, tmp_path), 8, "cup")["buy"] == 0


def test_rows_are_ordered_by_user_time_request_and_item(tmp_path):
    raw = small_tables()
    shuffled = raw.tables["exposures"][[3, 1, 0, 4, 2, 5]]
    exposures = _written(with_table(raw, "exposures", shuffled), tmp_path).exposures
    assert exposures["request_id"].to_list() == [7, 7, 8, 9, 9, 10]
    assert exposures["item_id"].to_list() == ["cup", "pan", "cup", "cup", "jar", "pan"]


def test_behaviors_of_equal_time_keep_their_order(tmp_path):
    behaviors = pl.DataFrame(
        {"user_id": ["ann"] * 3, "item_id": ["z", "a", "m"], "at_ms": [5, 5, 5], "strength": [1.0] * 3}
    )
    dataset = _written(with_table(small_tables(), "behaviors", behaviors), tmp_path)
    assert dataset.behaviors["item_id"].to_list() == ["z", "a", "m"]


def test_items_are_listed_by_first_appearance_then_by_id_and_unseen_ones_last(tmp_path):
    dataset = _written(small_tables(), tmp_path)
    assert dataset.items["item_id"].to_list() == ["jar", "cup", "pan", "new"]
    assert dataset.items["price"].to_list() == [None, 2.5, None, 9.0]


def test_users_without_features_are_listed(tmp_path):
    dataset = _written(small_tables(), tmp_path)
    assert dataset.users.rows() == [("ann", "NZ"), ("bob", None)]


def test_the_fingerprint_follows_the_content_only(tmp_path):
    first = _written(small_tables(), tmp_path).spec.fingerprint
    again = write_dataset(small_tables(), tmp_path / "again").fingerprint
    other = write_dataset(
        with_value(small_tables(), "items", 0, "price", 3.0), tmp_path / "other"
    ).fingerprint
    renamed = write_dataset(replace(small_tables(), name="else"), tmp_path / "renamed").fingerprint
    assert first == again
    assert len({first, other, renamed}) == 3


NAN = float("nan")
BAD = [
    ("exposures", 1, "request_id", None, "request_id", "no request id"),
    ("exposures", 1, "user_id", "", "user_id", "no user id"),
    ("exposures", 1, "user_id", None, "user_id", "no user id"),
    ("exposures", 1, "item_id", None, "item_id", "no item id"),
    ("exposures", 1, "item_id", "a\nb", "item_id", "not printable"),
    ("exposures", 1, "item_id", "x" * 257, "item_id", "too long"),
    ("exposures", 1, "item_id", "cup", "request_id, item_id", "has this item already"),
    ("exposures", 1, "domain", "billboard", "domain", "none of home, search"),
    ("exposures", 1, "domain", None, "domain", "none of home, search"),
    ("exposures", 1, "shown_at_ms", None, "shown_at_ms", "no time"),
    ("exposures", 1, "shown_at_ms", -5, "shown_at_ms", "before 1970"),
    ("exposures", 5, "shown_at_ms", 30 * DAY_MS, "shown_at_ms", "not before the end of the data"),
    ("exposures", 5, "shown_at_ms", 10 * DAY_MS, "shown_at_ms", "goes back"),
    ("exposures", 1, "keep_probability", 0.0, "keep_probability", "not above 0"),
    ("exposures", 1, "keep_probability", 1.01, "keep_probability", "at most 1"),
    ("exposures", 1, "keep_probability", NAN, "keep_probability", "not above 0"),
    ("exposures", 1, "click", None, "click", "missing"),
    ("exposures", 1, "click", 2, "click", "not 0 or 1"),
    ("exposures", 1, "click", NAN, "click", "not 0 or 1"),
    ("exposures", 1, "buy", 0.5, "buy", "not 0 or 1"),
    ("exposures", 1, "buy", 1, "buy", "1 where click is not"),
    ("exposures", 1, "user_id", "bob", "user_id", "differs within the request"),
    ("exposures", 1, "domain", "search", "domain", "differs within the request"),
    ("exposures", 1, "shown_at_ms", 3 * DAY_MS, "shown_at_ms", "differs within the request"),
    ("exposures", 1, "keep_probability", 0.4, "keep_probability", "differs within the request"),
    ("exposures", 1, "device", None, "device", "differs within the request"),
    ("behaviors", 2, "user_id", "", "user_id", "no user id"),
    ("behaviors", 2, "item_id", "", "item_id", "empty"),
    ("behaviors", 2, "at_ms", None, "at_ms", "no time"),
    ("behaviors", 2, "at_ms", 31 * DAY_MS, "at_ms", "not before the end of the data"),
    ("behaviors", 2, "at_ms", 0, "at_ms", "goes back"),
    ("behaviors", 2, "strength", NAN, "strength", "not a finite number"),
    ("behaviors", 2, "strength", float("inf"), "strength", "not a finite number"),
    ("behaviors", 2, "strength", -0.1, "strength", "not a finite number"),
    ("users", 0, "user_id", "", "user_id", "no user id"),
    ("items", 0, "item_id", "\x7f", "item_id", "not printable"),
    ("items", 2, "item_id", "cup", "item_id", "listed before"),
]


@pytest.mark.parametrize(("table", "row", "column", "value", "named", "reason"), BAD)
def test_a_bad_row_is_refused_with_file_row_column_and_reason(
    table, row, column, value, named, reason, tmp_path
):
    raw = with_value(small_tables(), table, row, column, value)
    with pytest.raises(BadRowsError) as caught:
        write_dataset(raw, tmp_path / "dataset")
    (bad,) = caught.value.rows
    assert (bad.file, bad.row, bad.column) == (CANONICAL_FILES[table], row, named)
    assert reason in bad.reason
    assert str(bad) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("table", "row", "column", "value", "named", "reason"), BAD)
def test_a_bad_row_is_set_aside_and_counted_where_the_config_says_so(
    table, row, column, value, named, reason, tmp_path
):
    raw = replace(with_value(small_tables(), table, row, column, value), bad_rows="set_aside")
    dataset = _written(raw, tmp_path)
    (aside,) = pl.read_parquet(dataset.folder / SET_ASIDE_FILE).iter_rows(named=True)
    assert (aside["file"], aside["row"], aside["column"]) == (CANONICAL_FILES[table], row, named)
    assert reason in aside["reason"]
    assert dataset.spec.counts["rows_set_aside"] == 1
    if table in ("exposures", "behaviors"):
        assert dataset.spec.counts[table] == len(small_tables().tables[table]) - 1


def test_a_future_row_does_not_make_the_rows_after_it_look_late(tmp_path):
    raw = replace(with_value(small_tables(), "behaviors", 0, "at_ms", 40 * DAY_MS), bad_rows="set_aside")
    assert _written(raw, tmp_path).spec.counts["rows_set_aside"] == 1


def test_many_bad_rows_are_counted_and_the_first_few_named(tmp_path):
    raw = small_tables()
    frame = raw.tables["exposures"].with_columns(pl.lit("nowhere").alias("domain"))
    with pytest.raises(BadRowsError, match="6 bad rows") as caught:
        write_dataset(with_table(raw, "exposures", frame), tmp_path / "dataset")
    assert "exposures.parquet, row 0, domain" in str(caught.value)
    assert "and 1 more" in str(caught.value)


def test_nothing_left_is_an_error_even_when_set_aside(tmp_path):
    raw = small_tables()
    frame = raw.tables["exposures"].with_columns(pl.lit("nowhere").alias("domain"))
    raw = replace(with_table(raw, "exposures", frame), bad_rows="set_aside")
    with pytest.raises(DataError, match="no row is left"):
        write_dataset(raw, tmp_path / "dataset")


def test_a_refused_dataset_leaves_the_old_one_whole(tmp_path):
    before = _written(small_tables(), tmp_path).spec
    with pytest.raises(BadRowsError):
        write_dataset(with_value(small_tables(), "exposures", 0, "click", 7), tmp_path / "dataset")
    assert Dataset(tmp_path / "dataset").spec == before


def test_a_new_dataset_takes_the_place_of_the_old_one(tmp_path):
    _written(small_tables(), tmp_path)
    (tmp_path / "dataset" / "left_over").touch()
    dataset = _written(replace(small_tables(), name="newer"), tmp_path)
    assert dataset.spec.name == "newer"
    assert not (dataset.folder / "left_over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": SPLITS.model_copy(update={"end_ms": 0})}, "follow one another"),
        ({"domains": ()}, "at least one"),
        ({"domains": ("Home", "search", "home")}, "domains"),
        ({"tasks": tuple(reversed(small_tables().tasks))}, "no task listed before"),
        ({"features": small_tables().features * 2}, "is taken"),
        ({"features": small_tables().features[1:]}, "user_id must be a user feature"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(change, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_dataset(replace(small_tables(), **change), tmp_path / "dataset")


def test_reading_what_is_no_dataset_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="run the stage `prepare` first"):
        Dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match="fingerprint"):
        Dataset(tmp_path)


def test_negatives_left_out_through_one_of_two_tasks_are_refused(tmp_path):
    raw = small_tables()
    alone = replace(raw, tasks=tuple(task.model_copy(update={"given": None}) for task in raw.tasks))
    sampled = with_value(alone, "exposures", 5, "keep_probability", 0.5)
    with pytest.raises(DataError, match="negatives can be left out through one task only"):
        write_dataset(sampled, tmp_path / "dataset")


def test_a_domain_that_is_named_like_all_of_them_is_refused():
    with pytest.raises(ValueError, match="names all domains together"):
        DatasetSpec.model_validate({"domains": ["all", "mailer"]})
