"""The cost of /score beside plain FastAPI and public model servers, in one run, on the same requests.

    python -m benchmarks.bench [--quick] [--n 100 200] [--c 0 200] [--peers mosec bentoml] [--rounds N] ...
    python -m benchmarks.bench --config configs/demo.yaml [--model star] [--bare]

Measures the reference model (`reference_model.py`), which is written first where it is not there; with --config, what a
pipeline has published, by users and requests of its dataset, without peers. Environments of peers are installed first;
one that cannot be installed or started is named, and the run goes on.

The store and the load have one core, the servers another, one worker each. Servers are measured in turn, round by
round, after it was checked that they give the same probabilities. Writes FILE.json; `python -m benchmarks.report` makes
the tables and plots of docs/performance.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.bars import BARE_FLOOR, CONNECTIONS, FLOOR, Bar, bars_of
from benchmarks.environments import install, installed
from benchmarks.figures import Cell, Ratio, ratios, rows_of, table
from benchmarks.load import http_request, write_requests
from benchmarks.measure import Measurements, Task
from benchmarks.peers.environments import PEERS, Peer
from benchmarks.plain_handler import (
    SERVED,
    TRAINING,
    BlockingHandler,
    GraphName,
    PlainSettings,
    ScoreRequest,
    tensors_body,
)
from benchmarks.published import Published, ensure_published
from benchmarks.reference_model import ITEMS_COUNT, MODEL, Reference
from benchmarks.results import write_results
from benchmarks.servers import Server, ServerError, split_cores
from benchmarks.systems import (
    OURS,
    PLAIN,
    STARLETTE,
    DisagreementError,
    Subject,
    System,
    check_agreement,
    check_tensors,
    of_peer,
    ours,
    own_store,
    plain,
    starlette,
    store_running,
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

N: Final = (100, 200, 500, 1000)
C: Final = (0, 200, 1000, 10_000)
POINTS: Final = ((200, 200), (200, 1000), (500, 1000))
"""(N, C) where peers, open loops, ready tensors and ONNX Runtime alone are measured."""
LOOPS: Final = (1, CONNECTIONS)
ROUNDS: Final = 3
CLOSED_S: Final = 0.7
OPEN_S: Final = 2.0
OPEN_CONNECTIONS: Final = 32
OPEN_SHARE: Final = 0.5
"""Share of capacity at which latency is measured."""

TRAINING_CELLS_MAX: Final = 2_000_000
"""Candidates times clusters beyond which the training graph is left out: it lays out 512 bytes and more for each."""
ASKS_COUNT: Final = 96
TENSORS_COUNT: Final = 8
CHECKED_COUNT: Final = 3
CONFIG_CANDIDATES_COUNT: Final = 200
PACKAGES: Final = (
    "fastapi",
    "httptools",
    "numpy",
    "onnxruntime",
    "pydantic",
    "redis",
    "starlette",
    "torch",
    "uvicorn",
    "uvloop",
)


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    rounds: int
    closed_s: float
    open_s: float


@dataclass(frozen=True)
class Point:
    """Candidates, mean clusters, and the requests that are asked there."""

    n: int
    c: float
    workload: Workload


@dataclass
class Bench:
    """One run: what is measured on, the servers that are up, and the samples so far."""

    subject: Subject
    folder: Path
    options: Options
    taken: Measurements
    left_out: list[str] = field(default_factory=list)

    def check(self, up: Mapping[str, tuple[System, Server]], points: Sequence[Point]) -> None:
        """Check that all servers give the probabilities of ours.

        Raises:
            DisagreementError: one does not.
        """
        for point in points:
            able = [pair for name, pair in up.items() if self._is_able(name, point)]
            off = check_agreement(able, point.workload.asks[:CHECKED_COUNT])
            most = max((d.probability for d in off.values()), default=0.0)
            say(f"{point.workload.name}: probabilities of {len(able)} systems are equal to {most:.0e}")

    def closed(
        self, up: Mapping[str, tuple[System, Server]], points: Sequence[Point], *, names: Sequence[str]
    ) -> None:
        """Measure some systems at some points once, one after the other at each."""
        for point in points:
            for connections in LOOPS:
                for name in names:
                    if self._is_able(name, point):
                        self.taken.take(self._ids_task(*up[name], point, connections, self.options.closed_s))

    def open(
        self, up: Mapping[str, tuple[System, Server]], points: Sequence[Point], *, names: Sequence[str]
    ) -> None:
        """Measure latencies of some systems once, each at a share of the capacity that was seen, and the floor's."""
        for point in points:
            for name in names:
                if not self._is_able(name, point):
                    continue
                capacity = max(
                    self.taken.capacity_rps(Cell(name, point.n, point.c, connections))
                    for connections in LOOPS
                )
                rate_rps = capacity * OPEN_SHARE
                system, server = up[name]
                task = self._ids_task(
                    system, server, point, OPEN_CONNECTIONS, self.options.open_s, rate_rps=rate_rps
                )
                self.taken.take(task)
                if name == OURS:
                    cell = Cell(FLOOR, 0, 0.0, OPEN_CONNECTIONS, loop="open")
                    self.taken.take(self._get_task(cell, server, self.options.open_s, rate_rps=rate_rps))

    def floors(self, up: Mapping[str, tuple[System, Server]]) -> None:
        """Measure an empty request of ours, and of bare Starlette where it is up, once."""
        for connections in LOOPS:
            for floor, name in ((FLOOR, OURS), (BARE_FLOOR, STARLETTE)):
                if name in up:
                    cell = Cell(floor, 0, 0.0, connections)
                    self.taken.take(self._get_task(cell, up[name][1], self.options.closed_s))

    def tensors(
        self,
        up: Mapping[str, tuple[System, Server]],
        points: Sequence[Point],
        *,
        names: Mapping[str, GraphName],
    ) -> None:
        """Measure ready tensors at some systems once. `names` are rows of results and the graph that each asks for;
        a row of a graph that its system does not serve by ids is named without `-served`."""
        for point in points:
            for name, graph in names.items():
                system, server = up[name] if name in up else up[f"{name}-served"]
                path = (
                    self.folder
                    / f"tensors-{graph}-{system.tensors_form}-{system.wrapped}-{point.n}-{point.c}"
                )
                if not path.exists():
                    bodies = self.tensor_bodies(system, graph, point)
                    write_requests(path, (system.tensors_call(body).http() for body in bodies))
                cell = Cell(name, point.n, point.c, 1, "tensors")
                self.taken.take(Task(cell, server, path, "", self.options.closed_s))

    def tensor_bodies(self, system: System, graph: GraphName, point: Point) -> Iterator[bytes]:
        """Yield requests of a point as ready tensors, in the form that a system takes."""
        for ask in point.workload.asks[:TENSORS_COUNT]:
            request = ScoreRequest.model_validate_json(ask.body)
            stored = self._handler.stored(request.user_id)
            feeds = self._handler.feeds(request, ask.domain, stored, graph)
            yield tensors_body(graph, feeds, base64=system.tensors_form == "base64")

    @cached_property
    def _handler(self) -> BlockingHandler:
        """The plain handler in this process: it lays out ready tensors."""
        environment = self.subject.plain_environment(SERVED)
        return BlockingHandler(
            PlainSettings.model_validate(
                {name.removeprefix("PLAIN_").lower(): value for name, value in environment.items()}
            )
        )

    def _ids_task(
        self,
        system: System,
        server: Server,
        point: Point,
        connections: int,
        seconds: float,
        *,
        rate_rps: float | None = None,
    ) -> Task:
        path = self.folder / f"ids-{system.wrapped}-{point.n}-{point.c}"
        if not path.exists():
            write_requests(path, (system.call(ask).http() for ask in point.workload.asks))
        loop = "closed" if rate_rps is None else "open"
        cell = Cell(system.name, point.n, point.c, connections, loop=loop)
        return Task(cell, server, path, system.expect, seconds, rate_rps)

    def _get_task(self, cell: Cell, server: Server, seconds: float, *, rate_rps: float | None = None) -> Task:
        path = self.folder / "livez"
        write_requests(path, [http_request("GET", "/livez")])
        return Task(cell, server, path, "alive", seconds, rate_rps)

    def _is_able(self, name: str, point: Point) -> bool:
        """Return whether a system is measured at a point; note it where it is not."""
        if name != PLAIN[TRAINING] or point.n * point.c <= TRAINING_CELLS_MAX:
            return True
        reason = (
            f"{name} at N={point.n} C={point.c:.0f}: its graph would lay out gigabytes for a single request"
        )
        if reason not in self.left_out:
            self.left_out.append(reason)
        return False

    @contextmanager
    def servers(
        self, systems: Sequence[System], first: Workload
    ) -> Iterator[dict[str, tuple[System, Server]]]:
        """Run systems side by side on one core.

        Raises:
            ServerError: one did not become ready.
        """
        with ExitStack() as stack:
            cores = self.taken.server_cores
            yield {
                system.name: (
                    system,
                    stack.enter_context(system.started(self.folder, cores, first.asks[0])),
                )
                for system in systems
            }


