"""Snapshots of users' life cycles: what the store is given, as it was at a moment.

Knows nothing of how snapshots are kept or published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import joblib
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from service.contract.history import AGE_S_MAX, F32, I64, U32, Behaviors, ItemCounts, Snapshot
from service.contract.statistics import fade
from training.history.hierarchical import cluster_behaviors, medoids
from training.history.options import SnapshotOptions

USERS_PER_TASK = 8


def make_snapshot(
    behaviors: Behaviors, item_vectors: F32, *, at_ms: int, options: SnapshotOptions
) -> Snapshot | None:
    """Return the snapshot of a user at a moment, None where no behavior lies strictly before it.

    Shapes:
        behaviors: (L,) sorted by time.
        item_vectors: (I, D), row = item id; row 0 also serves ids that are newer than the vectors.

    Raises:
        ValueError: the behaviors are not sorted by time, or a vector is not finite.
    """
    return snapshots_of_user(behaviors, item_vectors, (at_ms,), options=options)[0]


def snapshots_of_user(
    behaviors: Behaviors, item_vectors: F32, at_ms: Sequence[int], *, options: SnapshotOptions
) -> list[Snapshot | None]:
    """Return a user's snapshots at several moments; each is what `make_snapshot` returns for its moment.

    Where nothing happened between two moments, clusters are not made again: only their ages move on.
    """
    if (np.diff(behaviors.at_ms) < 0).any():
        raise ValueError("behaviors must be sorted by time")
    clusters = _Clusters(behaviors, item_vectors, options)
    return [clusters.snapshot(moment) for moment in at_ms]


def make_snapshots(
    users: Sequence[tuple[str, Behaviors]],
    item_vectors: F32,
    at_ms: Sequence[int],
    *,
    options: SnapshotOptions,
    n_jobs: int = 1,
    progress: Callable[[int], None] = lambda users_done: None,
) -> Iterator[tuple[str, int, Snapshot]]:
    """Yield (user, moment, snapshot) for every user and moment that has one, in the order of both.

    The result does not depend on `n_jobs`. `progress` is told how many more users are done.
    """
    tasks = [users[i : i + USERS_PER_TASK] for i in range(0, len(users), USERS_PER_TASK)]
    run = joblib.Parallel(n_jobs=n_jobs, return_as="generator")
    results = run(
        joblib.delayed(_snapshots_of_users)([b for _, b in task], item_vectors, tuple(at_ms), options)
        for task in tasks
    )
    for task, snapshots in zip(tasks, results, strict=True):
        for (user, _), of_user in zip(task, snapshots, strict=True):
            for moment, snapshot in zip(at_ms, of_user, strict=True):
                if snapshot is not None:
                    yield user, moment, snapshot
        progress(len(task))


def _snapshots_of_users(
    behaviors: Sequence[Behaviors], item_vectors: F32, at_ms: tuple[int, ...], options: SnapshotOptions
) -> list[list[Snapshot | None]]:
    with threadpool_limits(1):  # parts of a user are far too small to share between threads
        return [snapshots_of_user(b, item_vectors, at_ms, options=options) for b in behaviors]


class _Clusters:
    """The clusters of one user's first behaviors, made again only when there are more of those."""

    def __init__(self, behaviors: Behaviors, item_vectors: F32, options: SnapshotOptions) -> None:
        self._behaviors, self._item_vectors, self._options = behaviors, item_vectors, options
        self._behaviors_count = 0
        self._medoid: I64 = np.zeros(0, np.int64)  # (C,) indices into behaviors
        self._size: I64 = np.zeros(0, np.int64)  # (C,)
        self._at_sum_ms: I64 = np.zeros(0, np.int64)  # (C,)
        self._strength_sum: I64 = np.zeros(0, np.int64)  # (C,)

    def snapshot(self, at_ms: int) -> Snapshot | None:
        """Return the snapshot at a moment, None where nothing lies before it."""
        count = int(np.searchsorted(self._behaviors.at_ms, at_ms, side="left"))
        if count == 0:
            return None
        if count != self._behaviors_count:
            self._make(count)
        past, size = self._behaviors, self._size
        tail = slice(max(0, count - self._options.tail_count), count)
        mean_age_s = (size * at_ms - self._at_sum_ms) // (size * 1000)
        return Snapshot(
            at_ms=at_ms,
            item=past.item[self._medoid].astype(np.uint32),
            size=size.astype(np.uint32),
            mean_age_s=np.minimum(mean_age_s, AGE_S_MAX).astype(np.uint32),
            strength=((2 * self._strength_sum + size) // (2 * size)).astype(np.uint16),
            tail=Behaviors(past.at_ms[tail], past.item[tail], past.strength[tail]),
            counts=count_items(past.at_ms[:count], past.item[:count], at_ms, self._options.counted_items_max),
        )

    def _make(self, count: int) -> None:
        item = self._behaviors.item[:count]
        row = np.where(item < len(self._item_vectors), item, 0)
        vectors = np.asarray(self._item_vectors[row], np.float32)  # (count, D)
        strength = self._behaviors.strength[:count]
        labels = cluster_behaviors(vectors, strength, options=self._options)
        self._behaviors_count = count
        self._medoid = medoids(vectors, labels)
        self._size = np.bincount(labels)
        self._at_sum_ms = _sums(self._behaviors.at_ms[:count], labels)
        self._strength_sum = _sums(strength, labels)


def count_items(behaved_at_ms: I64, item: U32, at_ms: int, items_max: int) -> ItemCounts:
    """Return how often each item occurs and when last, of the `items_max` met last; the newest first.

    Shapes:
        behaved_at_ms, item: (L,) sorted by time, all before `at_ms`.
    """
    newest_first = item[::-1]
    items, first, inverse, count = np.unique(
        newest_first, return_index=True, return_inverse=True, return_counts=True
    )
    last = np.zeros(len(items), np.int64)
    last[inverse] = np.arange(len(item))  # the oldest is written last
    kept = np.argsort(first, kind="stable")[:items_max]
    ages_s = (at_ms - behaved_at_ms[::-1]) // 1000
    fading = np.stack([np.bincount(inverse, w, minlength=len(items)) for w in fade(ages_s).T], axis=1)
    return ItemCounts(
        items[kept].astype(np.uint32),
        count[kept].astype(np.uint32),
        np.minimum(ages_s[first[kept]], AGE_S_MAX),
        np.minimum(ages_s[last[kept]], AGE_S_MAX),
        fading[kept].astype(np.float32),
    )


def _sums(values: npt.NDArray[np.generic], labels: I64) -> I64:
    """Return the exact sum of each cluster's values, (C,)."""
    total = np.zeros(int(labels.max()) + 1, np.int64)
    np.add.at(total, labels, values.astype(np.int64))
    return total
