"""The OpenAPI document: what FastAPI finds by itself, and the bodies and headers that it does not read."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.media import FORMS, JSON
from service.api.problem import MEDIA_TYPE
from service.api.schema import (
    BatchAnswerColumns,
    BatchBody,
    EventsBody,
    ScoreAnswerColumns,
    ScoreBody,
)
from service.pipeline.form import Form
from service.pipeline.route import DOMAIN_HEADER

_BODIES: Final[dict[str, type[BaseModel]]] = {
    "/score": ScoreBody,
    "/score/batch": BatchBody,
    "/events": EventsBody,
}
_COLUMNS: Final[dict[str, type[BaseModel]]] = {
    "/score": ScoreAnswerColumns,
    "/score/batch": BatchAnswerColumns,
}
"""What routes that also speak MessagePack answer in it."""

_MSGPACK: Final = next(media_type for media_type, form in FORMS.items() if form is Form.MSGPACK)

_REQUEST_ID: Final = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "an id of the caller's for this request; one is made without",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
_DOMAIN: Final = {
    "name": DOMAIN_HEADER,
    "in": "header",
    "required": True,
    "description": "the domain to score for",
    "schema": {"type": "string"},
    "example": "mailer",
}
_HEADERS: Final = {
    "X-Request-Id": "the id under which the request was answered and logged",
    "Server-Timing": "milliseconds of each stage",
}
_SCORE_HEADERS: Final = {
    "X-Model-Version": "name and version of the model that scored",
    "X-Experiment-Arms": "layer=arm of each layer that decided, by commas",
    **_HEADERS,
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, schemas = models_json_schema(
        [
            *((body, "validation") for body in _BODIES.values()),
            *((answer, "serialization") for answer in _COLUMNS.values()),
        ],
        ref_template="#/components/schemas/{model}",
    )
    document["components"]["schemas"].update(schemas["$defs"])
    for path, body in _BODIES.items():
        operation = document["paths"][path]["post"]
        content = {JSON: _schema(body)}
        if path in _COLUMNS:
            content[_MSGPACK] = _schema(body)
            operation["responses"]["200"]["content"][_MSGPACK] = _schema(_COLUMNS[path])
        operation["requestBody"] = {"required": True, "content": content}
        operation["parameters"] = [_DOMAIN, _REQUEST_ID] if path in _COLUMNS else [_REQUEST_ID]
    for path, headers in (("/score", _SCORE_HEADERS), ("/score/batch", _HEADERS)):
        document["paths"][path]["post"]["responses"]["200"]["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
        }
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status >= "4" and "application/json" in content:
                    response["content"] = {MEDIA_TYPE: content["application/json"]}
    return document


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
