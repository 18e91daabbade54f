"""A dataset as ids: rows, requests, visits and their histories, ready to be cut into batches.

Sorted by user, then time, so that the rows of a request, the requests of a visit and the visits of a user
are contiguous. Histories are laid out by the contract's `build_history`, the one that the service calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
from service.contract.match import ITEM, MatchTable, match_keys
from service.contract.popularity import cut_before_ms
from service.contract.statistics import StatisticsEncoder
from training.data.dataset import SPLITS, Dataset
from training.data.popularity import PopularityCounts, positions_of

F64 = npt.NDArray[np.float64]

COUNTED_SIDES = (Side.MATCH, Side.POPULARITY)
"""Sides whose features are computed; their ids follow those of candidate features."""

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

    def of(self, visits: I64) -> RaggedPart:
        """Return the part of some visits."""
        entries = ranges(self.starts[visits], self.starts[visits + 1])
        lengths = self.starts[visits + 1] - self.starts[visits]
        return RaggedPart(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            self.item[entries],
            self.size[entries],
            self.age[entries],
            self.strength[entries],
        )


@dataclass(frozen=True)
class EncodedData:
    """A dataset as ids.

    Axes: rows B, requests R, visits V.
        exposure: (B,) rows of the dataset's exposures; domain: (R,) indices into `domains`;
        item: (B,) item rows; candidate_ids: (B, FP + FM + FQ) ids of candidate, match and popularity features;
        labels: (B, T) NaN where unknown;
        keep_probability: (B,); row_request: (B,);
        user_ids: (R, FU); request_visit: (R,);
        visit_user: (V,) index into `users`; visit_at_ms, visit_split (index into SPLITS): (V,);
        row_starts, request_starts: (V + 1,) where each visit's rows and requests begin.
    """

    features: tuple[FeatureSpec, ...]
    domains: tuple[str, ...]
    item_ids: I64  # (I, FI) feature ids of each item row; row 0 is the cold-start item
    users: tuple[str, ...]
    exposure: I64
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
    counted_ids_of: Callable[[int, I64], I64]
    """(request, item rows (N,)) -> ids of the match and popularity features of any items in it, (N, FM + FQ)."""

    def restricted_to(self, features: tuple[FeatureSpec, ...]) -> EncodedData:
        """Return the same data with some of its features only, for a model that does not read the others."""
        if features == self.features:
            return self
        kept = {feature.name for feature in features}
        user, candidate, counted, item = (
            np.flatnonzero([f.name in kept for side in sides for f in self.features if f.side is side])
            for sides in (
                (Side.USER, Side.CONTEXT),
                (Side.CANDIDATE, *COUNTED_SIDES),
                COUNTED_SIDES,
                (Side.ITEM,),
            )
        )
        whole = self.counted_ids_of
        return replace(
            self,
            features=features,
            user_ids=self.user_ids[:, user],
            candidate_ids=self.candidate_ids[:, candidate],
            item_ids=self.item_ids[:, item],
            counted_ids_of=lambda request, rows: whole(request, rows)[:, counted],
        )

    def of_domains(self, domains: tuple[str, ...]) -> EncodedData:
        """Return the requests of some domains only, in the order of those."""
        if domains == self.domains:
            return self
        place = np.array([domains.index(d) if d in domains else -1 for d in self.domains])
        kept = place[self.domain] >= 0
        requests, rows = np.flatnonzero(kept), np.flatnonzero(kept[self.row_request])
        visits, visit_of_request = np.unique(self.request_visit[requests], return_inverse=True)
        request_of_row = (np.cumsum(kept) - 1)[self.row_request[rows]]
        whole = self.counted_ids_of
        return replace(
            self,
            domains=domains,
            exposure=self.exposure[rows],
            item=self.item[rows],
            candidate_ids=self.candidate_ids[rows],
            labels=self.labels[rows],
            keep_probability=self.keep_probability[rows],
            row_request=request_of_row,
            user_ids=self.user_ids[requests],
            domain=place[self.domain[requests]],
            request_visit=visit_of_request,
            visit_user=self.visit_user[visits],
            visit_at_ms=self.visit_at_ms[visits],
            visit_split=self.visit_split[visits],
            row_starts=_starts(visit_of_request[request_of_row]),
            request_starts=_starts(visit_of_request),
            parts={name: part.of(visits) for name, part in self.parts.items()},
            counted_ids_of=lambda request, items: whole(int(requests[request]), items),
        )

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
    popularity: PopularityCounts | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> EncodedData:
    """Encode a dataset. `popularity` is read where there are features of it.

    `progress` is told how many visits' histories were laid out since the last call.
    """
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
    item_ids = np.concatenate(
        [
            np.zeros((1, len(of_side[Side.ITEM])), np.int64),
            _encode_columns(dataset.items, of_side[Side.ITEM]),
        ]
    )
    item, row_starts = item_rows(dataset, table["item_id"]), _starts(visit_of_row)
    histories = _Histories(dataset, visits, limits, find_snapshot, _Match(features, item_ids))
    parts, match_ids = histories.lay_out(item, row_starts, progress)
    popular = _Popular(features, popularity, requests)
    request_visit = visit_of_row[first_row]

    def counted_ids_of(request: int, rows: I64) -> I64:
        of_user = histories.match_ids_of(int(request_visit[request]), rows)
        return np.concatenate([of_user, popular.ids(rows, np.full(len(rows), request))], axis=1)

    return EncodedData(
        features=features,
        domains=dataset.spec.domains,
        item_ids=item_ids,
        users=users,
        exposure=np.arange(len(item)),
        item=item,
        candidate_ids=np.concatenate(
            [_encode_columns(table, of_side[Side.CANDIDATE]), match_ids, popular.ids(item, row_request)],
            axis=1,
        ),
        labels=table.select(pl.col(t).cast(pl.Float32).fill_null(float("nan")) for t in tasks).to_numpy(),
        keep_probability=table["keep_probability"].to_numpy(),
        row_request=row_request,
        user_ids=np.concatenate([user_table[request_user], context], axis=1),
        domain=np.array([dataset.spec.domains.index(d) for d in requests["domain"].to_list()], np.int64),
        request_visit=request_visit,
        visit_user=np.array([user_index[user] for user in visits["user_id"].to_list()], np.int64),
        visit_at_ms=visits["shown_at_ms"].to_numpy(),
        visit_split=np.array([SPLITS.index(s) for s in table["split"][first_visit_row].to_list()], np.int64),
        row_starts=row_starts,
        request_starts=_starts(visit_of_row[first_row]),
        parts=parts,
        counted_ids_of=counted_ids_of,
    )


def nothing_counted_ids(features: tuple[FeatureSpec, ...]) -> list[int]:
    """Return the ids of match and popularity features where nothing was counted, (FM + FQ,)."""
    encoders = [StatisticsEncoder([f for f in features if f.side is side]) for side in COUNTED_SIDES]
    return [id_ for encoder in encoders for id_ in encoder.nothing().tolist()]


def behaviors_by_user(dataset: Dataset) -> dict[str, Behaviors]:
    """Return each user's behaviors, oldest first; items by their rows."""
    table = dataset.behaviors
    at_ms, item = table["at_ms"].to_numpy(), item_rows(dataset, table["item_id"]).astype(np.uint32)
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


