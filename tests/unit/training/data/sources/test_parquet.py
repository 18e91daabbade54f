from __future__ import annotations

import re
import time
from datetime import date
from pathlib import Path

import polars as pl
import pytest
import yaml

from service.contract.features import Side
from training.data.dataset import Dataset
from training.data.errors import BadRowsError, DataError
from training.data.sources.parquet import Options, build, read_description
from training.stages import prepare

DOCUMENT = Path(__file__).parents[5] / "docs" / "bring-your-own-data.md"
DAY_MS = 24 * 3600 * 1000


def _block(title):
    (body,) = re.findall(rf"^```{re.escape(title)}\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    return body


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(_block("python example"), str(DOCUMENT), "exec"), {})
    Path("my_logs/dataset.yaml").write_text(_block("yaml dataset.yaml"))
    return tmp_path / "my_logs"


def _config():
    return yaml.safe_load(_block("yaml config"))["dataset"]


def _change(folder, **values):
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def test_the_documented_folder_becomes_a_dataset(folder, tmp_path):
    counts = prepare.run(_config(), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    assert counts == dataset.spec.counts
    assert counts["exposures"] == 6 and counts["requests"] == 4 and counts["rows_set_aside"] == 0
    assert dataset.spec.domains == ("home", "search")
    assert [(f.name, f.kind) for f in dataset.spec.features_of(Side.CANDIDATE)] == [("position", "numeric")]
    assert [f.name for f in dataset.spec.features_of(Side.USER)] == ["user_id", "country"]
    assert [len(dataset.exposures_of(split)) for split in ("train", "validation", "test")] == [3, 2, 1]
    assert dataset.exposures_of("test")["buy"].to_list() == [None]
    assert dataset.items["item_id"].to_list() == ["jar", "cup", "pan"]


def test_the_documented_refusal_is_the_message(folder, tmp_path):
    exposures = pl.read_parquet(folder / "exposures.parquet")
    exposures = exposures.with_columns(pl.Series("click", [1, 3, 0, 0, 1, 1]))
    exposures.write_parquet(folder / "exposures.parquet")
    behaviors = pl.read_parquet(folder / "behaviors.parquet")
    behaviors = behaviors.with_columns(pl.Series("strength", [0.2, 1.0, -1.0]))
    behaviors.write_parquet(folder / "behaviors.parquet")
    with pytest.raises(BadRowsError) as caught:
        prepare.run(_config(), tmp_path / "out")
    assert str(caught.value) == _block("text refusal").rstrip("\n")
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_set_aside_where_the_description_says_so(folder, tmp_path):
    items = pl.read_parquet(folder / "items.parquet")
    pl.concat([items, items.head(1)]).write_parquet(folder / "items.parquet")
    _change(folder, bad_rows="set_aside")
    assert prepare.run(_config(), tmp_path / "out")["rows_set_aside"] == 1


def test_files_are_named_as_the_description_names_them(folder):
    (folder / "exposures.parquet").rename(folder / "log.parquet")
    _change(folder, files={"exposures": "log.parquet"})
    raw = build(Options(path=folder), progress=lambda step: None)
    assert raw.file_names["exposures"] == "log.parquet"


def test_a_description_may_have_another_name(folder, tmp_path):
    (folder / "dataset.yaml").rename(folder / "shop.yaml")
    assert (
        prepare.run({"source": "parquet", "path": str(folder / "shop.yaml")}, tmp_path / "out")["users"] == 2
    )


def test_without_users_and_items_their_features_are_unknown(folder, tmp_path):
    _change(folder, files={})
    prepare.run(_config(), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    assert dataset.users.rows() == [("ann", None), ("bob", None)]
    assert dict(dataset.items.schema) == {
        "item_id": pl.String(),
        "category": pl.String(),
        "price": pl.Float64(),
    }


def test_without_a_keep_probability_nothing_was_left_out(folder, tmp_path):
    path = folder / "exposures.parquet"
    pl.read_parquet(path).drop("keep_probability").write_parquet(path)
    prepare.run(_config(), tmp_path / "out")
    assert Dataset(tmp_path / "out").exposures["keep_probability"].unique().to_list() == [1.0]


@pytest.fixture
def in_zone(monkeypatch):
    def set_zone(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize(
    "end", [date(2025, 2, 1), "2025-02-01", "2025-02-01T00:00:00", "2025-02-01T09:00:00+09:00"]
)
def test_ends_of_splits_without_a_zone_are_utc(end, zone, folder, in_zone):
    in_zone(zone)
    _change(folder, splits={"train_end": end, "validation_end": date(2025, 2, 15), "end": date(2025, 3, 1)})
    raw = build(Options(path=folder), progress=lambda step: None)
    assert raw.splits.validation_end_ms - raw.splits.train_end_ms == 14 * DAY_MS
    assert raw.splits.train_end_ms == 20_120 * DAY_MS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taks": []}, "taks: Extra inputs"),
        ({"domains": ["Home page"]}, "domains.0"),
        ({"bad_rows": "ignore"}, "bad_rows"),
        ({"features": {"user": {"age": "number"}}}, "features.user.age"),
        (
            {"splits": {"train_end": "soon", "validation_end": "2025-02-15", "end": "2025-03-01"}},
            "splits.train_end",
        ),
    ],
)
def test_a_wrong_key_of_the_description_is_named(folder, change, message):
    _change(folder, **change)
    with pytest.raises(DataError, match=re.escape(message)):
        read_description(folder / "dataset.yaml")


@pytest.mark.parametrize("body", [None, b"a: [", b"\xff\xfe\x00"])
def test_a_description_that_is_no_yaml_is_an_error_of_the_data(folder, body):
    path = folder / "dataset.yaml"
    path.unlink()
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(DataError, match="cannot be read"):
        build(Options(path=folder), progress=lambda step: None)


def test_a_file_that_is_no_parquet_is_an_error_of_the_data(folder):
    (folder / "behaviors.parquet").write_text("user_id,item_id")
    with pytest.raises(DataError, match=r"behaviors\.parquet cannot be read as Parquet"):
        build(Options(path=folder), progress=lambda step: None)


def test_an_undeclared_column_is_refused(folder, tmp_path):
    _change(folder, features={})
    with pytest.raises(DataError, match=r"exposures\.parquet: column 'device' is unknown"):
        prepare.run(_config(), tmp_path / "out")
