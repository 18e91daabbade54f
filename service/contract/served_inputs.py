"""The served graph's tensors: their names, and how a request becomes them.

Both sides call `RequestEncoder.encode`: the service for live requests, training to verify what it exports.
Knows nothing of ONNX Runtime, of the store or of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.contract import artefact
from service.contract.errors import ArtefactError
from service.contract.features import FeatureEncoder, RawValue, Side, encode_row, time_values
from service.contract.history import F32, I64, U32, History
from service.contract.manifest import Manifest
from service.contract.match import I32, MatchTable, new_item_keys
from service.contract.popularity import Popularity
from service.contract.statistics import Counted, StatisticsEncoder

USER_IDS: Final = "user_ids"  # (1, FU) ids of user features, then of context features
CANDIDATE_IDS: Final = "candidate_ids"  # (N, FP) ids of candidate features, then of counted ones
ITEM_SHARED: Final = "item_shared"  # (N, Ws) what is precomputed per item for all domains
ITEM_BY_DOMAIN: Final = "item_by_domain"  # (N, Wd) what is precomputed per item for this domain
CLUSTER_ITEM: Final = "cluster_item"  # (C, Hc) what is precomputed for each cluster's medoid
CLUSTER_SIZE: Final = "cluster_size"  # (C,) 0 marks padding
CLUSTER_AGE: Final = "cluster_age"  # (C,)
CLUSTER_STRENGTH: Final = "cluster_strength"  # (C,)
RECENT_ITEM: Final = "recent_item"  # (S, Hr)
RECENT_SIZE: Final = "recent_size"  # (S,) 1, or 0 for padding
RECENT_AGE: Final = "recent_age"  # (S,)
RECENT_STRENGTH: Final = "recent_strength"  # (S,)
BEHAVIOR_ITEM: Final = "behavior_item"  # (L, Hb) the raw life cycle
BEHAVIOR_SIZE: Final = "behavior_size"  # (L,) 1, or 0 for padding
BEHAVIOR_AGE: Final = "behavior_age"  # (L,)
BEHAVIOR_STRENGTH: Final = "behavior_strength"  # (L,)

PARTS: Final = {
    "clusters": (CLUSTER_ITEM, CLUSTER_SIZE, CLUSTER_AGE, CLUSTER_STRENGTH),
    "recents": (RECENT_ITEM, RECENT_SIZE, RECENT_AGE, RECENT_STRENGTH),
    "behaviors": (BEHAVIOR_ITEM, BEHAVIOR_SIZE, BEHAVIOR_AGE, BEHAVIOR_STRENGTH),
}
"""The tensors of each part of a history: items, sizes, ages, strengths."""

ITEM_FEATURE_IDS: Final = "item_feature_ids"
"""(K, FI) ids of item features: what the item encoder reads. It gives ITEM_SHARED (K, Ws) and ITEM_BY_DOMAIN of all
domains (M, K, Wd), but for one that is 0 wide."""

LOGIT: Final = "logit"  # (N, T) natural-rate logits
PROBABILITY: Final = "probability"  # (N, T)

Feeds = dict[str, npt.NDArray[np.generic]]

EncodeItems = Callable[[I64], tuple[F32, F32]]
"""Runs the item encoder: (K, FI) to what tables hold of such items, shared (K, Ws) and by domain (M, K, Wd)."""


@dataclass(frozen=True, slots=True)
class ItemTables:
    """An artefact's rows per item, memory-mapped. Row 0 is the cold-start row.

    Axes:
        rows: (ids + 1,) the row of each catalogue id, 0 where the artefact lacks it.
        shared: (I, Ws); by_domain: (M, I, Wd); match_keys: (I, K). Widths may be 0.
        history: (I, H) for each part of a history that the model reads.
    """

    rows: I32
    shared: F32
    by_domain: F32
    history: Mapping[str, F32]
    match_keys: I32

    def rows_of(self, catalogue_ids: U32) -> I32:
        """Return the row of each catalogue id. An id newer than the artefact has the cold-start row."""
        # An id past the end is clipped to it, and there is a 0.
        return self.rows.take(catalogue_ids, mode="clip")


def read_item_tables(folder: Path) -> ItemTables:
    """Map an artefact's item tables.

    Raises:
        ArtefactError: a table is missing or the tables do not fit each other.
    """

    def mapped(name: str) -> npt.NDArray[Any]:
        return np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False))

    try:
        tables = ItemTables(
            rows=mapped(artefact.ITEM_ROWS_FILE),
            shared=mapped(artefact.ITEM_SHARED_FILE),
            by_domain=mapped(artefact.ITEM_BY_DOMAIN_FILE),
            history={
                part: mapped(name)
                for part in PARTS
                if (folder / (name := artefact.item_history_file(part))).exists()
            },
            match_keys=mapped(artefact.ITEM_MATCH_KEYS_FILE),
        )
    except (OSError, ValueError, EOFError) as error:
        raise ArtefactError(f"{folder}: an item table cannot be read; export the artefact again") from error
    lengths = {len(tables.shared), tables.by_domain.shape[1], len(tables.match_keys)}
    lengths |= {len(table) for table in tables.history.values()}
    if len(lengths) > 1:
        raise ArtefactError(
            f"{folder}: the item tables have different numbers of rows; export the artefact again"
        )
    rows = tables.rows
    if len(rows) == 0 or rows[-1] != 0 or rows.min() < 0 or rows.max() >= min(lengths):
        raise ArtefactError(
            f"{folder}: {artefact.ITEM_ROWS_FILE} points past the item tables, or does not end in the cold-start "
            "row; export the artefact again"
        )
    return tables


@dataclass(frozen=True, slots=True)
class NewItems:
    """Candidates of a request that have features instead of a row.

    Axes:
        places: (P,) among the candidates; shared: (P, Ws); by_domain: (M, P, Wd); match_keys: (P, K).
    """

    places: I64
    shared: F32
    by_domain: F32
    match_keys: I32


def rows_by_catalogue_id(catalogue_ids: U32) -> I32:
    """Return the inverse of `row -> catalogue id`, (largest id + 2,); ids without a row, and the last, get row 0."""
    rows = np.zeros(int(catalogue_ids.max(initial=0)) + 2, np.int32)
    rows[catalogue_ids] = np.arange(len(catalogue_ids))
    rows[0] = 0
    return rows


class RequestEncoder:
    """Turns a request into the tensors of its domain's graph. For one thread, as `MatchTable` is."""

    def __init__(
        self, manifest: Manifest, tables: ItemTables, encode_items: EncodeItems | None = None
    ) -> None:
        """Without `encode_items` there are no `new_items`: what has no row is scored as the cold-start item."""
        self.tables = tables
        self._encode_items = encode_items
        self._item = [FeatureEncoder(spec) for spec in manifest.item_features]
        self._match_key_ends = manifest.match_key_ends
        self._domains = {domain: number for number, domain in enumerate(manifest.domains)}
        self._user = [FeatureEncoder(spec) for spec in manifest.features_of(Side.USER, Side.CONTEXT)]
        self._candidate = [FeatureEncoder(spec) for spec in manifest.features_of(Side.CANDIDATE)]
        self._match = StatisticsEncoder(manifest.features_of(Side.MATCH))
        self._match_table = MatchTable(tables.match_keys)
        self._popularity = StatisticsEncoder(manifest.features_of(Side.POPULARITY))

    @property
    def reads_counts(self) -> bool:
        """Whether the model needs the counts of a life cycle."""
        return bool(self._match.levels)

    @property
    def reads_popularity(self) -> bool:
        """Whether the model needs a popularity table."""
        return bool(self._popularity.levels)

    def encode(
        self,
        domain: str,
        *,
        user_id: str,
        user_features: Mapping[str, RawValue],
        context: Mapping[str, RawValue],
        candidates: U32,
        rows: I32,
        candidate_contexts: Sequence[Mapping[str, RawValue]],
        history: History,
        popularity: Popularity,
        at_ms: int,
        new_items: NewItems | None = None,
    ) -> Feeds:
        """Return the tensors of a request.

        Shapes:
            candidates: (N,) catalogue ids; rows: (N,) their rows in the tables, which `new_items` go before.
        """
        candidate_ids = [
            self.candidate_ids(candidate_contexts),
            self.match_ids(rows, history, new_items),
            self.popularity_ids(candidates, popularity, context, at_ms=at_ms),
        ]
        return assemble(
            self.tables,
            domain=self._domains[domain],
            user_ids=self.user_ids(user_id, user_features, context, at_ms=at_ms),
            rows=rows,
            candidate_ids=np.concatenate(candidate_ids, axis=1),
            history=history,
            new_items=new_items,
        )

    def new_items(self, rows: I32, features: Mapping[int, Mapping[str, RawValue]]) -> NewItems | None:
        """Return the candidates without a row of whose features the model knows any; None where there are none.

        The features of an item that has a row are not read: its row is what the model learned of it.

        Shapes:
            rows: (N,) the candidates' rows in the tables; features: raw item features, by place among the candidates.
        """
        if self._encode_items is None:
            return None
        places = np.array([place for place in features if rows[place] == 0], np.int64)
        ids = self.item_feature_ids([features[place] for place in places.tolist()])
        known = ids.any(axis=1)
        if not known.any():
            return None
        places, ids = places[known], ids[known]
        names = [encoder.spec.name for encoder in self._item]
        keys = new_item_keys(self._match.levels, ids, names, ends=self._match_key_ends)
        return NewItems(places, *self._encode_items(ids), keys)

    def item_feature_ids(self, features: Sequence[Mapping[str, RawValue]]) -> I64:
        """Return the ids of item features, (len(features), FI)."""
        ids = [encoder.encode_many([f.get(encoder.spec.name) for f in features]) for encoder in self._item]
        return np.stack(ids, axis=1) if ids else np.zeros((len(features), 0), np.int64)

    def user_ids(
        self, user_id: str, features: Mapping[str, RawValue], context: Mapping[str, RawValue], *, at_ms: int
    ) -> list[int]:
        """Return the ids of user features, then of context features, (FU,).

        A name that is both a stored user feature and in the request's context has the context's value;
        time features always come from `at_ms`, and `user_id` is the user's own.
        """
        return encode_row(self._user, {**features, **context, "user_id": user_id, **time_values(at_ms)})

    def candidate_ids(self, contexts: Sequence[Mapping[str, RawValue]]) -> I64:
        """Return the ids of candidate features, (N, FP)."""
        out = np.zeros((len(contexts), len(self._candidate)), np.int64)
        if any(contexts):
            for column, encoder in enumerate(self._candidate):
                out[:, column] = encoder.encode_many([c.get(encoder.spec.name) for c in contexts])
        return out

    def match_ids(self, rows: I32, history: History, new_items: NewItems | None = None) -> I64:
        """Return the ids of match features, (N, FM), of candidates in these rows."""
        counted = Counted.nothing()
        if self.reads_counts:
            counts = history.counted
            own_keys = None if new_items is None else (new_items.places, new_items.match_keys)
            history_rows = self.tables.rows_of(counts.item)
            counted = self._match_table.counted(history_rows, counts, rows, own_keys=own_keys)
        return self._match.encode(counted, rows_count=len(rows))

    def popularity_ids(
        self, candidates: U32, popularity: Popularity, context: Mapping[str, RawValue], *, at_ms: int
    ) -> I64:
        """Return the ids of popularity features, (N, FQ), of candidates of these catalogue ids."""
        counted = Counted.nothing()
        if self.reads_popularity:
            counted = popularity.counted(self._popularity.levels, candidates, context, at_ms)
        return self._popularity.encode(counted, rows_count=len(candidates))