def measure_reference(
    reference: Reference,
    folder: Path,
    options: Options,
    *,
    n: Sequence[int],
    c: Sequence[int],
    points: Sequence[tuple[int, int]],
    peers: Sequence[Peer],
) -> Bench:
    """Return what was measured on the reference model: the grid, the points, and the peers at the points."""
    subject = Subject(reference.registry, MODEL, reference.training_graph, reference.plan, reference.store)
    cores = split_cores()
    say(f"{MODEL}-{reference.version}; servers on core {cores[0]}, load and store on {cores[1]}")
    bench = Bench(subject, folder, options, Measurements(*cores))

    def point(candidates: int, clusters: int) -> Point:
        return Point(
            candidates, float(clusters), reference.workload(n=candidates, c=clusters, asks_count=ASKS_COUNT)
        )

    grid = [point(*pair) for pair in dict.fromkeys([(a, b) for a in n for b in c] + list(points))]
    chosen = [one for one in grid if (one.n, int(one.c)) in points]
    single = point(1, 200)
    options_of_pure = ["--reference", str(reference.folder.absolute()), "--items", str(reference.items_count)]
    options_of_pure += ["--seconds", str(options.closed_s)]
    with store_running(reference.store, cores[1]):
        fixed = [ours(subject), plain(subject, SERVED), plain(subject, TRAINING), starlette(subject)]
        names = [system.name for system in fixed if system.name != STARLETTE]
        with bench.servers(fixed, single.workload) as up:
            bench.check(up, [single, *_one_of_each_length(grid)])
            for number in range(options.rounds):
                say(f"grid, round {number + 1} of {options.rounds}: {len(grid)} points")
                bench.taken.begin_turn()
                bench.floors(up)
                bench.closed(up, [single], names=[OURS, STARLETTE])
                bench.closed(up, grid, names=names)
                bench.taken.take_pure(
                    options_of_pure,
                    subject.plain_environment(SERVED),
                    [(one.n, one.c) for one in chosen],
                )
                bench.tensors(up, chosen, names={system: graph for graph, system in PLAIN.items()})
            for number in range(options.rounds):
                say(f"open loop, round {number + 1} of {options.rounds}: {len(chosen)} points")
                bench.taken.begin_turn()
                bench.open(up, chosen, names=names)
            for peer in peers:
                try:
                    _measure_peer(bench, up, peer, chosen)
                except (ServerError, DisagreementError) as error:
                    bench.left_out.append(f"{peer.name}: {str(error).strip().splitlines()[0]}")
                    say(f"{peer.name} is left out: {error}")
    return bench


