"""The synthetic logs as ids, with life cycles clustered on random item vectors: what a model is fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.contract.history import HistoryLimits, encode_snapshot
from tests.support.synthetic_dataset import (
    DAY_MS,
    END_DAYS,
    FIRST_SNAPSHOT_DAYS,
    ITEMS_COUNT,
    SNAPSHOT_EVERY_DAYS,
    START_MS,
    tiny_dataset,
)
from training.config import StatisticsConfig, VocabularyConfig
from training.data.dataset import Dataset
from training.data.encoded import EncodedData, behaviors_by_user, encode_dataset, item_rows
from training.data.popularity import PopularityCounts, popularity_levels
from training.data.vocabulary import build_features
from training.history.options import SnapshotOptions
from training.history.snapshots import make_snapshots
from training.history.storage import SnapshotTable

MOMENTS_MS = [START_MS + d * DAY_MS for d in range(FIRST_SNAPSHOT_DAYS, END_DAYS, SNAPSHOT_EVERY_DAYS)]


def tiny_snapshots(dataset: Dataset, *, max_cluster_size: int = 4) -> SnapshotTable:
    """Return every user's snapshots at MOMENTS_MS; small clusters, so that there are many."""
    vectors = np.random.default_rng(0).normal(size=(ITEMS_COUNT + 1, 4)).astype(np.float32)
    users = sorted(behaviors_by_user(dataset).items())
    options = SnapshotOptions(max_cluster_size=max_cluster_size)
    made = make_snapshots(users, vectors, MOMENTS_MS, options=options)
    return SnapshotTable((user, at_ms, encode_snapshot(snapshot)) for user, at_ms, snapshot in made)


def tiny_encoded(folder: Path, *, limits: HistoryLimits | None = None) -> tuple[Dataset, EncodedData]:
    """Write the synthetic dataset under a folder; returns it and its ids."""
    dataset = tiny_dataset(folder)
    features = build_features(dataset, VocabularyConfig(min_count=1, buckets_count=4), StatisticsConfig())
    snapshots = tiny_snapshots(dataset)
    counts = PopularityCounts(
        dataset, popularity_levels(dataset), item_rows(dataset, dataset.behaviors["item_id"])
    )
    return dataset, encode_dataset(
        dataset,
        features,
        limits=limits or HistoryLimits(),
        find_snapshot=snapshots.newest_before,
        popularity=counts,
    )
