"""Counts of past behaviors strictly before each exposure: what gradient boosting knows of a life cycle.

For each key (a user and a product type, say): how many behaviors of it there were before the exposure, and
how many days ago the last one was. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from service.contract.features import Side
from training.data.dataset import Dataset

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_MS_PER_DAY: Final = 24 * 3600 * 1000


def count_keys(dataset: Dataset) -> list[tuple[str, ...]]:
    """Return what is counted: user × (item, each item feature), user, item, item × each context feature.

    On Complete Journey: household × (product, product type, category, department, brand, manufacturer),
    household, product, product × store.
    """
    attributes = [f.name for f in dataset.spec.features_of(Side.ITEM) if f.kind == "categorical"]
    contexts = [f.name for f in dataset.spec.features_of(Side.CONTEXT) if f.kind == "categorical"]
    return [
        *(("user_id", name) for name in attributes),
        ("user_id",),
        ("item_id",),
        *(("item_id", name) for name in contexts),
    ]


def past_counts(dataset: Dataset) -> pl.DataFrame:
    """Return two columns a key, one row an exposure: `<key>_count`, and `<key>_days` (NaN where it is 0).

    A behavior has the context of the requests of its user at its time; those without a request have none
    and count for no key with a context feature.
    """
    contexts = [f.name for f in dataset.spec.features_of(Side.CONTEXT)]
    visits = dataset.exposures.select("user_id", pl.col("shown_at_ms").alias("at_ms"), *contexts)
    visits = visits.unique(["user_id", "at_ms"], keep="first", maintain_order=True)
    behaviors = dataset.behaviors.join(visits, on=["user_id", "at_ms"], how="left").join(
        dataset.items, on="item_id", how="left"
    )
    exposures = dataset.exposures.rename({"shown_at_ms": "at_ms"}).join(
        dataset.items, on="item_id", how="left", maintain_order="left"
    )
    columns = {}
    for key in count_keys(dataset):
        count, days = counts_before(behaviors, exposures, key)
        columns["+".join(key) + "_count"] = count
        columns["+".join(key) + "_days"] = days
    return pl.DataFrame(columns)


def counts_before(behaviors: pl.DataFrame, exposures: pl.DataFrame, key: Sequence[str]) -> tuple[F32, F32]:
    """Return how many behaviors share an exposure's key and lie strictly before it, and days since the last.

    A null in a key is a value that nothing shares. Both tables have the key's columns and `at_ms`.

    Shapes:
        returns: count (B,), days (B,), NaN where the count is 0.
    """
    ids = behaviors.select(*key).drop_nulls().unique().with_row_index("_id")
    known = behaviors.join(ids, on=list(key), how="inner")
    asked = exposures.join(ids, on=list(key), how="left", maintain_order="left")
    start = min(int(behaviors["at_ms"].min() or 0), int(exposures["at_ms"].min() or 0))  # type: ignore[arg-type]
    stop = max(int(behaviors["at_ms"].max() or 0), int(exposures["at_ms"].max() or 0))  # type: ignore[arg-type]
    stride = stop - start + 2

    def placed(table: pl.DataFrame) -> I64:
        """Put (key, time) on one line of integers, keys end to end."""
        key_id = table["_id"].fill_null(len(ids)).to_numpy().astype(np.int64)
        return key_id * stride + (table["at_ms"].to_numpy().astype(np.int64) - start)

    line, at = np.sort(placed(known)), placed(asked)
    first, last = np.searchsorted(line, at - at % stride), np.searchsorted(line, at)
    count = last - first
    days = np.full(len(at), np.nan, np.float32)
    some = count > 0
    days[some] = (at[some] - line[last[some] - 1]) / _MS_PER_DAY
    return count.astype(np.float32), days
