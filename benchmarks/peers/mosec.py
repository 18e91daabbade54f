"""mosec: one worker process behind its Rust server. It hands a worker the body, and no headers."""

from __future__ import annotations

import os
import sys

from mosec import Runtime, Server, Worker

from benchmarks.plain_handler import BlockingHandler, PlainSettings

REQUEST_BYTES_MAX = 256 << 20


class Score(Worker):
    """The plain handler."""

    resp_mime_type = "application/json"

    def __init__(self) -> None:
        super().__init__()
        self._handler = BlockingHandler(PlainSettings())  # type: ignore[call-arg]  # from the environment

    def deserialize(self, data: bytes) -> bytes:
        """Take the body as it is."""
        return data

    def forward(self, data: bytes) -> bytes:
        """Answer a body."""
        return self._handler.answer(data)

    def serialize(self, data: bytes) -> bytes:
        """Return the answer as it is."""
        return data


if __name__ == "__main__":
    os.environ.setdefault("MOSEC_LOG_LEVEL", "warning")
    sys.argv += ["--address", "127.0.0.1", "--timeout", "60000", "--max-request-size", str(REQUEST_BYTES_MAX)]
    server = Server()
    server.register_runtime({"/score": [Runtime(Score, num=1, timeout=60)]})
    server.run()
