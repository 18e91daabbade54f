"""Errors to HTTP: problem details (RFC 9457). The only place that pairs errors with status codes.

    400 malformed-body            422 invalid-request       503 not-ready, scoring-failed, store-unavailable
    404 not-found                 413 body-too-large        500 internal-error: a bug, without its trace
    405 method-not-allowed        415 unsupported-media-type

A problem is bounded and repeats nothing of the request.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    MalformedBody,
    NotReady,
    ScoringError,
    UnsupportedMediaType,
)
from service.stores.base import StoreUnavailable

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = "2"

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    name: str
    title: str
    headers: tuple[tuple[str, str], ...] = ()


_RETRY: Final = (("Retry-After", RETRY_AFTER_S),)

_KINDS: Final[dict[type[Exception], _Kind]] = {
    MalformedBody: _Kind(400, "malformed-body", "The body is not what its headers say"),
    # The rest of the body is not read, so the connection is of no further use.
    BodyTooLarge: _Kind(413, "body-too-large", "The body is too large", (("Connection", "close"),)),
    # Accept-Encoding here tells what codings a body may have (RFC 9110, 12.5.3).
    UnsupportedMediaType: _Kind(
        415,
        "unsupported-media-type",
        "The body is of a type or a coding that is not taken",
        (("Accept-Encoding", "gzip"),),
    ),
    InvalidRequest: _Kind(422, "invalid-request", "The request cannot be answered"),
    NotReady: _Kind(503, "not-ready", "There is nothing to score with yet", _RETRY),
    ScoringError: _Kind(503, "scoring-failed", "The model gave no answer", _RETRY),
    StoreUnavailable: _Kind(503, "store-unavailable", "The store does not answer", _RETRY),
    ClientDisconnect: _Kind(400, "client-left", "The client left before its request was whole"),
}
_INTERNAL: Final = _Kind(500, "internal-error", "The service failed on this request")


def request_id_of(request: Request) -> str:
    """Return the id under which a request is answered and logged."""
    request_id: str = request.state.request_id
    return request_id


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error of the service, and any stray one as a failure without details."""
    kind = _kind_of(error)
    if kind is _INTERNAL:
        _log.error("stray error", exc_info=error, extra={"request_id": request_id_of(request)})
    return _response(problem_of(error, request_id=request_id_of(request)), kind.headers)


def problem_of(error: Exception, *, request_id: str) -> dict[str, Any]:
    """Return an error as a problem's members."""
    kind = _kind_of(error)
    errors = None
    detail: str | None = str(error)
    if isinstance(error, InvalidRequest):
        errors = [{"where": v.where, "reason": v.reason} for v in error.violations]
        detail = None
    elif isinstance(error, NotReady):
        errors = [{"where": "artefacts", "reason": reason} for reason in error.reasons[:20]]
        detail = None
    elif kind is _INTERNAL or isinstance(error, StoreUnavailable | ClientDisconnect):
        detail = None
    content = _content(kind.status, kind.name, kind.title, request_id=request_id)
    if detail is not None:
        content["detail"] = detail
    if errors:
        content["errors"] = errors
    return content


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    content = _content(
        error.status_code, phrase.lower().replace(" ", "-"), phrase, request_id=request_id_of(request)
    )
    return _response(content, tuple((error.headers or {}).items()))


def add_handlers(app: FastAPI) -> None:
    """Make an app answer as problems what its router refuses, and stray errors; our routes' do not come to it."""
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_error)


def _kind_of(error: Exception) -> _Kind:
    return next((_KINDS[type_] for type_ in type(error).__mro__ if type_ in _KINDS), _INTERNAL)


def _content(status: int, name: str, title: str, *, request_id: str) -> dict[str, Any]:
    return {
        "type": f"urn:twinstar:problem:{name}",
        "title": title,
        "status": status,
        "request_id": request_id,
    }


def _response(content: dict[str, Any], headers: tuple[tuple[str, str], ...]) -> Response:
    return Response(orjson.dumps(content), content["status"], dict(headers), MEDIA_TYPE)
