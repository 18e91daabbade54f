"""Ray Serve: one replica behind its proxy, on a Ray of its own."""

from __future__ import annotations

import argparse
import signal
import sys
import time

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.plain_handler import AsyncHandler, PlainSettings

OBJECT_STORE_BYTES = 200 << 20


@serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
class Score:
    """The plain handler."""

    def __init__(self) -> None:
        self._handler = AsyncHandler(PlainSettings())  # type: ignore[call-arg]  # from the environment

    async def __call__(self, request: Request) -> Response:
        """Answer a body."""
        return Response(await self._handler.answer(await request.body()), media_type="application/json")


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that Ray ends what it has started
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Score.bind(), route_prefix="/score")
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
