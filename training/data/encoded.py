"""A dataset as ids: rows, requests, visits and their histories, ready to be cut into batches.

Sorted by user, then time, so that the rows of a request, the requests of a visit and the visits of a user
are contiguous. Histories are laid out by the contract's `build_history`, the one that the service calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from service.contract.features import FeatureEncoder, FeatureSpec, RawValue, Side, time_values
from service.contract.history import (
    F32,
    I64,
    U8,
    U32,
    Behaviors,
    History,
    HistoryLimits,
    Snapshot,
    build_history,
    quantize_strength,
)
from training.data.dataset import SPLITS, Dataset

F64 = npt.NDArray[np.float64]

FindSnapshot = Callable[[str, int], Snapshot | None]
"""(user id, moment) -> the newest snapshot strictly before it."""


@dataclass(frozen=True)
class RaggedPart:
    """One part of all visits' histories, end to end: visit v has [starts[v], starts[v + 1])."""

    starts: I64
    item: U32
    size: F32
    age: U8
    strength: U8


@dataclass(frozen=True)
class EncodedData:
    """A dataset as ids.

    Axes: rows B, requests R, visits V.
        item: (B,) item rows; candidate_ids: (B, FP); labels: (B, T) NaN where unknown;
        keep_probability: (B,); row_request: (B,);
        user_ids: (R, FU); domain, request_visit: (R,);
        visit_user: (V,) index into `users`; visit_at_ms, visit_split (index into SPLITS): (V,);
        row_starts, request_starts: (V + 1,) where each visit's rows and requests begin.
    """

    features: tuple[FeatureSpec, ...]
    item_ids: I64  # (I, FI) feature ids of each item row; row 0 is the cold-start item
    users: tuple[str, ...]
    item: I64
    candidate_ids: I64
    labels: F32
    keep_probability: F64
    row_request: I64
    user_ids: I64
    domain: I64
    request_visit: I64
    visit_user: I64
    visit_at_ms: I64
    visit_split: I64
    row_starts: I64
    request_starts: I64
    parts: dict[str, RaggedPart]

    def visits_of(self, split: str, *, before_ms: int | None = None) -> I64:
        """Return the visits of a split, in order; with `before_ms` only those before a moment."""
        chosen = self.visit_split == SPLITS.index(split)
        if before_ms is not None:
            chosen &= self.visit_at_ms < before_ms
        return np.flatnonzero(chosen)

    def rows_of(self, visits: I64) -> I64:
        """Return the rows of some visits, in order."""
        return ranges(self.row_starts[visits], self.row_starts[visits + 1])


def encode_dataset(
    dataset: Dataset,
    features: tuple[FeatureSpec, ...],
    *,
    limits: HistoryLimits,
    find_snapshot: FindSnapshot,
    progress: Callable[[int], None] = lambda _: None,
) -> EncodedData:
    """Encode a dataset; `progress` is told how many visits' histories were laid out since the last call."""
    of_side = {side: [FeatureEncoder(f) for f in features if f.side is side] for side in Side}
    table = dataset.exposures
    user_at = table.select("user_id", "shown_at_ms")
    visit_of_row = (
        user_at.select(pl.struct("user_id", "shown_at_ms").rle_id()).to_series().to_numpy().astype(np.int64)
    )
    request_of_row = table.select(pl.struct("user_id", "shown_at_ms", "request_id").rle_id()).to_series()
    row_request = request_of_row.to_numpy().astype(np.int64)
    first_row = _starts(row_request)[:-1]
    first_visit_row = _starts(visit_of_row)[:-1]
    visits = user_at[first_visit_row]
    requests = table[first_row]

    users = tuple(dataset.users["user_id"].to_list())
    user_index = {user: i for i, user in enumerate(users)}
    user_table = _encode_columns(dataset.users, of_side[Side.USER])
    request_user = np.array([user_index[user] for user in requests["user_id"].to_list()], np.int64)
    context = _encode_columns(
        _with_time(requests, [e.spec.name for e in of_side[Side.CONTEXT]]), of_side[Side.CONTEXT]
    )
    tasks = dataset.spec.task_names
    return EncodedData(
        features=features,
        item_ids=np.concatenate(
            [
                np.zeros((1, len(of_side[Side.ITEM])), np.int64),
                _encode_columns(dataset.items, of_side[Side.ITEM]),
            ]
        ),
        users=users,
        item=_item_rows(dataset, table["item_id"]),
        candidate_ids=_encode_columns(table, of_side[Side.CANDIDATE]),
        labels=table.select(pl.col(t).cast(pl.Float32).fill_null(float("nan")) for t in tasks).to_numpy(),
        keep_probability=table["keep_probability"].to_numpy(),
        row_request=row_request,
        user_ids=np.concatenate([user_table[request_user], context], axis=1),
        domain=np.array([dataset.spec.domains.index(d) for d in requests["domain"].to_list()], np.int64),
        request_visit=visit_of_row[first_row],
        visit_user=np.array([user_index[user] for user in visits["user_id"].to_list()], np.int64),
        visit_at_ms=visits["shown_at_ms"].to_numpy(),
        visit_split=np.array([SPLITS.index(s) for s in table["split"][first_visit_row].to_list()], np.int64),
        row_starts=_starts(visit_of_row),
        request_starts=_starts(visit_of_row[first_row]),
        parts=_histories(dataset, visits, limits, find_snapshot, progress),
    )


