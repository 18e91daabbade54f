"""The app: routes, errors and telemetry around one worker's runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route

from service.api import events, health, score
from service.api.direct import DirectRoutes
from service.api.openapi import describe
from service.api.problem import add_handlers, on_error
from service.clock import Clock, SystemClock
from service.runtime import Runtime
from service.settings import Settings
from service.telemetry.requests import RequestTelemetry


def create_app(settings: Settings | None = None, *, clock: Clock | None = None) -> FastAPI:
    """Return the app of one worker. Sessions and connections are made when it starts, after any fork.

    Raises:
        StartupError: the experiments file cannot be used.
    """
    settings = settings or Settings()
    clock = clock or SystemClock()
    runtime = Runtime(settings, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await runtime.look()
        looking = asyncio.create_task(runtime.keep_looking())
        yield
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        await runtime.close()

    app = FastAPI(
        title="Twinstar",
        version=_version(),
        description="Probabilities of candidates for a user, by domain and task.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.runtime = runtime
    routers = (score.router, events.router, health.router)
    for router in routers:
        app.include_router(router)
    add_handlers(app)
    app.add_middleware(DirectRoutes, routers=routers)
    app.add_middleware(
        RequestTelemetry,
        paths=frozenset(
            route.path for router in routers for route in router.routes if isinstance(route, Route)
        ),
        metrics=runtime.metrics,
        clock=clock,
        on_stray_error=on_error,
        log_sample_ratio=settings.log_sample_ratio,
        slow_request_ms=settings.slow_request_ms,
    )
    _describe_lazily(app)
    return app


def _describe_lazily(app: FastAPI) -> None:
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(describe(app))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _version() -> str:
    try:
        return version("twinstar")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
