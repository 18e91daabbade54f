from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.api.direct import DirectRoutes

pytestmark = pytest.mark.anyio


def app_of(resolved: list[str]) -> FastAPI:
    """Return an app with one route of a router, which notes when FastAPI resolves what the route depends on."""
    router = APIRouter(dependencies=[Depends(lambda: resolved.append("resolved"))])

    @router.post("/asked")
    async def asked(request: Request) -> Response:
        return PlainTextResponse(await request.body(), 201, {"X-Own": "1"})

    app = FastAPI()
    app.include_router(router)
    app.add_middleware(DirectRoutes, routers=[router])
    return app


async def ask(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://twinstar") as client:
        return await client.request(method, path, **more)


async def test_a_route_is_answered_by_its_function_and_fastapi_does_nothing() -> None:
    resolved: list[str] = []
    response = await ask(app_of(resolved), "POST", "/asked?x=1", content=b"hello")
    assert (response.status_code, response.text, response.headers["X-Own"]) == (201, "hello", "1")
    assert resolved == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/asked", 405), ("POST", "/asked/", 307), ("GET", "/other", 404), ("GET", "/openapi.json", 200)],
)
async def test_all_else_is_answered_by_fastapi(method: str, path: str, status: int) -> None:
    assert (await ask(app_of([]), method, path)).status_code == status


async def test_the_route_is_described() -> None:
    document = (await ask(app_of([]), "GET", "/openapi.json")).json()
    assert list(document["paths"]["/asked"]) == ["post"]


async def test_what_is_no_request_goes_through() -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await DirectRoutes(inner, routers=[])({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
