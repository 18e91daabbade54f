"""How strongly a household bought: its spend against what is usually spent on that product."""

from __future__ import annotations

from typing import Final

import polars as pl

PURCHASES_MIN: Final = 5
"""Training-week purchases below which a product has the centile of its product type."""

_CENTILE: Final = 0.95


def spend_strength(purchases: pl.DataFrame, products: pl.DataFrame, *, train_end_ms: int) -> pl.Series:
    """Return each purchase's spend over the 95th centile spend of its product, clipped to 1.

    Centiles are of purchases before `train_end_ms`: of the product, of its product type where the product
    was bought fewer than PURCHASES_MIN times or its centile is 0, of everything where the type has none
    above 0 either. Rows keep their order.
    """
    typed = purchases.select("product_id", "sales_value", "at_ms").join(
        products.select("product_id", "product_type"), on="product_id", how="left", maintain_order="left"
    )
    train = typed.filter(pl.col("at_ms") < train_end_ms)
    centile = pl.col("sales_value").quantile(_CENTILE, "linear")
    by_product = (
        train.group_by("product_id")
        .agg(centile.alias("_product"), pl.len().alias("_count"))
        .filter((pl.col("_count") >= PURCHASES_MIN) & (pl.col("_product") > 0))
    )
    by_type = (
        train.drop_nulls("product_type")
        .group_by("product_type")
        .agg(centile.alias("_type"))
        .filter(pl.col("_type") > 0)
    )
    usual = pl.coalesce("_product", "_type", pl.lit(train.select(centile).item(), pl.Float64))
    return (
        typed.join(by_product, on="product_id", how="left", maintain_order="left")
        .join(by_type, on="product_type", how="left", maintain_order="left")
        .select(pl.when(usual > 0).then(pl.col("sales_value") / usual).otherwise(0.0).clip(0.0, 1.0))
        .to_series()
        .rename("strength")
    )
