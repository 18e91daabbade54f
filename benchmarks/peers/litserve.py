"""LitServe: one worker process behind its API process, which parses the JSON and hands it over."""

# Without `from __future__ import annotations`: LitServe looks at the types of `decode_request`, not at their names.
import argparse
from typing import Any

import litserve
from fastapi import Request, Response

from benchmarks.plain_handler import BlockingHandler, PlainSettings


class Score(litserve.LitAPI):
    """The plain handler."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self._handler = BlockingHandler(PlainSettings())  # type: ignore[call-arg]  # from the environment

    def decode_request(self, request: Request) -> Any:
        """Take the body's JSON, which the server has parsed."""
        return request

    def predict(self, body: Any) -> bytes:
        """Answer a body."""
        return self._handler.answer_document(body)

    def encode_response(self, answer: bytes) -> Response:
        """Return the answer as it is."""
        return Response(answer, media_type="application/json")


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    server = litserve.LitServer(Score(api_path="/score"), accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