def assemble(
    tables: ItemTables,
    *,
    domain: int,
    user_ids: Sequence[int],
    rows: I32,
    candidate_ids: I64,
    history: History,
    new_items: NewItems | None = None,
) -> Feeds:
    """Lay one request out as the tensors of the domain's graph, which may read fewer of them.

    Shapes:
        user_ids: (FU,) user features, then context features.
        rows: (N,) the candidates' rows in the tables; candidate_ids: (N, FP + FM + FQ).
    """
    feeds: Feeds = {
        USER_IDS: np.array([user_ids], np.int64).reshape(1, len(user_ids)),
        CANDIDATE_IDS: candidate_ids,
        ITEM_SHARED: tables.shared.take(rows, axis=0),
        ITEM_BY_DOMAIN: tables.by_domain[domain].take(rows, axis=0),
    }
    if new_items is not None:
        feeds[ITEM_SHARED][new_items.places] = new_items.shared
        feeds[ITEM_BY_DOMAIN][new_items.places] = new_items.by_domain[domain]
    parts = {
        "clusters": (history.item, history.size, history.age, history.strength),
        "recents": (history.recent_item, None, history.recent_age, history.recent_strength),
        "behaviors": (history.behavior_item, None, history.behavior_age, history.behavior_strength),
    }
    for part, table in tables.history.items():
        feeds.update(zip(PARTS[part], _history_part(tables, table, *parts[part]), strict=True))
    return feeds


def _history_part(
    tables: ItemTables,
    table: F32,
    item: U32,
    size: F32 | None,
    age: npt.NDArray[np.uint8],
    strength: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.generic], ...]:
    """Gather one part of the history, of sizes 1 where none are told; an empty one gets a single row of size 0,
    which the graph ignores."""
    if len(item) == 0:
        none = np.zeros(1, np.int64)
        return table[:1], np.zeros(1, np.float32), none, none
    size = np.ones(len(item), np.float32) if size is None else size
    return table.take(tables.rows_of(item), axis=0), size, age.astype(np.int64), strength.astype(np.int64)
