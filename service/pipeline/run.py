"""One request from its bytes to the bytes of its answer: the stages in their order, each timed.

    decode → route → hydrate → encode → score → respond

Knows nothing of HTTP. `batch.py` runs the same stages for several users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from service.clock import Clock
from service.guarded_store import GuardedStore
from service.models.live import Serving
from service.pipeline.decode import ScoreRequest, decode_score
from service.pipeline.encode import encode
from service.pipeline.form import Form
from service.pipeline.hydrate import User, Wanted, hydrate
from service.pipeline.respond import respond
from service.pipeline.route import Route, route

STAGES: Final = ("decode", "route", "hydrate", "encode", "score", "respond")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood: what is asked, of which model, for which moment."""

    request: ScoreRequest
    way: Route
    at_ms: int
    decode_s: float
    route_s: float

    def wanted(self) -> Wanted:
        """Return what to ask the store for."""
        return Wanted(self.way.model, self.request.user_id, self.at_ms)


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
    encoded_items_count: int
    stages_s: tuple[float, ...]


async def score_request(
    body: bytes,
    *,
    form: Form,
    answer_form: Form,
    domain: str | None,
    request_id: str,
    serving: Serving,
    store: GuardedStore,
    clock: Clock,
    candidates_max_count: int,
    new_items_max_count: int,
) -> Answer:
    """Score the request in a body.

    Raises:
        RequestError: the body or the domain is not one that can be scored.
        ScoringError: the model gave no probabilities.
    """
    asked = understand(
        body,
        form,
        domain=domain,
        serving=serving,
        clock=clock,
        candidates_max_count=candidates_max_count,
        new_items_max_count=new_items_max_count,
    )
    began_s = clock.monotonic_s()
    user = await hydrate(store, asked.wanted())
    hydrate_s = clock.monotonic_s() - began_s
    return answer(asked, user, form=answer_form, request_id=request_id, clock=clock, hydrate_s=hydrate_s)


def understand(
    body: bytes | msgspec.Raw,
    form: Form,
    *,
    domain: str | None,
    serving: Serving,
    clock: Clock,
    candidates_max_count: int,
    new_items_max_count: int,
) -> Asked:
    """Decode a request and route it.

    Raises:
        RequestError: the body or the domain is not one that can be scored.
    """
    began_s = clock.monotonic_s()
    request = decode_score(
        body, form, candidates_max_count=candidates_max_count, new_items_max_count=new_items_max_count
    )
    decoded_s = clock.monotonic_s()
    way = route(serving, domain=domain, user_id=request.user_id, tasks=request.tasks)
    routed_s = clock.monotonic_s()
    at_ms = clock.now_ms() if request.at_ms is None else request.at_ms
    return Asked(request, way, at_ms, decoded_s - began_s, routed_s - decoded_s)


def answer(
    asked: Asked, user: User, *, form: Form, request_id: str, clock: Clock, hydrate_s: float
) -> Answer:
    """Encode a request, score it and respond.

    Raises:
        ScoringError: the model gave no probabilities.
    """
    request, way = asked.request, asked.way
    began_s = clock.monotonic_s()
    encoded = encode(request, way, user, at_ms=asked.at_ms)
    encoded_s = clock.monotonic_s()
    probability = way.model.scorer.run(way.domain, encoded.feeds)  # score
    scored_s = clock.monotonic_s()
    body = respond(
        way,
        request.item_ids,
        probability,
        form=form,
        request_id=request_id,
        degraded=user.degraded,
        unknown_items=encoded.unknown_items,
    )
    responded_s = clock.monotonic_s()
    return Answer(
        body=body,
        model=way.model.label,
        arms=way.arms,
        domain=way.domain,
        degraded=user.degraded,
        candidates_count=len(request.item_ids),
        unknown_items_count=len(encoded.unknown_items),
        encoded_items_count=encoded.encoded_items_count,
        stages_s=(
            asked.decode_s,
            asked.route_s,
            hydrate_s,
            encoded_s - began_s,
            scored_s - encoded_s,
            responded_s - scored_s,
        ),
    )
