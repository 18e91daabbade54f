"""How far scores are from those of a whole life cycle when fewer of its clusters are read, and what reading them costs.

Ways to read fewer: a sample that stands for all (`Snapshot.sampled`, what is served), the best for each candidate
(a GSU), and fewer and larger clusters. Each gives the served graph another history of the same user; what is compared
are its logits. Knows nothing of servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import torch
from scipy.special import expit

from benchmarks.workload import Ask
from service.contract.catalogue import Catalogue
from service.contract.history import F32, Behaviors, HistoryLimits, Snapshot, build_history
from service.contract.popularity import Popularity
from service.contract.search import kept_of
from service.contract.served_inputs import CLUSTER_ITEM, ITEM_SHARED, PARTS, Feeds
from training.export.served_graph import ServedGraph
from training.export.served_scorer import ServedScorer
from training.export.variants import BY_CANDIDATE

SAMPLES: Final = (256, 512, 1024, 2048, 4096)
BEST: Final = (100, 1000, 4000)
"""What a GSU keeps; the paper's is 100."""
LARGER: Final = 2048
"""About as many clusters there are of larger ones: clustering again takes minutes."""
TIMED_RUNS: Final = 9
WHOLE: Final = HistoryLimits(clusters_max=None)


@dataclass(frozen=True)
class LogitDistance:
    """How far scores are from those that are right, over candidates of all requests and tasks.

    swapped_share: of pairs of candidates of one request, those that change places by the first task.
    """

    logit_difference_mean: float
    logit_difference_max: float
    probability_difference_max: float
    swapped_share: float


@dataclass(frozen=True)
class Scored:
    """A published model: its graph in ONNX Runtime, its parts in torch, and what a request is encoded with."""

    graph: ServedGraph
    scorer: ServedScorer
    catalogue: Catalogue
    popularity: Popularity

    def feeds(self, ask: Ask, snapshot: Snapshot) -> Feeds:
        """Return the tensors of a request of a user with this snapshot, all of it."""
        request = orjson.loads(ask.body)
        given = [c if isinstance(c, dict) else {"item_id": c} for c in request["candidates"]]
        candidates = self.catalogue.ids_of([c["item_id"] for c in given])
        encoder, at_ms = self.graph.encoder, int(request["at_ms"])
        return encoder.encode(
            ask.domain,
            user_id=request["user_id"],
            user_features={},
            context=request["context"],
            candidates=candidates,
            rows=encoder.tables.rows_of(candidates),
            candidate_contexts=[c.get("context", {}) for c in given],
            history=build_history(snapshot, Behaviors.empty(), at_ms=at_ms, limits=WHOLE),
            popularity=self.popularity,
            at_ms=at_ms,
        )

    def logits(self, ask: Ask, feeds: Feeds) -> F32:
        """Return the logits (N, T) of a request."""
        return self.graph.logits_of(ask.domain, feeds)

    def logits_of_best(self, ask: Ask, feeds: Feeds, keep: int) -> F32:
        """Return the logits (N, T) where each candidate attends to the `keep` clusters that score best for it."""
        names = PARTS["clusters"]
        (interest,) = self.scorer.readers("clusters")
        tensors = {name: torch.from_numpy(np.array(feeds[name])) for name in (ITEM_SHARED, *names)}
        columns, _ = self.scorer.own_columns(tensors[ITEM_SHARED])
        history = self.scorer.own_history({"clusters": tensors[CLUSTER_ITEM]})
        with torch.inference_mode():
            rank = self.scorer.interests[interest].ranks
            ranks = rank(columns[interest], history[interest], *(tensors[name] for name in names[1:]))  # type: ignore[operator]
        kept = kept_of(ranks.numpy(), keep, newest_first=False)
        rows = []
        for i, chosen in enumerate(kept):
            own = {name: feeds[name][i : i + 1] for name in BY_CANDIDATE}
            own |= {name: feeds[name][chosen] for name in names}
            rows.append(self.logits(ask, feeds | own))
        return np.concatenate(rows)


def rows_of(
    subject: Scored,
    whole: Snapshot,
    asks: Sequence[Ask],
    larger: Callable[[int], Snapshot],
) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to read fewer clusters of a life cycle, the whole first.

    larger: gives the snapshot of the same behaviors in about so many clusters.
    """
    of_whole = [subject.feeds(ask, whole) for ask in asks]
    right = [subject.logits(ask, feeds) for ask, feeds in zip(asks, of_whole, strict=True)]
    count = len(whole.item)

    def row(way: str, snapshot: Snapshot) -> dict[str, Any]:
        feeds = [subject.feeds(ask, snapshot) for ask in asks]
        got = [subject.logits(ask, of) for ask, of in zip(asks, feeds, strict=True)]
        timed_ms = [_timed_ms(subject, ask, snapshot) for ask in asks]
        return _row(way, len(snapshot.item), got, right) | {"encode_and_score_ms": float(np.median(timed_ms))}

    yield row("whole", whole)
    for size in SAMPLES:
        if size < count:
            yield row("sample", whole.sampled(size))
    for keep in BEST:
        if keep < count:
            got = [subject.logits_of_best(ask, of, keep) for ask, of in zip(asks, of_whole, strict=True)]
            yield _row("best for each candidate", keep, got, right) | {"encode_and_score_ms": None}
    if count > LARGER:
        yield row("larger clusters", larger(LARGER))


def _row(way: str, read: int, got: Sequence[F32], right: Sequence[F32]) -> dict[str, Any]:
    return {"way": way, "clusters_read": read, **asdict(distance(got, right))}


def _timed_ms(subject: Scored, ask: Ask, snapshot: Snapshot) -> float:
    def run() -> float:
        began_s = time.perf_counter()
        subject.graph.probabilities(ask.domain, subject.feeds(ask, snapshot))
        return (time.perf_counter() - began_s) * 1000

    return float(np.median([run() for _ in range(TIMED_RUNS)]))


def distance(got: Sequence[F32], right: Sequence[F32]) -> LogitDistance:
    """Return how far the logits (N, T) of some requests are from the right ones."""
    off = [np.abs(a - b) for a, b in zip(got, right, strict=True)]
    p = [
        np.abs(expit(a, dtype=np.float64) - expit(b, dtype=np.float64)).max()
        for a, b in zip(got, right, strict=True)
    ]
    return LogitDistance(
        logit_difference_mean=float(np.mean([o.mean() for o in off])),
        logit_difference_max=float(max(o.max() for o in off)),
        probability_difference_max=float(max(p)),
        swapped_share=float(
            np.mean([swapped_share(a[:, 0], b[:, 0]) for a, b in zip(got, right, strict=True)])
        ),
    )


def swapped_share(got: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    """Return the share of pairs that two lists of scores (N,) put in different orders."""
    first, second = np.triu_indices(len(got), 1)
    orders = [np.sign(scores[first] - scores[second]) for scores in (got, right)]
    return float(np.mean(orders[0] * orders[1] < 0)) if len(first) else 0.0
