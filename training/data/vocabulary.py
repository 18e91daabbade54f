"""Vocabularies: which values of each feature get an id, learned from the training weeks.

Knows nothing of the ids' later use; how a value becomes an id is the contract's (`service.contract.features`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from service.contract.features import (
    TIME_FEATURES,
    BucketEncoder,
    CategoricalEncoder,
    FeatureSpec,
    Side,
    time_encoder,
)
from service.contract.match import ANY
from service.contract.statistics import STATISTICS, STEADY, statistics_features
from training.config import StatisticsConfig, VocabularyConfig
from training.data.dataset import DATASET_SIDES, Dataset, DatasetFeature
from training.data.popularity import popularity_levels
from training.errors import ConfigError


def build_features(
    dataset: Dataset, config: VocabularyConfig, statistics: StatisticsConfig
) -> tuple[FeatureSpec, ...]:
    """Return every feature with its encoder: user, context (time features last), candidate, match, popularity, item.

    A categorical value gets an id if it occurs at least `min_count` times in the training weeks, counted over
    exposures and behaviors; the more frequent, the smaller the id. A numeric feature is cut at the quantiles
    of its distinct training values.

    Raises:
        ConfigError: a level of statistics is no categorical feature of items, or of the context.
    """
    occurrences = _Occurrences(dataset)
    specs: list[FeatureSpec] = []
    for side in DATASET_SIDES:
        if side is Side.ITEM:
            specs.extend(counted_features(Side.MATCH, _match_levels(dataset, statistics.match)))
            specs.extend(
                counted_features(Side.POPULARITY, _popularity_levels(dataset, statistics.popularity))
            )
        for feature in dataset.spec.features_of(side):
            values = occurrences.of(feature)
            encoder = (
                _categorical(values, config) if feature.kind == "categorical" else _buckets(values, config)
            )
            specs.append(FeatureSpec(name=feature.name, side=side, encoder=encoder))
        if side is Side.CONTEXT:
            specs.extend(
                FeatureSpec(name=name, side=side, encoder=time_encoder(name)) for name in TIME_FEATURES
            )
    return tuple(specs)


def counted_features(side: Side, levels: Sequence[str]) -> Iterator[FeatureSpec]:
    """Yield the features that a model is given of each level of match statistics, or of popularity.

    Everyone's counts, and those of anything at all, grow for as long as there are logs: what a model learned of
    them is out of date by the time it serves. Of these levels it gets what does not.
    """
    for level in levels:
        grows = side is Side.POPULARITY or level == ANY
        yield from statistics_features(side, (level,), STEADY if grows else STATISTICS)


def _match_levels(dataset: Dataset, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    known = (ANY, *(f.name for f in dataset.spec.features_of(Side.ITEM) if f.kind == "categorical"))
    return _checked("statistics.match", asked, known)


def _popularity_levels(dataset: Dataset, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    return _checked("statistics.popularity", asked, popularity_levels(dataset))


def _checked(key: str, asked: tuple[str, ...] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if asked is None:
        return known
    if unknown := [level for level in asked if level not in known]:
        raise ConfigError(f"{key}: there is no level {unknown[0]!r}; there are {', '.join(known)}")
    if twice := [level for level, count in Counter(asked).items() if count > 1]:
        raise ConfigError(f"{key}: {twice[0]!r} occurs twice")
    return asked


class _Occurrences:
    """Counts of each feature's values in the training weeks: columns `value` and `count`."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._exposures = dataset.exposures_of("train")
        seen = dataset.behaviors.filter(pl.col("at_ms") < dataset.spec.splits.train_end_ms)
        self._item_counts = _counts(pl.concat([self._exposures["item_id"], seen["item_id"]]), "item_id")
        self._user_counts = _counts(pl.concat([self._exposures["user_id"], seen["user_id"]]), "user_id")

    def of(self, feature: DatasetFeature) -> pl.DataFrame:
        if feature.side is Side.ITEM:
            table = self._dataset.items.join(self._item_counts, on="item_id", how="inner")
        elif feature.side is Side.USER:
            table = self._dataset.users.join(self._user_counts, on="user_id", how="inner")
        else:
            table = self._exposures.select(feature.name).with_columns(count=pl.lit(1, pl.UInt32))
        return (
            table.filter(pl.col(feature.name).is_not_null())
            .group_by(pl.col(feature.name).alias("value"))
            .agg(pl.col("count").sum())
        )


def _counts(column: pl.Series, name: str) -> pl.DataFrame:
    return column.alias(name).value_counts(name="count")


def _categorical(values: pl.DataFrame, config: VocabularyConfig) -> CategoricalEncoder:
    kept = values.filter(pl.col("count") >= config.min_count).sort(
        ["count", "value"], descending=[True, False]
    )
    return CategoricalEncoder(values=tuple(kept["value"].to_list()))


def _buckets(values: pl.DataFrame, config: VocabularyConfig) -> BucketEncoder:
    finite = values.filter(pl.col("value").is_finite())["value"].to_numpy()
    if len(finite) == 0:
        return BucketEncoder(boundaries=())
    cuts = np.quantile(finite, np.linspace(0, 1, config.buckets_count + 1)[1:-1])
    return BucketEncoder(boundaries=tuple(float(cut) for cut in np.unique(cuts)))