def _measure_peer(
    bench: Bench, up: Mapping[str, tuple[System, Server]], peer: Peer, points: Sequence[Point]
) -> None:
    """Measure a peer in turn with ours and the plain service on the same graph."""
    system = of_peer(bench.subject, peer)
    say(f"{peer.name} {peer.version}: starting")
    with bench.servers([system], points[0].workload) as started:
        both = {OURS: up[OURS], **started}
        bench.check(both, points)
        server = started[system.name][1]
        for graph in (SERVED, TRAINING):
            bodies = list(bench.tensor_bodies(system, graph, points[0]))[:CHECKED_COUNT]
            own = [
                up[OURS][0].scores(up[OURS][0].call(ask).ask(up[OURS][1])) for ask in points[0].workload.asks
            ]
            check_tensors(system, server, bodies, own[: len(bodies)])
        up = {**up, **started}
        for number in range(bench.options.rounds):
            say(f"{peer.name}, round {number + 1} of {bench.options.rounds}: {len(points)} points")
            bench.taken.begin_turn()
            bench.closed(up, points, names=[OURS, PLAIN[SERVED], system.name])
            bench.tensors(started, points, names={system.name: SERVED, peer.name: TRAINING})
        bench.taken.begin_turn()
        bench.open(up, points, names=[system.name])


