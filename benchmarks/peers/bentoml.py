"""BentoML: a service of one worker, whose API takes and returns the handler's pydantic models."""

from __future__ import annotations

import os
import sys
from typing import Any

import bentoml
from pydantic import RootModel

from benchmarks.plain_handler import (
    AsyncHandler,
    PlainSettings,
    ScoreRequest,
    ScoreResponse,
    TensorsAnswer,
    domain_of,
    tensors_of_document,
)


class Tensors(RootModel[dict[str, Any]]):
    """Ready tensors in Base64."""


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1024})
class Score:
    """The plain handler."""

    def __init__(self) -> None:
        self._handler = AsyncHandler(PlainSettings())  # type: ignore[call-arg]  # from the environment

    @bentoml.api(route="/score")
    async def score(self, request: ScoreRequest, /) -> ScoreResponse:
        """Answer a request of ids."""
        stored = await self._handler.stored(request.user_id)
        return self._handler.score(request, domain_of(request), stored)

    @bentoml.api(route="/tensors")
    async def tensors(self, request: Tensors, /) -> TensorsAnswer:
        """Answer ready tensors."""
        return self._handler.score_tensors(*tensors_of_document(request.root))


if __name__ == "__main__":
    command = ["-m", "bentoml", "serve", "benchmarks.peers.bentoml:Score", "--host", "127.0.0.1"]
    os.execv(sys.executable, [sys.executable, *command, *sys.argv[1:]])
