"""MLServer: a custom runtime with a REST handler of its own, in the server's process (`parallel_workers` 0)."""

from __future__ import annotations

import argparse
import asyncio

from fastapi import Request, Response
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.handlers import custom_handler

from benchmarks.plain_handler import AsyncHandler, PlainSettings
from benchmarks.servers import free_port


class Score(MLModel):
    """The plain handler."""

    async def load(self) -> bool:
        """Load the model."""
        self._handler = AsyncHandler(PlainSettings())  # type: ignore[call-arg]  # from the environment
        return True

    @custom_handler(rest_path="/score")
    async def score(self, request: Request) -> Response:
        """Answer a body."""
        return Response(await self._handler.answer(await request.body()), media_type="application/json")


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=free_port(),
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
    )
    models = [ModelSettings(name="score", implementation=Score)]
    asyncio.run(MLServer(settings).start(models))


if __name__ == "__main__":
    main()
