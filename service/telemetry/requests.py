"""Every request gets an id, is counted and timed, and is logged if it failed, was slow, or was drawn.

An ASGI layer around the app; knows nothing of scoring.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.clock import Clock
from service.telemetry.metrics import Metrics

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADER: Final = b"x-request-id"

_log: Final = logging.getLogger(__name__)


class RequestTelemetry:
    """Wraps an app. `paths` are those told apart, all others are one; `draw` gives numbers in [0, 1) that
    decide which plain requests are logged."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: frozenset[str],
        metrics: Metrics,
        clock: Clock,
        on_stray_error: Callable[[Request, Exception], Awaitable[Response]],
        log_sample_ratio: float,
        slow_request_ms: int,
        draw: random.Random | None = None,
    ) -> None:
        self._app = app
        self._paths = paths
        self._metrics = metrics
        self._clock = clock
        self._on_stray_error = on_stray_error
        self._log_sample_ratio = log_sample_ratio
        self._slow_s = slow_request_ms / 1000
        self._draw = draw or random.Random()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = self._clock.monotonic_s()
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_HEADER, request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            # Whatever nothing else answered. Answered in here, so that it has an id and is counted too.
            if status is not None:
                raise
            answer = await self._on_stray_error(Request(scope), error)
            await answer(scope, receive, send_with_id)
        finally:
            self._note(scope, state, status or 500, self._clock.monotonic_s() - started_s)

    def _note(self, scope: Scope, state: dict[str, Any], status: int, took_s: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "unmatched"
        self._metrics.note_request(path, status, took_s)
        is_slow = took_s >= self._slow_s
        if status >= 500 or is_slow or self._draw.random() < self._log_sample_ratio:
            _log.log(
                logging.WARNING if status >= 500 or is_slow else logging.INFO,
                "request",
                extra={
                    "route": path,
                    "status": status,
                    "took_ms": round(took_s * 1000, 3),
                    "request_id": state["request_id"],
                    **state.get("told", {}),
                },
            )


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == _HEADER and _SANE_ID.fullmatch(value):
            sane: bytes = value
            return sane
    return b"%032x" % random.getrandbits(128)