class _Match:
    """Match features of items given a history. Item ids in histories are item rows here."""

    def __init__(self, features: tuple[FeatureSpec, ...], item_ids: I64) -> None:
        self._encoder = StatisticsEncoder([f for f in features if f.side is Side.MATCH])
        names = [f.name for f in features if f.side is Side.ITEM]
        self._table = MatchTable(match_keys(self._encoder.levels, item_ids, names))

    def ids(self, history: History, rows: I64) -> I64:
        """Return the ids of the match features of item rows, (N, FM)."""
        counted = self._table.counted(history.counted.item.astype(np.int64), history.counted, rows)
        return self._encoder.encode(counted, rows_count=len(rows))


class _Popular:
    """Popularity features of rows, each by the table that was cut before it."""

    def __init__(
        self, features: tuple[FeatureSpec, ...], counts: PopularityCounts | None, requests: pl.DataFrame
    ) -> None:
        self._encoder = StatisticsEncoder([f for f in features if f.side is Side.POPULARITY])
        self._counts = counts
        self._at_ms = requests["shown_at_ms"].to_numpy()
        self._cut_ms = cut_before_ms(self._at_ms)
        self._values: dict[str, I64] = {}
        if counts is not None:
            contexts = [level for level in self._encoder.levels if level != ITEM]
            self._values = {
                level: positions_of(requests[level], counts.values_of(level)) for level in contexts
            }

    def ids(self, item: I64, request: I64) -> I64:
        """Return the ids of the popularity features of item rows in requests, (N, FQ)."""
        out: I64 = np.tile(self._encoder.nothing(), (len(item), 1))
        if self._counts is None or out.size == 0:
            return out
        cut_ms = self._cut_ms[request]
        order = np.argsort(cut_ms, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(cut_ms[order])) + 1):
            cut, mine = int(cut_ms[rows[0]]), request[rows]
            counted = self._counts.table_at(cut).counted_of_rows(
                self._encoder.levels,
                item[rows].astype(np.uint32),
                {level: positions[mine] for level, positions in self._values.items()},
                (self._at_ms[mine] - cut) // 1000,
            )
            out[rows] = self._encoder.encode(counted, rows_count=len(rows))
        return out


