"""The OpenAPI document: what FastAPI finds by itself, and the bodies and headers that it does not read."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.problem import MEDIA_TYPE
from service.api.schema import EventsBody, ScoreBody
from service.pipeline.route import DOMAIN_HEADER

_BODIES: Final[dict[str, type[BaseModel]]] = {"/score": ScoreBody, "/events": EventsBody}

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
_SCORE_HEADERS: Final = {
    "X-Model-Version": "name and version of the model that scored",
    "X-Experiment-Arms": "layer=arm of each layer that decided, by commas",
    "X-Request-Id": "the id under which the request was answered and logged",
    "Server-Timing": "milliseconds of each stage",
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, bodies = models_json_schema(
        [(body, "validation") for body in _BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    document["components"]["schemas"].update(bodies["$defs"])
    for path, body in _BODIES.items():
        operation = document["paths"][path]["post"]
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["parameters"] = [_REQUEST_ID]
    score = document["paths"]["/score"]["post"]
    score["parameters"].insert(0, _DOMAIN)
    score["responses"]["200"]["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _SCORE_HEADERS.items()
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status >= "4" and "application/json" in content:
                    response["content"] = {MEDIA_TYPE: content["application/json"]}
    return document