def measure_published(published: Published, folder: Path, options: Options, *, bare: bool) -> Bench:
    """Return what was measured on a published model, by real users and by users with long life cycles."""
    rng = np.random.default_rng(SEED)
    cores = split_cores()
    say(f"{published.model}-{published.version}; servers on core {cores[0]}, load and store on {cores[1]}")
    users = load_users(
        published.config.publish.store, published.snapshot.snapshot_id, published.bench.dataset
    )
    asked, workloads = make_workloads(published, users, rng, bare=bare)
    plan, graph, store = folder / "experiments.yaml", folder / "training_graph.onnx", folder / "store"
    plan.write_text(json.dumps({"version": 1, "default_model": published.model}))
    published.write_training_graph(graph)
    subject = Subject(published.config.publish.registry, published.model, graph, plan, store)
    bench = Bench(subject, folder, options, Measurements(*cores))
    points = [Point(CONFIG_CANDIDATES_COUNT, w.clusters_mean, w) for w in workloads]
    for w in workloads:
        say(f"{w.name}: {len(w.asks)} users ({w.users}), {w.clusters_mean:.1f} clusters at the mean")
    systems = [ours(subject), plain(subject, SERVED), plain(subject, TRAINING)]
    names = [system.name for system in systems]
    with (
        own_store(store, published.snapshot.snapshot_id, asked, cores[1]),
        bench.servers(systems, workloads[0]) as up,
    ):
        bench.check(up, points)
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            bench.taken.begin_turn()
            bench.floors(up)
            bench.closed(up, points, names=names)
        for _ in range(options.rounds):
            bench.taken.begin_turn()
            bench.open(up, points, names=names)
    return bench


def make_workloads(
    published: Published, users: Sequence[User], rng: np.random.Generator, *, bare: bool
) -> tuple[list[User], list[Workload]]:
    """Return all users that are asked for, and what is asked of them."""
    requests = Requests(published.bench.dataset, candidates_count=CONFIG_CANDIDATES_COUNT, bare=bare)
    at_ms = published.snapshot.at_ms + AFTER_SNAPSHOT_MS
    real = draw_real(users, rng)
    long, kind = draw_long(users, rng)
    return [*real, *long], [
        make_workload("real users", "real", real, requests, at_ms, rng),
        make_workload("long life cycles", kind, long, requests, at_ms, rng),
    ]


def installed_peers(names: Sequence[str], left_out: list[str]) -> list[Peer]:
    """Install peers and return those that are there; the others are noted with their reason."""
    found: list[Peer] = []
    for peer in (PEERS[name] for name in names):
        if not installed(peer):
            say(f"{peer.name} {peer.version}: installing in {peer.folder}")
        try:
            install(peer)
            found.append(peer)
        except (subprocess.CalledProcessError, OSError) as error:
            left_out.append(f"{peer.name}: not installed: {error}")
            say(f"{peer.name} is left out: {error}")
    return found


