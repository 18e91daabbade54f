"""The app: routes, errors and telemetry around one worker's runtime.

Our layers stand around FastAPI's: what they answer themselves passes none of those, which cost about 50 µs a request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp

from service.api import events, health, score
from service.api.direct import DirectRoutes
from service.api.openapi import describe
from service.api.problem import add_handlers, on_error
from service.clock import Clock, SystemClock
from service.runtime import Runtime
from service.settings import Settings
from service.telemetry.requests import RequestTelemetry


class _LayeredApp(FastAPI):
    """FastAPI inside further layers, the last one outermost."""

    layers: tuple[Callable[[ASGIApp], ASGIApp], ...] = ()

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        for layer in self.layers:
            stack = layer(stack)
        return stack


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

    app = _LayeredApp(
        title="Twinstar",
        version=_version(),
        description="Probabilities of candidates for a user, by domain and task.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        **_telemetry_options(os.environ),
    )
    app.state.runtime = runtime
    routers = (score.router, events.router, health.router)
    for router in routers:
        app.include_router(router)
    add_handlers(app)
    paths = frozenset(route.path for router in routers for route in router.routes if isinstance(route, Route))
    app.layers = (
        lambda inner: DirectRoutes(inner, routers=routers),
        lambda inner: RequestTelemetry(
            inner,
            paths=paths,
            metrics=runtime.metrics,
            clock=clock,
            on_stray_error=on_error,
            log_sample_ratio=settings.log_sample_ratio,
            slow_request_ms=settings.slow_request_ms,
        ),
    )
    _describe_lazily(app)
    return app


def _telemetry_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what FastAPI is told of OpenTelemetry, which it looks for at every request unless it is told that there
    is none: nothing where some OTEL_… variable is set."""
    if any(name.startswith("OTEL_") for name in environment):
        return {}
    return {"telemetry": {"tracing": False, "metrics": False, "logs": False}}


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
