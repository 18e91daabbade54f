"""Cutting an encoded dataset into batches of whole requests, grouped by user.

The unit of shuffling is a user's visits between two snapshots: JRC has its contexts whole, and what a user's
clusters are projected to is shared by all those visits. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from service.contract.features import Side
from service.contract.history import I64
from service.contract.match import ANY
from service.contract.statistics import level_of
from training.data.batch import Batch, PartIds
from training.data.encoded import (
    COUNTED_SIDES,
    EncodedData,
    RaggedPart,
    nothing_counted_ids,
    ranges,
)
from training.modules.split import RowLayout


class BatchBuilder:
    """Builds batches from visits of one dataset."""

    def __init__(self, data: EncodedData, *, user_features_count: int, cold_start_ratio: float = 0.0) -> None:
        """The first `user_features_count` columns of `user_ids` are the user's own; those go unknown together."""
        self._data = data
        candidate = [f for f in data.features if f.side is Side.CANDIDATE]
        self._candidate_features_count = len(candidate)
        counted = [f for side in COUNTED_SIDES for f in data.features if f.side is side]
        nothing = nothing_counted_ids(data.features)
        self._uncounted = {i: nothing[i] for i, f in enumerate(counted) if level_of(f) != ANY}
        self._user_features_count = user_features_count
        self._cold_start_ratio = cold_start_ratio

    def build(self, visits: I64, rng: np.random.Generator | None = None) -> Batch:
        """Return the batch of some visits; with `rng`, some users, items and values are shown as unknown."""
        data = self._data
        rows = data.rows_of(visits)
        requests = ranges(data.request_starts[visits], data.request_starts[visits + 1])
        counts = data.row_starts[visits + 1] - data.row_starts[visits]
        visit_of_row = np.repeat(np.arange(len(visits)), counts)
        slot = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        requests_count = data.request_starts[visits + 1] - data.request_starts[visits]
        shift = (np.cumsum(requests_count) - requests_count) - data.request_starts[visits]
        request = data.row_request[rows] + shift[visit_of_row]
        item, user_ids, candidate_ids = data.item[rows], data.user_ids[requests], data.candidate_ids[rows]
        if rng is not None and self._cold_start_ratio:
            cold_row = rng.random(len(item)) < self._cold_start_ratio
            item = np.where(cold_row, 0, item)
            for column, nothing in self._uncounted.items():
                candidate_ids[cold_row, self._candidate_features_count + column] = nothing
            cold = rng.random(len(visits)) < self._cold_start_ratio
            cold_request = np.repeat(cold, requests_count)
            user_ids[np.ix_(cold_request, np.arange(self._user_features_count))] = 0
            self._forget(user_ids[:, self._user_features_count :], rng)
            self._forget(candidate_ids[:, : self._candidate_features_count], rng)
        return Batch(
            item=torch.from_numpy(item),
            candidate_ids=torch.from_numpy(candidate_ids),
            request=torch.from_numpy(request),
            user_ids=torch.from_numpy(user_ids),
            domain=torch.from_numpy(data.domain[requests]),
            layout=RowLayout(
                torch.from_numpy(visit_of_row), torch.from_numpy(slot), int(counts.max(initial=0))
            ),
            parts={name: _pad(part, visits) for name, part in data.parts.items()},
            labels=torch.from_numpy(data.labels[rows]),
            offset=torch.from_numpy(-np.log(data.keep_probability[rows]).astype(np.float32)),
        )

    def _forget(self, ids: I64, rng: np.random.Generator) -> None:
        """Show some values as unknown, in place, so that a request that lacks them is nothing new to a model."""
        ids[rng.random(ids.shape) < self._cold_start_ratio] = 0

    def one_request(self, request: int, rows: I64, *, items: I64 | None = None) -> Batch:
        """Return the batch of one request with any rows as its candidates; what is counted is this request's.

        With `items` (len(rows),), these item rows stand in place of the rows' own.
        """
        data = self._data
        zeros = torch.zeros(len(rows), dtype=torch.int64)
        item = data.item[rows] if items is None else items
        own = data.candidate_ids[rows, : self._candidate_features_count]
        counted_ids = data.counted_ids_of(request, item)
        return Batch(
            item=torch.from_numpy(item),
            candidate_ids=torch.from_numpy(np.concatenate([own, counted_ids], axis=1)),
            request=zeros,
            user_ids=torch.from_numpy(data.user_ids[[request]]),
            domain=torch.from_numpy(data.domain[[request]]),
            layout=RowLayout(zeros, torch.arange(len(rows)), len(rows)),
            parts={name: _pad(part, data.request_visit[[request]]) for name, part in data.parts.items()},
            labels=torch.from_numpy(data.labels[rows]),
            offset=torch.from_numpy(-np.log(data.keep_probability[rows]).astype(np.float32)),
        )

    def in_order(self, visits: I64, batch_rows: int) -> Iterator[I64]:
        """Yield visits in order, cut where `batch_rows` are reached."""
        yield from self._cut(visits, np.arange(len(visits)), batch_rows)

    def shuffled(
        self, visits: I64, batch_rows: int, *, boundaries_ms: I64, rng: np.random.Generator
    ) -> Iterator[I64]:
        """Yield visits unit by unit in random order; `boundaries_ms` are the snapshot moments."""
        data = self._data
        window = np.searchsorted(boundaries_ms, data.visit_at_ms[visits], side="left")
        unit = data.visit_user[visits] * (len(boundaries_ms) + 1) + window
        _, unit = np.unique(unit, return_inverse=True)
        order = np.argsort(rng.permutation(int(unit.max(initial=-1)) + 1)[unit], kind="stable")
        yield from self._cut(visits, order, batch_rows)

    def _cut(self, visits: I64, order: I64, batch_rows: int) -> Iterator[I64]:
        ordered = visits[order]
        rows = np.cumsum(self._data.row_starts[ordered + 1] - self._data.row_starts[ordered])
        start = 0
        while start < len(ordered):
            done = int(rows[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(rows, done + batch_rows, side="right")))
            yield ordered[start:stop]
            start = stop


def _pad(part: RaggedPart, visits: I64) -> PartIds:
    starts, stops = part.starts[visits], part.starts[visits + 1]
    lengths = stops - starts
    width = max(1, int(lengths.max(initial=0)))
    flat = ranges(starts, stops)
    rows = np.repeat(np.arange(len(visits)), lengths)
    columns = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items, inverse = np.unique(part.item[flat], return_inverse=True)
    if len(items) == 0:
        items = np.zeros(1, np.uint32)
    shape = (len(visits), width)
    index, size = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    age, strength = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    index[rows, columns] = inverse
    size[rows, columns] = part.size[flat]
    age[rows, columns] = part.age[flat]
    strength[rows, columns] = part.strength[flat]
    return PartIds(
        torch.from_numpy(items.astype(np.int64)),
        torch.from_numpy(index),
        torch.from_numpy(size),
        torch.from_numpy(age),
        torch.from_numpy(strength),
    )
