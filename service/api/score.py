"""POST /score."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.body import read_body
from service.api.problem import request_id_of
from service.api.schema import PROBLEMS, ScoreAnswer
from service.pipeline.route import DOMAIN_HEADER
from service.pipeline.run import STAGES, Answer, score_request
from service.runtime import Runtime

router = APIRouter()


@router.post(
    "/score",
    summary="Score candidates for a user",
    responses={200: {"model": ScoreAnswer}, **PROBLEMS},
    response_class=Response,
)
async def score(request: Request) -> Response:
    """Return the probability of each task for each candidate, in the request's order.

    The domain is named by the `X-Domain` header. Unknown users, items and feature values are scored as such.
    """
    runtime: Runtime = request.app.state.runtime
    serving = runtime.serving
    body = await read_body(request, max_bytes=runtime.settings.body_max_bytes)
    answer = await score_request(
        body,
        domain=request.headers.get(DOMAIN_HEADER),
        request_id=request_id_of(request),
        serving=serving,
        store=runtime.store,
        clock=runtime.clock,
        candidates_max_count=runtime.settings.candidates_max_count,
    )
    _count(runtime, answer)
    request.state.told = {
        "model": answer.model,
        "arms": answer.arms,
        "candidates_count": answer.candidates_count,
        "degraded": answer.degraded,
    }
    headers = {
        "X-Model-Version": answer.model,
        "Server-Timing": ", ".join(
            f"{stage};dur={seconds * 1000:.3f}"
            for stage, seconds in zip(STAGES, answer.stages_s, strict=True)
        ),
    }
    if answer.arms:
        headers["X-Experiment-Arms"] = ",".join(f"{layer}={arm}" for layer, arm in answer.arms.items())
    return Response(answer.body, headers=headers, media_type="application/json")


def _count(runtime: Runtime, answer: Answer) -> None:
    metrics = runtime.metrics
    metrics.scored.labels(answer.domain, answer.model).inc()
    metrics.candidates.observe(answer.candidates_count)
    for histogram, seconds in zip(metrics.stage_seconds, answer.stages_s, strict=True):
        histogram.observe(seconds)
    for layer, arm in answer.arms.items():
        metrics.assignments.labels(layer, arm).inc()
    for reason in answer.degraded:
        metrics.degraded.labels(reason).inc()
    if answer.unknown_items_count:
        metrics.unknown_items.inc(answer.unknown_items_count)
