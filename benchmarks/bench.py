"""Requests per second and latency of /score, beside a plain service that runs the training graph.

    python -m benchmarks.bench [--config configs/demo.yaml] [--model star] [--out FILE.json] [--rounds N]

Takes what the pipeline of CONFIG has published, running it first where it has not. Both systems run at once,
one process each on the same core, the load and the store on the others; they are measured in turn, round by
round, on the very same requests, after it was checked that they give the same probabilities.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.figures import Cell, Sample, ratios, rows_of, sample_of, table
from benchmarks.load import Load, http_request
from benchmarks.published import Published, ensure_published
from benchmarks.results import write_results
from benchmarks.servers import Server, ServerError, on_cores, split_cores
from benchmarks.systems import (
    NOTHING_MISSING,
    OTHER,
    OURS,
    DisagreementError,
    both_systems,
    check_agreement,
    own_store,
)
from benchmarks.workload import (
    AFTER_SNAPSHOT_MS,
    SEED,
    Requests,
    User,
    Workload,
    WorkloadError,
    draw_long,
    draw_real,
    load_users,
    make_workload,
)
from service.contract.errors import ContractError
from service.stores.base import StoreError
from training.errors import TrainingError

FLOOR: Final = "twinstar-livez"
"""GET /livez of our service: what the loop, the HTTP stack and the load generator cost and vary by themselves."""

CANDIDATES_COUNT: Final = 200
CONNECTIONS: Final = (1, 8)
ROUNDS: Final = 5
ROUND_S: Final = 3.0
FLOOR_S: Final = 1.0
REQUESTS_MAX: Final = 20_000
TIME_MAX_S: Final = 240.0
PACKAGES: Final = (
    "fastapi",
    "httptools",
    "numpy",
    "onnxruntime",
    "pydantic",
    "redis",
    "torch",
    "uvicorn",
    "uvloop",
)


@dataclass(frozen=True)
class Turn:
    """What is done once a round: one load on one server."""

    cell: Cell
    server: Server
    requests: Path
    expect: str
    seconds: float


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--model", default="star")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--bare", action="store_true", help="candidates as ids alone, without their placement"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        published = ensure_published(arguments.config, arguments.model)
        samples = run(published, rounds=arguments.rounds, bare=arguments.bare)
    except (TrainingError, ContractError, StoreError, ServerError, WorkloadError, DisagreementError) as error:
        sys.exit(f"bench: {error}")
    rows = rows_of(samples)
    write_results(arguments.out, rows, packages=PACKAGES)
    show(rows, samples)
    say(f"written to {arguments.out}")


def run(published: Published, *, rounds: int, bare: bool) -> list[Sample]:
    """Return the samples of all rounds."""
    rng = np.random.default_rng(SEED)
    core, others = split_cores()
    say(f"{published.model}-{published.version}; server on core {core}, load and store on {others}")
    say("load average " + ", ".join(f"{load:.2f}" for load in os.getloadavg()) + ": run on a quiet machine")
    users = load_users(
        published.config.publish.store, published.snapshot.snapshot_id, published.bench.dataset
    )
    asked, workloads = make_workloads(published, users, rng, bare=bare)
    for workload in workloads:
        about = f"{len(workload.asks)} users ({workload.users}), {workload.clusters_mean:.1f} clusters at the mean"
        say(f"{workload.name}: {about}")
    with tempfile.TemporaryDirectory(prefix="twinstar-bench-") as name:
        folder = Path(name)
        store = folder / "store"
        with (
            own_store(store, published.snapshot.snapshot_id, asked, others),
            both_systems(published, folder, store, core) as servers,
        ):
            for workload in workloads:
                off = check_agreement(servers, workload.asks)
                say(
                    f"{workload.name}: probabilities are equal to {off.probability:.0e}, or {off.relative:.2%}"
                )
            return list(measure(list(turns(servers, workloads, folder)), rounds=rounds, cores=others))


def make_workloads(
    published: Published, users: Sequence[User], rng: np.random.Generator, *, bare: bool
) -> tuple[list[User], list[Workload]]:
    """Return all users that are asked for, and what is asked of them."""
    requests = Requests(published.bench.dataset, candidates_count=CANDIDATES_COUNT, bare=bare)
    at_ms = published.snapshot.at_ms + AFTER_SNAPSHOT_MS
    real = draw_real(users, rng)
    long, kind = draw_long(users, rng)
    return [*real, *long], [
        make_workload("real users", "real", real, requests, at_ms, rng),
        make_workload("long life cycles", kind, long, requests, at_ms, rng),
    ]


def turns(servers: dict[str, Server], workloads: Sequence[Workload], folder: Path) -> Iterator[Turn]:
    """Yield what a round does, in order: the systems in turn, cell by cell, and the floor."""
    floor = folder / "floor.jsonl"
    floor.write_text(json.dumps(http_request("GET", "/livez")) + "\n")
    for connections in CONNECTIONS:
        yield Turn(Cell(FLOOR, 0, 0.0, connections), servers[OURS], floor, "alive", FLOOR_S)
        for number, workload in enumerate(workloads):
            path = folder / f"requests-{number}.jsonl"
            asks = [
                http_request("POST", "/score", headers=[("X-Domain", ask.domain)], body=ask.body)
                for ask in workload.asks
            ]
            path.write_text("".join(json.dumps(ask) + "\n" for ask in asks))
            for system in (OURS, OTHER):
                cell = Cell(system, CANDIDATES_COUNT, workload.clusters_mean, connections)
                yield Turn(cell, servers[system], path, NOTHING_MISSING[system], ROUND_S)


def measure(todo: Sequence[Turn], *, rounds: int, cores: set[int] | None) -> Iterator[Sample]:
    """Yield a sample a turn and round; no round begins after TIME_MAX_S."""
    began_s = time.monotonic()
    for number in range(rounds):
        if time.monotonic() - began_s > TIME_MAX_S:
            say(f"{number} of {rounds} rounds in {TIME_MAX_S:.0f} s: no more are begun")
            return
        say(f"round {number + 1} of {rounds}")
        for turn in todo:
            before_s = turn.server.cpu_s()
            load = run_load_apart(turn, cores)
            after_s = turn.server.cpu_s()
            cpu_s = None if before_s is None or after_s is None else after_s - before_s
            yield sample_of(turn.cell, load.latencies_ms, wall_s=load.wall_s, cpu_s=cpu_s)


def run_load_apart(turn: Turn, cores: set[int] | None) -> Load:
    """Return what the load generator saw, run in a process of its own.

    Raises:
        ServerError: the server did not answer as it must.
    """
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(turn.server.port)]
    command += ["--requests", str(turn.requests), "--connections", str(turn.cell.connections)]
    command += ["--seconds", str(turn.seconds), "--requests-max", str(REQUESTS_MAX), "--expect", turn.expect]
    with on_cores(cores):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{turn.server.name}: {done.stderr.strip()}")
    return Load(**json.loads(done.stdout))


def show(rows: Sequence[dict[str, object]], samples: Sequence[Sample]) -> None:
    """Print the rows, and by how much ours is better."""
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    found = ratios(samples, OURS, OTHER)
    cells = dict.fromkeys((ratio.c, ratio.connections) for ratio in found)
    metrics = list(dict.fromkeys(ratio.metric for ratio in found))
    lines = [
        [f"{c:.1f}", str(connections), *(str(r) for r in found if (r.c, r.connections) == (c, connections))]
        for c, connections in cells
    ]
    print(f"\nTimes that {OURS} is better than {OTHER}: median of the rounds (lowest to highest)\n")
    print(table(["c", "connections", *metrics], lines))
    for row in rows:
        if row["system"] == FLOOR:
            print(f"Noise floor, {row['connections']} connections: p99 of GET /livez is {row['p99_ms']} ms")


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
