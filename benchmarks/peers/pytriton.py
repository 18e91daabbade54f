"""PyTriton: NVIDIA Triton, which hands each request to a Python function in another process.

Its endpoint is that of the Open Inference Protocol: the body is one tensor of bytes, and so is the answer.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.plain_handler import BlockingHandler, PlainSettings
from benchmarks.servers import free_port


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    handler = BlockingHandler(PlainSettings())  # type: ignore[call-arg]  # from the environment

    def score(requests: list[Any]) -> list[dict[str, Any]]:
        return [{"answer": np.array([handler.answer(request["body"][0])])} for request in requests]

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_port=free_port(),
        metrics_port=free_port(),
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="score",
            infer_func=score,
            inputs=[Tensor(name="body", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    main()
