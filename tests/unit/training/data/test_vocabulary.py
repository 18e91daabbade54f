"""Vocabularies: what is counted, where, and what stays unknown."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from service.contract.features import (
    TIME_FEATURES,
    BucketEncoder,
    CategoricalEncoder,
    FeatureEncoder,
    FeatureSpec,
    Side,
)
from service.contract.history import I64
from service.contract.statistics import level_of
from tests.support.synthetic_dataset import tiny_dataset
from tests.unit.training.data.small_tables import small_tables, with_table
from training.config import StatisticsConfig, VocabularyConfig
from training.data.canonical import write_dataset
from training.data.dataset import Dataset
from training.data.raw import RawTables
from training.data.vocabulary import build_features
from training.errors import ConfigError


def features(
    tmp_path: Path,
    raw: RawTables | None = None,
    *,
    min_count: int = 1,
    buckets_count: int = 2,
    match: tuple[str, ...] | None = (),
    popularity: tuple[str, ...] | None = (),
) -> dict[str, FeatureSpec]:
    write_dataset(raw or small_tables(), tmp_path / "out")
    config = VocabularyConfig(min_count=min_count, buckets_count=buckets_count)
    found = build_features(
        Dataset(tmp_path / "out"), config, StatisticsConfig(match=match, popularity=popularity)
    )
    by_name = {spec.name: spec for spec in found}
    assert len(by_name) == len(found)
    return by_name


def levels_of(side: Side, found: dict[str, FeatureSpec]) -> list[str]:
    """Return the levels that there are features of on a side of what is counted, in their order."""
    return list(dict.fromkeys(level_of(spec) for spec in found.values() if spec.side is side))


def values(spec: FeatureSpec) -> tuple[str, ...]:
    assert isinstance(spec.encoder, CategoricalEncoder)
    return spec.encoder.values


def boundaries(spec: FeatureSpec) -> tuple[float, ...]:
    assert isinstance(spec.encoder, BucketEncoder)
    return spec.encoder.boundaries


def test_features_stand_by_side_with_the_time_features_last_of_the_context(tmp_path: Path) -> None:
    found = features(tmp_path)
    assert list(found) == ["user_id", "country", "device", *TIME_FEATURES, "position", "item_id", "price"]
    assert [found[name].side for name in TIME_FEATURES] == [Side.CONTEXT, Side.CONTEXT]


def test_what_is_counted_stands_between_features_of_the_candidate_and_of_the_item(tmp_path: Path) -> None:
    sides = [spec.side for spec in features(tmp_path, match=None, popularity=None).values()]
    order = [Side.USER, Side.CONTEXT, Side.CANDIDATE, Side.MATCH, Side.POPULARITY, Side.ITEM]
    assert list(dict.fromkeys(sides)) == order and sides == sorted(sides, key=order.index)


def test_match_levels_are_any_and_categorical_features_of_items_unless_some_are_named(tmp_path: Path) -> None:
    def levels(name: str, match: tuple[str, ...] | None) -> list[str]:
        return levels_of(Side.MATCH, features(tmp_path / name, match=match))

    assert levels("all", None) == ["any", "item_id"]  # price is a number
    tiny = build_features(tiny_dataset(tmp_path), VocabularyConfig(), StatisticsConfig())
    assert levels_of(Side.MATCH, {spec.name: spec for spec in tiny}) == ["any", "item_id", "category"]
    assert levels("one", ("item_id",)) == ["item_id"]
    assert levels("turned", ("item_id", "any")) == ["item_id", "any"]
    assert levels("none", ()) == []


def test_popularity_levels_are_the_item_and_it_in_categorical_features_of_the_context(tmp_path: Path) -> None:
    def levels(name: str, popularity: tuple[str, ...] | None) -> list[str]:
        return levels_of(Side.POPULARITY, features(tmp_path / name, popularity=popularity))

    assert levels("all", None) == ["item_id", "device"]  # and not the time features, which nobody recorded
    assert levels("one", ("device",)) == ["device"]
    assert levels("none", ()) == []


def test_counts_that_grow_for_as_long_as_there_are_logs_are_no_features(tmp_path: Path) -> None:
    found = features(tmp_path, match=None, popularity=None)
    steady = ["days", "fading_4d", "fading_14d", "fading_56d"]
    for level in ("match_any", "popularity_item_id", "popularity_device"):
        assert [name.removeprefix(f"{level}_") for name in found if name.startswith(level)] == steady
    own = [name.removeprefix("match_item_id_") for name in found if name.startswith("match_item_id")]
    assert own == ["count", *steady, "gap", "due"]


@pytest.mark.parametrize("level", ["price", "brand", "country", ""])
def test_a_level_that_is_no_categorical_feature_of_items_is_refused(tmp_path: Path, level: str) -> None:
    message = rf"statistics\.match: there is no level '{level}'; there are any, item_id"
    with pytest.raises(ConfigError, match=message):
        features(tmp_path, match=("any", level))


@pytest.mark.parametrize("level", ["any", "position", "country", "hour_of_day"])
def test_a_level_that_is_no_categorical_feature_of_the_context_is_refused(tmp_path: Path, level: str) -> None:
    message = rf"statistics\.popularity: there is no level '{level}'; there are item_id, device"
    with pytest.raises(ConfigError, match=message):
        features(tmp_path, popularity=("device", level))


@pytest.mark.parametrize("side", ["match", "popularity"])
def test_a_level_that_stands_twice_is_refused(tmp_path: Path, side: str) -> None:
    with pytest.raises(ConfigError, match=rf"statistics\.{side}: 'item_id' occurs twice"):
        features(tmp_path, **{side: ("item_id", "item_id")})


def test_features_of_what_is_counted_are_the_same_whatever_the_vocabulary(tmp_path: Path) -> None:
    few, many = (
        features(tmp_path / str(count), min_count=count, buckets_count=count, match=None, popularity=None)
        for count in (2, 6)
    )
    counted = [name for name, spec in few.items() if spec.side in (Side.MATCH, Side.POPULARITY)]
    assert [few[name] for name in counted] == [many[name] for name in counted]
    assert few["item_id"] != many["item_id"]


def test_counts_exposures_and_behaviors_of_the_training_weeks(tmp_path: Path) -> None:
    # training: exposures of cup, pan, cup (all ann's); behaviors jar (ann), jar (bob), cup (ann)
    found = features(tmp_path)
    assert values(found["item_id"]) == ("cup", "jar", "pan")  # 3, 2, 1
    assert values(found["user_id"]) == ("ann", "bob")  # 5, 1
    assert values(found["country"]) == ("NZ",)
    assert values(found["device"]) == ("tv", "phone")  # 2, 1: bob's phones come after training


@pytest.mark.parametrize(
    ("min_count", "items", "users"),
    [(2, ("cup", "jar"), ("ann",)), (3, ("cup",), ("ann",)), (4, (), ("ann",)), (6, (), ())],
)
def test_min_count_leaves_the_rare_unknown(
    tmp_path: Path, min_count: int, items: tuple[str, ...], users: tuple[str, ...]
) -> None:
    found = features(tmp_path, min_count=min_count)
    assert (values(found["item_id"]), values(found["user_id"])) == (items, users)
    assert FeatureEncoder(found["item_id"]).encode("pan") == 0


def test_what_was_never_seen_in_training_is_unknown(tmp_path: Path) -> None:
    found = features(tmp_path)
    assert FeatureEncoder(found["item_id"]).encode("new") == 0
    assert boundaries(found["price"]) == (2.5,)  # cup's; `new` costs 9 but nobody saw it, pan costs null


def test_null_is_unknown_and_has_no_id(tmp_path: Path) -> None:
    found = features(tmp_path)
    for name in ("country", "device", "position", "price"):
        assert FeatureEncoder(found[name]).encode(None) == 0
    assert "None" not in values(found["device"])


def test_equal_counts_go_by_value(tmp_path: Path) -> None:
    raw = small_tables()
    swapped = raw.tables["exposures"].with_columns(
        pl.Series("item_id", ["pan", "cup", "jar", "cup", "jar", "pan"])
    )
    raw = with_table(with_table(raw, "exposures", swapped), "behaviors", raw.tables["behaviors"].clear())
    assert values(features(tmp_path, raw)["item_id"]) == ("cup", "jar", "pan")


@pytest.mark.parametrize("buckets_count", [2, 4, 10])
def test_numbers_are_cut_into_buckets_of_as_many_distinct_values(tmp_path: Path, buckets_count: int) -> None:
    dataset = tiny_dataset(tmp_path)
    config = VocabularyConfig(min_count=1, buckets_count=buckets_count)
    price = {spec.name: spec for spec in build_features(dataset, config, StatisticsConfig())}["price"]
    assert len(boundaries(price)) == buckets_count - 1
    ids = FeatureEncoder(price).encode_many([1.0 + i for i in range(29)])  # every price once
    counts = np.bincount(ids, minlength=buckets_count + 1)
    assert counts[0] == 0 and counts[1:].max() - counts[1:].min() <= 1
    assert ids.tolist() == sorted(ids.tolist())


def test_fewer_distinct_numbers_than_buckets_have_a_bucket_each(tmp_path: Path) -> None:
    position = features(tmp_path, buckets_count=64)["position"]
    low, high = FeatureEncoder(position).encode_many([1.0, 2.0])
    assert 0 < low < high


def test_numbers_that_are_all_unknown_have_one_bucket(tmp_path: Path) -> None:
    raw = small_tables()
    nothing = raw.tables["items"].with_columns(pl.lit(None, pl.Float64).alias("price"))
    price = features(tmp_path, with_table(raw, "items", nothing))["price"]
    assert boundaries(price) == () and FeatureEncoder(price).encode(3.0) == 1


def test_equals_a_count_by_loops(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path)
    found = {
        spec.name: spec
        for spec in build_features(dataset, VocabularyConfig(min_count=100), StatisticsConfig())
    }
    category = dict(dataset.items.select("item_id", "category").iter_rows())
    country = dict(dataset.users.select("user_id", "country").iter_rows())
    counts: dict[str, Counter[str | None]] = {
        name: Counter() for name in ("item_id", "category", "user_id", "country", "device")
    }
    train_end_ms = dataset.spec.splits.train_end_ms
    seen = [row for row in dataset.exposures.iter_rows(named=True) if row["shown_at_ms"] < train_end_ms]
    for row in seen:
        counts["device"][row["device"]] += 1
    for row in [*seen, *(r for r in dataset.behaviors.iter_rows(named=True) if r["at_ms"] < train_end_ms)]:
        counts["item_id"][row["item_id"]] += 1
        counts["category"][category[row["item_id"]]] += 1
        counts["user_id"][row["user_id"]] += 1
        counts["country"][country[row["user_id"]]] += 1
    for name, counted in counts.items():
        kept = [(-n, value) for value, n in counted.items() if value is not None and n >= 100]
        assert values(found[name]) == tuple(value for _, value in sorted(kept))
    assert 0 < len(values(found["user_id"])) < 24


def test_encoded_columns_know_the_unknown(tmp_path: Path) -> None:
    found = features(tmp_path)
    ids: I64 = FeatureEncoder(found["item_id"]).encode_many(["cup", None, "spoon", "pan"])
    assert ids.tolist() == [1, 0, 0, 3]
