"""What ONNX Runtime alone takes for the served graph, and for its matrix products alone, in a process of its own.

    python -m benchmarks.pure_session --reference FOLDER --points 200x200 500x1000 --seconds 3

with the PLAIN_ variables of the plain handler, which lays the requests out beforehand. Both are run in turn, on one
request after the other. On standard output stands a JSON object a line, one for each point and graph: `system`, `n`,
`c`, `flops` (of the products), `cpu_s`, `wall_s` and `latencies_ms` of every run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.gemm_bound import GemmGraph, products
from benchmarks.plain_handler import SERVED, BlockingHandler, PlainSettings, ScoreRequest
from benchmarks.reference_model import ITEMS_COUNT, Reference
from benchmarks.systems import BOUND, PURE
from service.contract.served_inputs import PROBABILITY

ASKS_COUNT: Final = 24
WARM_UP_RUNS: Final = 3


@dataclass
class _Clock:
    """Time of some calls."""

    cpu_ns: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], object]) -> None:
        began_ns, began_s = time.process_time_ns(), time.perf_counter()
        call()
        self.latencies_ms.append((time.perf_counter() - began_s) * 1000)
        self.cpu_ns += time.process_time_ns() - began_ns


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--items", type=int, default=ITEMS_COUNT)
    parser.add_argument("--points", nargs="+", required=True, metavar="NxC")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each point")
    arguments = parser.parse_args()
    reference = Reference(arguments.reference, arguments.items)
    handler = BlockingHandler(PlainSettings())  # type: ignore[call-arg]  # from the environment
    for point in arguments.points:
        n, c = map(int, point.split("x"))
        for name, clock, flops in measure(reference, handler, n=n, c=c, seconds=arguments.seconds):
            row = {"system": name, "n": n, "c": c, "flops": flops, "cpu_s": clock.cpu_ns / 1e9}
            row |= {"wall_s": sum(clock.latencies_ms) / 1000, "latencies_ms": clock.latencies_ms}
            json.dump(row, sys.stdout)
            print()


def measure(
    reference: Reference, handler: BlockingHandler, *, n: int, c: int, seconds: float
) -> list[tuple[str, _Clock, int]]:
    """Return the times of the served graph and of its products, run in turn, and the products' operations."""
    requests = []
    for ask in reference.workload(n=n, c=c, asks_count=ASKS_COUNT).asks:
        request = ScoreRequest.model_validate_json(ask.body)
        session = handler.session(SERVED, ask.domain)
        feeds = handler.feeds(request, ask.domain, handler.stored(request.user_id), SERVED)
        requests.append(partial(session.run, [PROBABILITY], feeds))
    served, bound = _Clock(), _Clock()
    with tempfile.TemporaryDirectory() as folder:
        gemm = GemmGraph(Path(folder) / "products.onnx", products(n=n, c=c), np.random.default_rng(0))
        for run in requests[:WARM_UP_RUNS]:
            run()
            gemm.run()
        ends_s = time.perf_counter() + seconds
        for run in cycle(requests):
            served.time(run)
            bound.time(gemm.run)
            if time.perf_counter() > ends_s:
                break
    return [(PURE, served, gemm.flops), (BOUND, bound, gemm.flops)]


if __name__ == "__main__":
    main()
