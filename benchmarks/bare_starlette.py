"""Starlette with nothing around it: what an empty GET /livez and a POST /score cost beside ours.

uvicorn --factory benchmarks.bare_starlette:create_app      with the PLAIN_ variables of `PlainSettings`
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.plain_handler import AsyncHandler, PlainSettings

ALIVE = b'{"status":"alive"}'


def create_app() -> Starlette:
    """Return the app."""
    settings = PlainSettings()  # type: ignore[call-arg]  # from the environment
    held: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        held["handler"] = AsyncHandler(settings)
        yield
        await held["handler"].close()

    async def livez(request: Request) -> Response:
        return Response(ALIVE, media_type="application/json")

    async def score(request: Request) -> Response:
        return Response(await held["handler"].answer(await request.body()), media_type="application/json")

    routes = [
        Route("/livez", livez),
        Route("/readyz", livez),
        Route("/score", score, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