def main() -> None:
    """Measure, print and write."""
    parser = _parser()
    arguments = parser.parse_args()
    options = Options(arguments.rounds, arguments.seconds, arguments.open_seconds)
    points = [pair for pair in POINTS if pair[0] in arguments.n and pair[1] in arguments.c]
    if arguments.quick:
        options = Options(1, 0.3, 0.5)
        arguments.n, arguments.c = (200,), (200,)
        points = [(200, 200)]
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    say(f"load average {load}: run on a quiet machine")
    left_out: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix="twinstar-bench-") as name:
            if arguments.config is not None:
                published = ensure_published(arguments.config, arguments.model)
                bench = measure_published(published, Path(name), options, bare=arguments.bare)
                about = f"{published.model}-{published.version} of {arguments.config}"
            else:
                peers = installed_peers(arguments.peers, left_out)
                reference = Reference(arguments.reference, arguments.items)
                if not reference.is_written:
                    say(f"writing the reference model into {reference.folder}")
                reference.ensure()
                about = f"{MODEL}-{reference.version}, {reference.items_count} items"
                bench = measure_reference(
                    reference, Path(name), options, n=arguments.n, c=arguments.c, points=points, peers=peers
                )
    except (TrainingError, ContractError, StoreError, ServerError, WorkloadError, DisagreementError) as error:
        sys.exit(f"bench: {error}")
    samples = bench.taken.samples
    rows, bars, found = rows_of(samples), bars_of(samples), _ratios(bench)
    more: dict[str, Any] = {
        "about": about,
        "load_average": load,
        "rounds": options.rounds,
        "left_out": left_out + bench.left_out,
        "bars": [bar.row() for bar in bars],
        "ratios": [asdict(ratio) for ratio in found],
    }
    versions = {
        peer.distribution: peer.version for peer in PEERS.values() if f"{peer.name}-served" in _names(rows)
    }
    write_results(arguments.out, rows, packages=PACKAGES, versions=versions, more=more)
    if arguments.json:
        print(arguments.out.read_text(), end="")
    else:
        show(rows, bars, found, more["left_out"])
    say(f"written to {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round at N=200 C=200")
    parser.add_argument("--n", type=int, nargs="+", default=N, help="candidates of the grid")
    parser.add_argument("--c", type=int, nargs="+", default=C, choices=C, help="clusters of the grid")
    parser.add_argument(
        "--peers",
        nargs="*",
        default=tuple(PEERS),
        choices=tuple(PEERS),
        metavar="PEER",
        help="none: no peers",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=CLOSED_S, help="of a closed loop")
    parser.add_argument("--open-seconds", type=float, default=OPEN_S, help="of an open loop")
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"), metavar="FOLDER")
    parser.add_argument("--items", type=int, default=ITEMS_COUNT, help="items of the reference model")
    parser.add_argument("--config", type=Path, help="measure what this pipeline has published instead")
    parser.add_argument("--model", default="star", help="of that pipeline")
    parser.add_argument(
        "--bare", action="store_true", help="with --config: candidates as ids alone, without their placement"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _one_of_each_length(points: Sequence[Point]) -> list[Point]:
    """Return the point of fewest candidates for each number of clusters."""
    return list({point.c: point for point in sorted(points, key=lambda p: -p.n)}.values())


def _ratios(bench: Bench) -> list[Ratio]:
    samples = bench.taken.samples
    others = dict.fromkeys(s.cell.system for s in samples if s.cell.system not in (OURS, FLOOR, BARE_FLOOR))
    return [ratio for other in others for ratio in ratios(samples, OURS, other)]


def _names(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["system"] for row in rows}


def show(
    rows: Sequence[Mapping[str, Any]], bars: Sequence[Bar], found: Sequence[Ratio], left_out: Sequence[str]
) -> None:
    """Print the rows, by how much ours is better, and the bars."""
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    for other in dict.fromkeys(ratio.other for ratio in found):
        own = [ratio for ratio in found if ratio.other == other]
        cells = dict.fromkeys((r.n, r.c, r.connections, r.input, r.loop) for r in own)
        metrics = list(dict.fromkeys(ratio.metric for ratio in own))
        lines = []
        for cell in cells:
            by_metric = {r.metric: str(r) for r in own if (r.n, r.c, r.connections, r.input, r.loop) == cell}
            lines.append([*map(str, cell), *(by_metric.get(metric) for metric in metrics)])
        print(f"\nTimes that {OURS} is better than {other}: median of the rounds (lowest to highest)\n")
        print(table(["n", "c", "connections", "input", "loop", *metrics], lines))
    print("\nBars: median of the rounds (lowest to highest)\n")
    print(
        table(
            ["bar", "n", "c", "against", "ratio", "pass", "goal", "met"],
            [
                [
                    bar.name,
                    bar.n,
                    bar.c,
                    bar.against,
                    f"{bar.median:.2f} ({bar.low:.2f} to {bar.high:.2f})",
                    bar.passes,
                    bar.goal,
                    bar.verdict,
                ]
                for bar in bars
            ],
        )
    )
    for line in left_out:
        print(f"Left out: {line}")


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
