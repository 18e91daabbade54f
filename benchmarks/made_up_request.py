"""A made-up catalogue with features as Complete Journey has, models of it, and a request: to see what serving costs.

Parameters are as they are drawn: what a graph costs does not depend on what was learned. Knows nothing of clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from service.contract.artefact import SEARCH_FILE, scorer_file
from service.contract.features import BucketEncoder, FeatureSpec, Side
from service.contract.history import AGE_BUCKETS, STRENGTH_BUCKETS, History
from service.contract.manifest import Precision, Searches, TaskSpec
from service.contract.match import ANY
from service.contract.search import with_kept
from service.contract.served_inputs import (
    LOGIT,
    PARTS,
    PROBABILITY,
    Feeds,
    ItemTables,
    assemble,
    rows_by_catalogue_id,
)
from training.config import ModelConfig
from training.data.batch import Batch, PartIds
from training.data.vocabulary import counted_features
from training.export.onnx_file import write_onnx, write_search
from training.export.served_scorer import ServedScorer
from training.model import CtrModel
from training.modules.split import RowLayout

ITEMS_COUNT: Final = 10_000
DOMAINS: Final = ("a", "b", "c")
CANDIDATES_COUNT: Final = 200
CLUSTERS_COUNT: Final = 200
RECENTS_COUNT: Final = 50
BEHAVIORS_COUNT: Final = 500
TASKS: Final = (
    TaskSpec(name="click"),
    *(TaskSpec(name=name, given="click") for name in ("multi", "coupon", "rebuy28")),
)
_VALUES_COUNTS: Final = {
    Side.USER: {
        "user_id": 2_500,
        **dict.fromkeys(("age", "income", "home", "marital", "size", "children", "kids"), 8),
    },
    Side.CONTEXT: {"store_id": 450, "hour_of_day": 24, "day_of_week": 7},
    Side.CANDIDATE: {"mailer_location": 11, "display_location": 10},
    Side.ITEM: {
        "item_id": ITEMS_COUNT,
        "product_type": 1_500,
        "product_category": 280,
        "department": 24,
        "brand": 2,
        "manufacturer_id": 1_300,
    },
}
_DIFFERENCE_MAX: Final = 1e-4


class DisagreementError(Exception):
    """The served graph scores otherwise than the trained model: its cost would say nothing."""


@dataclass(frozen=True)
class Request:
    """One request as ids: N candidates of one user. Axes: item (N,), candidate_ids (N, F), user_ids (F,)."""

    item: np.ndarray[Any, np.dtype[np.uint32]]
    candidate_ids: np.ndarray[Any, np.dtype[np.int64]]
    user_ids: np.ndarray[Any, np.dtype[np.int64]]
    history: History

    def first(self, count: int) -> Request:
        """Return the request with its first candidates only."""
        return Request(self.item[:count], self.candidate_ids[:count], self.user_ids, self.history)


@dataclass(frozen=True)
class Served:
    """A model as it is trained, and as it is served in ONNX Runtime with one thread."""

    model: CtrModel
    tables: ItemTables
    inputs: tuple[str, ...]
    session: onnxruntime.InferenceSession
    searches: Searches | None
    search: onnxruntime.InferenceSession | None

    def feeds(self, request: Request) -> Feeds:
        """Return a request's tensors."""
        return assemble(
            self.tables,
            domain=0,
            user_ids=request.user_ids.tolist(),
            rows=self.tables.rows_of(request.item),
            candidate_ids=request.candidate_ids,
            history=request.history,
        )

    def searched(self, feeds: Feeds) -> Feeds:
        """Return a request's tensors with what its searches keep."""
        if self.searches is None or self.search is None:
            return feeds
        return with_kept(feeds, self.searches, self.search.run)

    def run(self, feeds: Feeds) -> Any:
        """Return the logits (N, T) of a request's tensors; what its searches keep is found first."""
        feeds = self.searched(feeds)
        return self.session.run([LOGIT, PROBABILITY], {name: feeds[name] for name in self.inputs})[0]

    def check(self, request: Request) -> None:
        """Raise DisagreementError unless both score a request alike."""
        got = self.run(self.feeds(request))
        with torch.inference_mode():
            expected = self.model.natural_logits(batch_of(request)).numpy()
        off = float(np.abs(got - expected).max())
        if not off <= _DIFFERENCE_MAX:
            raise DisagreementError(f"logits differ by {off:.1e}")


def features() -> tuple[FeatureSpec, ...]:
    """Return features of as many values as Complete Journey's, statistics included."""
    counted = {
        Side.MATCH: counted_features(Side.MATCH, (ANY, *_VALUES_COUNTS[Side.ITEM])),
        Side.POPULARITY: counted_features(Side.POPULARITY, ("item_id", "store_id")),
    }
    found: list[FeatureSpec] = []
    for side in (Side.USER, Side.CONTEXT, Side.CANDIDATE, Side.MATCH, Side.POPULARITY, Side.ITEM):
        values = _VALUES_COUNTS.get(side, {})
        for name, count in values.items():
            encoder = BucketEncoder(boundaries=tuple(map(float, range(count - 1))))
            found.append(FeatureSpec(name=name, side=side, encoder=encoder))
        found += counted.get(side, ())
    return tuple(found)