def behaviors_by_user(dataset: Dataset) -> dict[str, Behaviors]:
    """Return each user's behaviors, oldest first; items by their rows."""
    table = dataset.behaviors
    at_ms, item = table["at_ms"].to_numpy(), _item_rows(dataset, table["item_id"]).astype(np.uint32)
    strength = quantize_strength(table["strength"].to_numpy())
    run = table["user_id"].rle_id().to_numpy().astype(np.int64)
    starts = _starts(run)
    users = table["user_id"][starts[:-1]].to_list() if len(table) else []
    return {
        user: Behaviors(at_ms[a:b], item[a:b], strength[a:b])
        for user, a, b in zip(users, starts[:-1], starts[1:], strict=True)
    }


def history_of(
    behaviors: Behaviors, snapshot: Snapshot | None, *, at_ms: int, limits: HistoryLimits
) -> History:
    """Return the history of one visit as the store would have held it: behaviors since the snapshot are recent."""
    return build_history(snapshot, recent_of(behaviors, snapshot, at_ms=at_ms), at_ms=at_ms, limits=limits)


def recent_of(behaviors: Behaviors, snapshot: Snapshot | None, *, at_ms: int) -> Behaviors:
    """Return a user's recent behaviors as the store held them just before a moment: those since the snapshot."""
    first = 0 if snapshot is None else int(np.searchsorted(behaviors.at_ms, snapshot.at_ms, side="left"))
    last = int(np.searchsorted(behaviors.at_ms, at_ms, side="left"))
    return Behaviors(behaviors.at_ms[first:last], behaviors.item[first:last], behaviors.strength[first:last])


def ranges(starts: I64, stops: I64) -> I64:
    """Return the whole numbers of several ranges, end to end."""
    lengths = stops - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return offsets + np.arange(lengths.sum())


def _histories(
    dataset: Dataset,
    visits: pl.DataFrame,
    limits: HistoryLimits,
    find_snapshot: FindSnapshot,
    progress: Callable[[int], None],
) -> dict[str, RaggedPart]:
    behaviors = behaviors_by_user(dataset)
    none = Behaviors.empty()
    histories: list[History] = []
    for user, at_ms in visits.iter_rows():
        histories.append(
            history_of(behaviors.get(user, none), find_snapshot(user, at_ms), at_ms=at_ms, limits=limits)
        )
        if len(histories) % 1000 == 0:
            progress(1000)
    progress(len(histories) % 1000)
    recents = [np.ones(len(h.recent_item), np.float32) for h in histories]
    return {
        "clusters": _ragged(
            [h.item for h in histories],
            [h.size for h in histories],
            [h.age for h in histories],
            [h.strength for h in histories],
        ),
        "recents": _ragged(
            [h.recent_item for h in histories],
            recents,
            [h.recent_age for h in histories],
            [h.recent_strength for h in histories],
        ),
    }


def _item_rows(dataset: Dataset, item_ids: pl.Series) -> I64:
    """Return the row of each item id; row 0 is the cold-start item, so the first item of the list has row 1."""
    rows = pl.DataFrame({"item_id": dataset.items["item_id"]}).with_row_index("row", offset=1)
    joined = item_ids.to_frame("item_id").join(rows, on="item_id", how="left", maintain_order="left")
    return joined["row"].to_numpy().astype(np.int64)


def _ragged(item: list[U32], size: list[F32], age: list[U8], strength: list[U8]) -> RaggedPart:
    starts = np.concatenate([[0], np.cumsum([len(x) for x in item])]).astype(np.int64)
    if not item:
        return RaggedPart(
            starts,
            np.zeros(0, np.uint32),
            np.zeros(0, np.float32),
            np.zeros(0, np.uint8),
            np.zeros(0, np.uint8),
        )
    return RaggedPart(
        starts, np.concatenate(item), np.concatenate(size), np.concatenate(age), np.concatenate(strength)
    )


def _encode_columns(table: pl.DataFrame, encoders: list[FeatureEncoder]) -> I64:
    """Return ids (rows, F): each distinct value is encoded once, by the contract's encoder."""
    columns = [_encode_column(table[encoder.spec.name], encoder) for encoder in encoders]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0), np.int64)


def _encode_column(column: pl.Series, encoder: FeatureEncoder) -> I64:
    values = column.unique()
    ids = encoder.encode_many(values.to_list())
    known = pl.DataFrame({"value": values, "id": ids})
    joined = (
        column.alias("value")
        .to_frame()
        .join(known, on="value", how="left", nulls_equal=True, maintain_order="left")
    )
    return joined["id"].to_numpy().astype(np.int64)


def _with_time(requests: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Add the time features that are asked for, by the contract's function."""
    moments = requests["shown_at_ms"].unique()
    values: list[dict[str, RawValue]] = [dict(time_values(at_ms)) for at_ms in moments.to_list()]
    derived = pl.DataFrame(values).with_columns(shown_at_ms=moments)
    wanted = [name for name in names if name not in requests.columns]
    return requests.join(
        derived.select("shown_at_ms", *wanted), on="shown_at_ms", how="left", maintain_order="left"
    )


def _starts(run: I64) -> I64:
    """Return where each run of a non-decreasing run number begins, and the end."""
    first = np.flatnonzero(np.diff(run, prepend=-1))
    return np.append(first, len(run)).astype(np.int64)
