"""POST /score and POST /score/batch."""

from __future__ import annotations

import asyncio
import gzip
from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response

from service.api.body import read_body
from service.api.media import FORMS, Headers, headers_of, sent_form, takes_gzip, wanted_type
from service.api.problem import problem_of, request_id_of
from service.api.schema import PROBLEMS, BatchAnswer, ScoreAnswer
from service.pipeline.batch import id_within_batch, score_batch
from service.pipeline.respond import ENCODERS
from service.pipeline.route import DOMAIN_HEADER
from service.pipeline.run import STAGES, Answer, score_request
from service.runtime import Runtime

router = APIRouter()

_DOMAIN: Final = DOMAIN_HEADER.lower().encode()
_SERVER_TIMING: Final = ", ".join(f"{stage};dur=%.3f" for stage in STAGES)
_GZIP_LEVEL: Final = 1
"""Higher ones take several times as long, and make a few percent less."""


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
    serving, settings = runtime.serving, runtime.settings
    headers = headers_of(request.scope)
    form = sent_form(headers.get(b"content-type"))
    wanted = wanted_type(headers.get(b"accept"))
    answer = await score_request(
        await read_body(headers, request.receive, max_bytes=settings.body_max_bytes),
        form=form,
        answer_form=FORMS[wanted],
        domain=_domain_of(headers),
        request_id=request_id_of(request),
        serving=serving,
        store=runtime.store,
        clock=runtime.clock,
        candidates_max_count=settings.candidates_max_count,
        new_items_max_count=settings.new_items_max_count,
    )
    runtime.metrics.note_answer(answer)
    request.state.told = {
        "model": answer.model,
        "arms": answer.arms,
        "candidates_count": answer.candidates_count,
        "degraded": answer.degraded,
    }
    told = {"X-Model-Version": answer.model, "Server-Timing": _server_timing(answer.stages_s)}
    if answer.arms:
        told["X-Experiment-Arms"] = ",".join(f"{layer}={arm}" for layer, arm in answer.arms.items())
    return await _response(answer.body, told, wanted, headers, gzip_min_bytes=settings.gzip_min_bytes)


@router.post(
    "/score/batch",
    summary="Score candidates for several users",
    responses={200: {"model": BatchAnswer}, **PROBLEMS},
    response_class=Response,
)
async def batch(request: Request) -> Response:
    """Answer several requests of one domain, each as POST /score answers it, in their order.

    A request that cannot be answered has a problem in its place, and fails no other. Scores are those of single
    requests, bit for bit; the `request_id` of each is the batch's with its number.
    """
    runtime: Runtime = request.app.state.runtime
    serving, settings = runtime.serving, runtime.settings
    headers = headers_of(request.scope)
    form = sent_form(headers.get(b"content-type"))
    wanted = wanted_type(headers.get(b"accept"))
    request_id = request_id_of(request)
    answers = await score_batch(
        await read_body(headers, request.receive, max_bytes=settings.body_max_bytes),
        form=form,
        answer_form=FORMS[wanted],
        domain=_domain_of(headers),
        request_id=request_id,
        serving=serving,
        store=runtime.store,
        clock=runtime.clock,
        candidates_max_count=settings.candidates_max_count,
        new_items_max_count=settings.new_items_max_count,
        requests_max_count=settings.batch_max_count,
        batch_candidates_max_count=settings.batch_candidates_max_count,
    )
    scored = [answer for answer in answers if isinstance(answer, Answer)]
    for answer in scored:
        runtime.metrics.note_answer(answer)
    request.state.told = {
        "requests_count": len(answers),
        "scored_count": len(scored),
        "candidates_count": sum(answer.candidates_count for answer in scored),
        "degraded": sorted({reason for answer in scored for reason in answer.degraded}),
    }
    content = {
        "request_id": request_id,
        "answers": [
            msgspec.Raw(answer.body)
            if isinstance(answer, Answer)
            else problem_of(answer, request_id=id_within_batch(request_id, i))
            for i, answer in enumerate(answers)
        ],
    }
    stages_s = tuple(map(sum, zip(*(answer.stages_s for answer in scored), strict=True)))
    told = {"Server-Timing": _server_timing(stages_s or (0.0,) * len(STAGES))}
    body = ENCODERS[FORMS[wanted]](content)
    return await _response(body, told, wanted, headers, gzip_min_bytes=settings.gzip_min_bytes)


def _domain_of(headers: Headers) -> str | None:
    domain = headers.get(_DOMAIN)
    return None if domain is None else domain.decode("latin-1")


def _server_timing(stages_s: tuple[float, ...]) -> str:
    return _SERVER_TIMING % tuple(seconds * 1000 for seconds in stages_s)


async def _response(
    body: bytes, told: dict[str, str], media_type: str, headers: Headers, *, gzip_min_bytes: int
) -> Response:
    """Return an answer, compressed where the setting and the caller both say so.

    Nearly every client sends `Accept-Encoding: gzip` unasked, so that header alone asks for nothing: compressing
    takes 10 µs a kilobyte. It is done on another thread: a batch's answer may have megabytes.
    """
    told["Vary"] = "Accept, Accept-Encoding" if gzip_min_bytes else "Accept"
    if gzip_min_bytes and len(body) >= gzip_min_bytes and takes_gzip(headers.get(b"accept-encoding")):
        body = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL, mtime=0)
        told["Content-Encoding"] = "gzip"
    return Response(body, headers=told, media_type=media_type)