def made_up_request(
    rng: np.random.Generator,
    *,
    candidates_count: int = CANDIDATES_COUNT,
    clusters_count: int = CLUSTERS_COUNT,
) -> Request:
    """Return a request of some candidates and a full history."""
    specs = features()
    per_candidate = [f for f in specs if f.side in (Side.CANDIDATE, Side.MATCH, Side.POPULARITY)]
    per_user = [f for f in specs if f.side in (Side.USER, Side.CONTEXT)]

    def items(count: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
        return rng.integers(1, ITEMS_COUNT, count).astype(np.uint32)

    def buckets(count: int, below: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return rng.integers(0, below, count).astype(np.uint8)

    return Request(
        item=items(candidates_count),
        candidate_ids=np.stack(
            [rng.integers(0, f.encoder.ids_count, candidates_count) for f in per_candidate], 1
        ),
        user_ids=np.array([rng.integers(0, f.encoder.ids_count) for f in per_user]),
        history=History(
            item=items(clusters_count),
            size=rng.integers(1, 21, clusters_count).astype(np.float32),
            age=buckets(clusters_count, AGE_BUCKETS),
            strength=buckets(clusters_count, STRENGTH_BUCKETS),
            recent_item=items(RECENTS_COUNT),
            recent_age=buckets(RECENTS_COUNT, AGE_BUCKETS),
            recent_strength=buckets(RECENTS_COUNT, STRENGTH_BUCKETS),
            behavior_item=items(BEHAVIORS_COUNT),
            behavior_age=buckets(BEHAVIORS_COUNT, AGE_BUCKETS),
            behavior_strength=buckets(BEHAVIORS_COUNT, STRENGTH_BUCKETS),
        ),
    )


def batch_of(request: Request, *, domain: int = 0) -> Batch:
    """Return the request as a training batch of one visit."""
    rows, history = len(request.item), request.history
    slot, none = torch.arange(rows), torch.zeros(rows)
    given = {
        "clusters": (history.item, history.size, history.age, history.strength),
        "recents": (
            history.recent_item,
            np.ones(len(history.recent_item), np.float32),
            history.recent_age,
            history.recent_strength,
        ),
        "behaviors": (
            history.behavior_item,
            np.ones(len(history.behavior_item), np.float32),
            history.behavior_age,
            history.behavior_strength,
        ),
    }
    assert set(given) == set(PARTS)

    def ids(values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(values.astype(np.int64))

    parts: dict[str, PartIds] = {}
    for name, columns in given.items():
        item, size, age, strength = columns
        if not len(item):  # as the service lays it out: one row of size 0
            item, size, age, strength = (np.zeros(1, column.dtype) for column in columns)
        parts[name] = PartIds(
            item_rows=ids(item),
            index=torch.arange(len(item))[None],
            size=torch.from_numpy(size)[None],
            age=ids(age)[None],
            strength=ids(strength)[None],
        )
    return Batch(
        item=ids(request.item),
        candidate_ids=ids(request.candidate_ids),
        request=torch.zeros(rows, dtype=torch.int64),
        user_ids=ids(request.user_ids)[None],
        domain=torch.tensor([domain]),
        layout=RowLayout(torch.zeros(rows, dtype=torch.int64), slot, rows),
        parts=parts,
        labels=none[:, None].expand(-1, len(TASKS)),
        offset=none,
    )


def made_up_model(config: ModelConfig, specs: tuple[FeatureSpec, ...]) -> CtrModel:
    """Return a model of these features and of ITEMS_COUNT items, their features and its parameters drawn."""
    rng = np.random.default_rng(1)
    counts = [f.encoder.ids_count for f in specs if f.side is Side.ITEM]
    item_ids = np.stack([rng.integers(0, count, ITEMS_COUNT) for count in counts], 1)
    torch.manual_seed(1)
    return CtrModel(
        config,
        features=specs,
        item_ids=torch.from_numpy(item_ids),
        domains_count=len(DOMAINS),
        tasks_count=len(TASKS),
        logit_columns=1,
    ).eval()


def serve(config: ModelConfig, folder: Path) -> Served:
    """Build a model, write its served graph into a folder, and load it."""
    specs = features()
    model = made_up_model(config, specs)
    scorer = ServedScorer(model, TASKS, len(DOMAINS)).eval()
    content = scorer.item_tables(model, specs)
    inputs = write_onnx(folder, scorer, content, domains=DOMAINS)
    searches, search = write_search(folder, scorer, content), None
    if searches is not None:
        search = _session(folder / SEARCH_FILE)
    rows = rows_by_catalogue_id(np.arange(ITEMS_COUNT, dtype=np.uint32))
    tables = ItemTables(rows, content.shared, content.by_domain, content.history, content.match_keys)
    return Served(model, tables, inputs, session_of(folder), searches, search)


def session_of(folder: Path, precision: Precision = "fp32") -> onnxruntime.InferenceSession:
    """Return a written graph in ONNX Runtime with one thread."""
    return _session(folder / scorer_file(DOMAINS[0], precision))


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
