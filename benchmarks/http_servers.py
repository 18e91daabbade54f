"""Servers for `http_overhead.py`: ours, and what uvicorn, Starlette and FastAPI cost by themselves.

    python -m benchmarks.http_servers --kind {uvicorn,starlette,fastapi,twinstar} --port 8001

Each answers GET /livez and GET /readyz as ours answers GET /livez. `uvicorn` also answers POST /score: it reads
ids from JSON and writes two numbers for each, with nothing between. `twinstar` is our app, by its settings in the
environment, with stages timed by the processor's clock. All run under uvicorn as `python -m service` does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app import create_app
from service.clock import SystemClock

ALIVE: Final = b'{"status":"alive"}'
PATHS: Final = ("/livez", "/readyz")


class _Body(msgspec.Struct, gc=False):
    user_id: str
    candidates: list[str]


class _Row(msgspec.Struct, gc=False):
    item_id: str
    click: float
    multi: float


_decode: Final = msgspec.json.Decoder(_Body).decode
_encode: Final = msgspec.json.Encoder().encode


class ProcessorClock(SystemClock):
    """A clock whose durations are processor time: what else the machine does is not in them."""

    def monotonic_s(self) -> float:
        """Return the seconds that this thread has computed."""
        return time.thread_time()


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI app without a framework."""
    if scope["type"] != "http":
        return
    body = ALIVE
    if scope["path"] == "/score":
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        numbers = [0.123456789] * len(asked := _decode(b"".join(parts)).candidates)
        body = _encode({"results": list(map(_Row, asked, numbers, numbers))})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def starlette() -> Starlette:
    """Return a Starlette app."""

    async def alive(request: Request) -> Response:
        return Response(ALIVE, media_type="application/json")

    return Starlette(routes=[Route(path, alive) for path in PATHS])


def fastapi() -> FastAPI:
    """Return a FastAPI app."""
    app = FastAPI()

    async def alive() -> Any:
        return Response(ALIVE, media_type="application/json")

    for path in PATHS:
        app.get(path)(alive)
    return app


KINDS: Final[dict[str, Callable[[], ASGIApp]]] = {
    "uvicorn": lambda: bare,
    "starlette": starlette,
    "fastapi": fastapi,
    "twinstar": lambda: create_app(clock=ProcessorClock()),
}


def main() -> None:
    """Serve one of them until told to stop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvicorn.run(
        KINDS[arguments.kind](),
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="auto",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
