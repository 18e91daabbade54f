"""One request from its bytes to the bytes of its answer: the stages in their order, each timed.

    decode → route → hydrate → encode → score → respond

Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from service.clock import Clock
from service.guarded_store import GuardedStore
from service.models.live import Serving
from service.pipeline.decode import decode_score
from service.pipeline.encode import encode
from service.pipeline.hydrate import hydrate
from service.pipeline.respond import respond
from service.pipeline.route import route

STAGES: Final = ("decode", "route", "hydrate", "encode", "score", "respond")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and what is told beside it. `stages_s` are the stages' durations, in the order of STAGES."""

    body: bytes
    model: str
    arms: Mapping[str, str]
    domain: str
    degraded: tuple[str, ...]
    candidates_count: int
    unknown_items_count: int
    stages_s: tuple[float, ...]


async def score_request(
    body: bytes,
    *,
    domain: str | None,
    request_id: str,
    serving: Serving,
    store: GuardedStore,
    clock: Clock,
    candidates_max_count: int,
) -> Answer:
    """Score the request in a body.

    Raises:
        RequestError: the body or the domain is not one that can be scored.
        ScoringError: the model gave no probabilities.
    """
    tick = clock.monotonic_s
    started_s = tick()
    request = decode_score(body, candidates_max_count=candidates_max_count)
    decoded_s = tick()
    way = route(serving, domain=domain, user_id=request.user_id, tasks=request.tasks)
    routed_s = tick()
    at_ms = clock.now_ms() if request.at_ms is None else request.at_ms
    user = await hydrate(store, way.model, user_id=request.user_id, at_ms=at_ms)
    hydrated_s = tick()
    encoded = encode(request, way, user, at_ms=at_ms)
    encoded_s = tick()
    probability = way.model.scorer.run(way.domain, encoded.feeds)  # score
    scored_s = tick()
    answer = respond(
        way,
        request.item_ids,
        probability,
        request_id=request_id,
        degraded=user.degraded,
        unknown_items=encoded.unknown_items,
    )
    ticks = (started_s, decoded_s, routed_s, hydrated_s, encoded_s, scored_s, tick())
    return Answer(
        body=answer,
        model=way.model.label,
        arms=way.arms,
        domain=way.domain,
        degraded=user.degraded,
        candidates_count=len(request.item_ids),
        unknown_items_count=len(encoded.unknown_items),
        stages_s=tuple(end - begin for begin, end in pairwise(ticks)),
    )
