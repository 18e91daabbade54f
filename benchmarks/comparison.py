"""Systems side by side: what is asked of them, in which order, and that they agree before anything is timed.

Knows nothing of what is measured on: models, users and requests come in points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from benchmarks.bars import BARE_FLOOR, CONNECTIONS, FLOOR
from benchmarks.figures import Cell
from benchmarks.load import http_request, write_requests
from benchmarks.measure import Measurements, Task
from benchmarks.plain_handler import (
    SERVED,
    TRAINING,
    BlockingHandler,
    GraphName,
    PlainSettings,
    ScoreRequest,
    tensors_body,
)
from benchmarks.progress import say
from benchmarks.servers import Server, ServerError
from benchmarks.systems import (
    OURS,
    PLAIN,
    STARLETTE,
    Subject,
    System,
    check_agreement,
    check_tensors,
)
from benchmarks.workload import Workload

LOOPS: Final = (1, CONNECTIONS)
"""Connections of closed loops."""
OPEN_CONNECTIONS: Final = 32
OPEN_SHARE: Final = 0.5
"""Share of capacity at which latency is measured."""

TRAINING_CELLS_MAX: Final = 2_000_000
"""Candidates times clusters beyond which the training graph is left out: it lays out 512 bytes and more for each."""
TENSORS_COUNT: Final = 8
"""Different requests of ready tensors: megabytes each."""
CHECKED_COUNT: Final = 3

Up = Mapping[str, tuple[System, Server]]
"""Systems that run, by name."""


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
class Comparison:
    """One run: what is measured on, the servers that are up, and the samples so far."""

    subject: Subject
    folder: Path
    options: Options
    taken: Measurements
    left_out: list[str] = field(default_factory=list)
    _gone: set[str] = field(default_factory=set)

    def check(self, up: Up, points: Sequence[Point]) -> None:
        """Check that all servers give the probabilities of ours.

        Raises:
            DisagreementError: one does not.
        """
        for point in points:
            able = [pair for name, pair in up.items() if self._is_able(name, point)]
            off = check_agreement(able, point.workload.asks[:CHECKED_COUNT])
            most = max((d.probability for d in off.values()), default=0.0)
            say(f"{point.workload.name}: probabilities of {len(able)} systems are equal to {most:.0e}")

    def check_tensors(self, up: Up, point: Point, *, name: str) -> None:
        """Check that a system gives to ready tensors of both graphs what ours gives to the same requests as ids.

        Raises:
            DisagreementError: it does not.
        """
        own, server = up[OURS]
        asks = point.workload.asks[:CHECKED_COUNT]
        references = [own.scores(own.call(ask).ask(server)) for ask in asks]
        for graph in (SERVED, TRAINING):
            bodies = list(self._tensor_bodies(up[name][0], graph, point))[: len(asks)]
            check_tensors(*up[name], bodies, references)

    def closed(self, up: Up, points: Sequence[Point], *, names: Sequence[str]) -> None:
        """Measure some systems at some points once, one after the other at each."""
        for point in points:
            for connections in LOOPS:
                for name in names:
                    if self._is_able(name, point):
                        self._take(self._ids_task(*up[name], point, connections, self.options.closed_s))

    def open(self, up: Up, points: Sequence[Point], *, names: Sequence[str]) -> None:
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
                self._take(task)
                if name == OURS:
                    cell = Cell(FLOOR, 0, 0.0, OPEN_CONNECTIONS, loop="open")
                    self.taken.take(self._get_task(cell, server, self.options.open_s, rate_rps=rate_rps))

    def floors(self, up: Up) -> None:
        """Measure an empty request of ours, and of bare Starlette where it is up, once."""
        for connections in LOOPS:
            for floor, name in ((FLOOR, OURS), (BARE_FLOOR, STARLETTE)):
                if name in up:
                    cell = Cell(floor, 0, 0.0, connections)
                    self.taken.take(self._get_task(cell, up[name][1], self.options.closed_s))

    def tensors(
        self,
        up: Up,
        points: Sequence[Point],
        *,
        names: Mapping[str, GraphName],
    ) -> None:
        """Measure ready tensors at some systems once.

        names: the rows' names and the graph that each asks for. A peer on another graph than ours is named without
            `-served`.
        """
        for point in points:
            for name, graph in names.items():
                if name in self._gone:
                    continue
                system, server = up[name] if name in up else up[f"{name}-served"]
                form = f"{system.tensors_form}-{system.wrapped}-{str(system.tensors_path).strip('/')}"
                path = self.folder / f"tensors-{graph}-{form}-{point.n}-{point.c}"
                if not path.exists():
                    bodies = self._tensor_bodies(system, graph, point)
                    write_requests(path, (system.tensors_call(body).http() for body in bodies))
                cell = Cell(name, point.n, point.c, 1, "tensors")
                self._take(Task(cell, server, path, "", self.options.closed_s))

    def _tensor_bodies(self, system: System, graph: GraphName, point: Point) -> Iterator[bytes]:
        """Yield requests of a point as ready tensors, in the form that a system takes."""
        for ask in point.workload.asks[:TENSORS_COUNT]:
            request = ScoreRequest.model_validate_json(ask.body)
            stored = self._handler.stored(request.user_id)
            feeds = self._handler.feeds(request, ask.domain, stored, graph)
            yield tensors_body(graph, ask.domain, feeds, base64=system.tensors_form == "base64")

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

    def _take(self, task: Task) -> None:
        """Take a sample. A plain service that has ended is noted, and is not asked again.

        Raises:
            ServerError: another server did not answer as it must.
        """
        try:
            self.taken.take(task)
        except ServerError as error:
            if task.server.name not in PLAIN.values() or task.server.is_running():
                raise
            self._gone.add(task.server.name)
            cell = task.cell
            self.left_out.append(
                f"{cell.system} from N={cell.n} C={cell.c:.0f} on: its process ended ({error})"
            )

    def _is_able(self, name: str, point: Point) -> bool:
        """Return whether a system is measured at a point; note it where it is not."""
        if name in self._gone:
            return False
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
