"""POST /events."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response

from service.api.body import read_body
from service.api.media import headers_of, sent_form
from service.api.problem import request_id_of
from service.api.schema import PROBLEMS, EventsAnswer
from service.events.accept import Accepted, accept_events
from service.events.decode import decode_events
from service.runtime import Runtime

router = APIRouter()


@router.post(
    "/events",
    summary="Tell what users did",
    responses={200: {"model": EventsAnswer}, **PROBLEMS},
    response_class=Response,
)
async def events(request: Request) -> Response:
    """Add behaviors to their users' recent lists; the next /score of such a user sees them.

    Sending events again is harmless: a behavior whose `event_id` is known changes nothing. Impressions and
    labels are checked and counted, and not used yet. After a 503 some events may be stored: send all again.
    """
    runtime: Runtime = request.app.state.runtime
    serving, settings = runtime.serving, runtime.settings
    headers = headers_of(request.scope)
    sent_form(headers.get(b"content-type"), is_json_only=True)
    body = await read_body(headers, request.receive, max_bytes=settings.body_max_bytes)
    accepted = await accept_events(
        decode_events(body, events_max_count=settings.events_max_count),
        serving=serving,
        store=runtime.store,
        now_ms=runtime.clock.now_ms(),
        future_skew_max_ms=settings.future_skew_max_ms,
        recent_max_count=settings.recent_max_count,
    )
    _count(runtime, accepted)
    content = {
        "request_id": request_id_of(request),
        "behaviors": {
            "appended": accepted.behaviors_count,
            "duplicates": accepted.duplicates_count,
            "dropped": accepted.dropped_count,
            "unknown_items": accepted.unknown_items_count,
        },
        "not_used_yet": {"impressions": accepted.impressions_count, "labels": accepted.labels_count},
        "rejected": accepted.rejected_count,
        "rejections": [{"index": i, "reason": reason} for i, reason in accepted.rejections],
    }
    return Response(orjson.dumps(content), media_type="application/json")


def _count(runtime: Runtime, accepted: Accepted) -> None:
    for type_, outcome, count in (
        ("behavior", "appended", accepted.behaviors_count),
        ("behavior", "duplicate", accepted.duplicates_count),
        ("behavior", "dropped", accepted.dropped_count),
        ("behavior", "unknown_item", accepted.unknown_items_count),
        ("impression", "not_used_yet", accepted.impressions_count),
        ("label", "not_used_yet", accepted.labels_count),
        ("any", "rejected", accepted.rejected_count),
    ):
        if count:
            runtime.metrics.events.labels(type_, outcome).inc(count)
