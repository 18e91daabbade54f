"""What a team would write on the day it wants its model served: FastAPI, pydantic, redis and ONNX Runtime.

    uvicorn --factory benchmarks.plain_service:create_app      with the PLAIN_ variables of `PlainSettings`

One endpoint with pydantic models in and out, and one for ready tensors; what is done in them is
`plain_handler.py`. `python -m benchmarks.bench` checks its probabilities before it measures.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Request, Response

from benchmarks.plain_handler import (
    AsyncHandler,
    PlainSettings,
    ScoreRequest,
    ScoreResponse,
    json_of,
    tensors_of,
)


def create_app() -> FastAPI:
    """Return the app."""
    settings = PlainSettings()  # type: ignore[call-arg]  # from the environment
    held: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        held["handler"] = AsyncHandler(settings)
        yield
        await held["handler"].close()

    app = FastAPI(title="Plain", lifespan=lifespan)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/score")
    async def score(request: ScoreRequest, x_domain: Annotated[str, Header()]) -> ScoreResponse:
        handler: AsyncHandler = held["handler"]
        if x_domain not in handler.manifest.domains:
            raise HTTPException(422, "no such domain")
        return handler.score(request, x_domain, await handler.stored(request.user_id))

    @app.post("/tensors")
    async def tensors(request: Request) -> Response:
        handler: AsyncHandler = held["handler"]
        answer = handler.score_tensors(*tensors_of(await request.body()))
        return Response(json_of(answer), media_type="application/json")

    return app
