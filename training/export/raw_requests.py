"""Requests of the dataset as a client and the store would give them: raw values, text ids, blobs of bytes.

Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from service.contract.features import RawValue, Side
from service.contract.golden import GoldenCandidate, GoldenRequest
from service.contract.history import I64, U32, Behaviors, Snapshot, encode_behaviors, encode_snapshot
from service.contract.match import ITEM
from service.contract.popularity import cut_before_ms, encode_popularity
from training.data.encoded import EncodedData, behaviors_by_user, recent_of
from training.workbench import Workbench


@dataclass(frozen=True)
class Case:
    """One request of the dataset with some rows of its domain as its candidates."""

    request: int
    rows: I64


class RawRequests:
    """Cases as a client and the store would give them: raw values, ids as text, blobs as bytes."""

    def __init__(self, bench: Workbench, data: EncodedData, *, clusters_max: int | None = None) -> None:
        """Snapshots are sampled as a store of `clusters_max` has them; None is whole."""
        self._bench, self._data, self._clusters_max = bench, data, clusters_max
        self._behaviors = behaviors_by_user(bench.dataset)
        self._exposures = bench.dataset.exposures
        spec = bench.dataset.spec
        self._context = [f.name for f in spec.features_of(Side.CONTEXT)]
        self._item = [f.name for f in spec.features_of(Side.ITEM) if f.name != ITEM]
        self._candidate = [f.name for f in spec.features_of(Side.CANDIDATE)]

    @cached_property
    def _users(self) -> dict[str, dict[str, RawValue]]:
        return {str(row["user_id"]): row for row in self._bench.dataset.users.iter_rows(named=True)}

    def request_of(self, case: Case) -> GoldenRequest:
        """Return a case as a request without expectations."""
        data, bench = self._data, self._bench
        visit = int(data.request_visit[case.request])
        user, at_ms = data.users[data.visit_user[visit]], int(data.visit_at_ms[visit])
        first_row = int(data.exposure[np.searchsorted(data.row_request, case.request)])
        context = self._exposures[first_row].select(self._context).to_dicts()[0]
        rows = self._exposures[data.exposure[case.rows]].select("item_id", *self._candidate).to_dicts()
        snapshot = bench.snapshots.newest_before(user, at_ms)
        if snapshot is not None:
            snapshot = snapshot.sampled(self._clusters_max)
        return GoldenRequest(
            domain=data.domains[data.domain[case.request]],
            user_id=user,
            at_ms=at_ms,
            user_features={k: v for k, v in self._users[user].items() if k != "user_id"},
            context=context,
            candidates=tuple(
                GoldenCandidate(item_id=row["item_id"], context={k: row[k] for k in self._candidate})
                for row in rows
            ),
            snapshot=None
            if snapshot is None
            else encode_snapshot(with_catalogue_ids(bench.catalogue_ids, snapshot)),
            recent=self._recent(user, at_ms, snapshot),
            popularity=self.popularity_of(at_ms, data.item[case.rows]),
            probability=(),
        )

    def popularity_of(self, at_ms: int, items: I64) -> bytes | None:
        """Return what was counted of some item rows at the last cut before a moment."""
        bench = self._bench
        if not bench.popularity_levels:
            return None
        cut_ms = int(cut_before_ms(np.array([at_ms]))[0])
        table = bench.popularity_counts.table_at(cut_ms).of_items(items.astype(np.uint32))
        return encode_popularity(table.renamed(bench.catalogue_ids))

    def item_features_of(self, items: I64) -> list[dict[str, RawValue]]:
        """Return the raw features of item rows, as a client would send those of an item that is new; none is row 0."""
        return self._bench.dataset.items[items - 1].select(self._item).to_dicts()

    def _recent(self, user: str, at_ms: int, snapshot: Snapshot | None) -> bytes:
        """Return the user's recent list as it was just before the request."""
        behaviors = self._behaviors.get(user, Behaviors.empty())
        recent = recent_of(behaviors, snapshot, at_ms=at_ms)
        listed = Behaviors(recent.at_ms, self._bench.catalogue_ids[recent.item], recent.strength)
        return encode_behaviors(listed, np.arange(len(listed), dtype=np.uint64))


def with_catalogue_ids(ids: U32, snapshot: Snapshot) -> Snapshot:
    """Return a snapshot whose items are catalogue ids instead of this dataset's rows."""
    tail, counts = snapshot.tail, snapshot.counts
    return replace(
        snapshot,
        item=ids[snapshot.item],
        tail=replace(tail, item=ids[tail.item]),
        counts=replace(counts, item=ids[counts.item]),
    )