class _Histories:
    """The history of each visit, by the contract's function, and what is computed from it."""

    def __init__(
        self,
        dataset: Dataset,
        visits: pl.DataFrame,
        limits: HistoryLimits,
        find_snapshot: FindSnapshot,
        match: _Match,
    ) -> None:
        self._behaviors = behaviors_by_user(dataset)
        self._users, self._at_ms = visits["user_id"].to_list(), visits["shown_at_ms"].to_list()
        self._limits, self._find_snapshot, self._match = limits, find_snapshot, match

    def of(self, visit: int) -> History:
        """Return the history of a visit."""
        user, at_ms = self._users[visit], self._at_ms[visit]
        behaviors = self._behaviors.get(user, Behaviors.empty())
        return history_of(behaviors, self._find_snapshot(user, at_ms), at_ms=at_ms, limits=self._limits)

    def match_ids_of(self, visit: int, rows: I64) -> I64:
        """Return the ids of the match features of any items at a visit, (N, FM)."""
        return self._match.ids(self.of(visit), rows)

    def lay_out(
        self, item: I64, row_starts: I64, progress: Callable[[int], None]
    ) -> tuple[dict[str, RaggedPart], I64]:
        """Return all visits' histories, part by part, and the match features of all rows, (B, FM)."""
        clusters, recents, behaviors = _Ragged(), _Ragged(), _Ragged()
        match_ids: list[npt.NDArray[np.int32]] = []
        for visit in range(len(self._users)):
            h = self.of(visit)
            clusters.add(h.item, h.size, h.age, h.strength)
            recents.add(
                h.recent_item, np.ones(len(h.recent_item), np.float32), h.recent_age, h.recent_strength
            )
            raw = h.behavior_item
            behaviors.add(raw, np.ones(len(raw), np.float32), h.behavior_age, h.behavior_strength)
            match_ids.append(
                self._match.ids(h, item[row_starts[visit] : row_starts[visit + 1]]).astype(np.int32)
            )
            if visit % 1000 == 999:
                progress(1000)
        progress(len(self._users) % 1000)
        parts = {"clusters": clusters.part(), "recents": recents.part(), "behaviors": behaviors.part()}
        none = np.zeros((0, len(match_ids[0][0]) if match_ids else 0), np.int32)
        return parts, np.concatenate(match_ids or [none]).astype(np.int64)


class _Ragged:
    """One part of histories as they come."""

    def __init__(self) -> None:
        self._item: list[U32] = [np.zeros(0, np.uint32)]
        self._size: list[F32] = [np.zeros(0, np.float32)]
        self._age: list[U8] = [np.zeros(0, np.uint8)]
        self._strength: list[U8] = [np.zeros(0, np.uint8)]

    def add(self, item: U32, size: F32, age: U8, strength: U8) -> None:
        """Append the part of the next visit."""
        self._item.append(item)
        self._size.append(size)
        self._age.append(age)
        self._strength.append(strength)

    def part(self) -> RaggedPart:
        """Return all of them, end to end."""
        starts = np.cumsum([len(item) for item in self._item]).astype(np.int64)
        return RaggedPart(
            starts,
            np.concatenate(self._item),
            np.concatenate(self._size),
            np.concatenate(self._age),
            np.concatenate(self._strength),
        )


def item_rows(dataset: Dataset, item_ids: pl.Series) -> I64:
    """Return the row of each item id; row 0 is the cold-start item, so the first item of the list has row 1."""
    rows = pl.DataFrame({"item_id": dataset.items["item_id"]}).with_row_index("row", offset=1)
    joined = item_ids.to_frame("item_id").join(rows, on="item_id", how="left", maintain_order="left")
    return joined["row"].to_numpy().astype(np.int64)


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
