"""What the service is held to, from the samples of one run: ratios between systems, never figures of a machine. Pure.

A bar compares samples of the same turn. CPU is a server's, of all its processes; requests per second are those of a
closed loop with CONNECTIONS connections, CPU per request that of one connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Final, Literal

from benchmarks.figures import Cell, Sample, pairs_of
from benchmarks.systems import BOUND, OURS, PLAIN, PURE, STARLETTE

CONNECTIONS: Final = 8
FLOOR: Final = "twinstar-livez"
"""GET /livez of our service: what the loop, the HTTP stack and the load generator cost and vary by themselves."""
BARE_FLOOR: Final = "starlette-livez"

COMPUTE_POINTS: Final = ((500, 1000), (200, 200))
"""(N, C) where processor time is held to its bounds."""
THROUGHPUT_POINT: Final = (200, 1000)
TAIL_RATIO_MAX: Final = 2.5
TAIL_OVER_FLOOR_MAX_MS: Final = 5.0

Verdict = Literal["goal", "pass", "missed", "stated"]


@dataclass(frozen=True)
class Limits:
    """What a ratio must reach, and what is aimed at; None where it is only stated."""

    passes: float | None = None
    goal: float | None = None
    more_is_better: bool = False

    def verdict(self, value: float) -> Verdict:
        """Return what a value has reached."""
        for name, limit in (("goal", self.goal), ("pass", self.passes)):
            if limit is not None and (value >= limit if self.more_is_better else value <= limit):
                return name  # type: ignore[return-value]
        return "stated" if self.passes is None and self.goal is None else "missed"


LIMITS: Final = {
    "served graph over its fp32 GEMM bound": Limits(passes=1.8, goal=1.4),
    "CPU of a request over ONNX Runtime alone": Limits(passes=1.45, goal=1.25),
    "requests per second over plain FastAPI, training graph": Limits(20, 35, more_is_better=True),
    "requests per second over plain FastAPI, served graph": Limits(2.0, 2.5, more_is_better=True),
    "requests per second over the best peer": Limits(1.3, 1.6, more_is_better=True),
    "p99 over p50 at half of capacity": Limits(passes=TAIL_RATIO_MAX),
    "CPU of an empty /livez over bare Starlette": Limits(),
    "CPU of a one-candidate /score over bare Starlette": Limits(),
}
LIMITS_OF_FEWER: Final = {("CPU of a request over ONNX Runtime alone", 200): Limits(passes=2.0, goal=1.6)}
"""Of some bars at some N, where what is not arithmetic weighs more."""


@dataclass(frozen=True)
class Bar:
    """One bar as measured: the median over the turns, and their range."""

    name: str
    n: int
    c: float
    against: str
    median: float
    low: float
    high: float
    passes: float | None
    goal: float | None
    verdict: Verdict

    def row(self) -> dict[str, Any]:
        """Return it as it stands in a results file."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def bars_of(samples: Sequence[Sample]) -> list[Bar]:
    """Return the bars that the samples have, in the order of LIMITS."""
    return [*_compute(samples), *_throughput(samples), *_tails(samples), *_overheads(samples)]


def _compute(samples: Sequence[Sample]) -> Iterator[Bar]:
    for n, c in COMPUTE_POINTS:
        pure, bound = Cell(PURE, n, c, 1, "tensors"), Cell(BOUND, n, c, 1, "tensors")
        yield from _bar("served graph over its fp32 GEMM bound", samples, pure, bound, _cpu_us)
    for n, c in COMPUTE_POINTS:
        pure = Cell(PURE, n, c, 1, "tensors")
        yield from _bar(
            "CPU of a request over ONNX Runtime alone", samples, Cell(OURS, n, c, 1), pure, _cpu_us
        )


def _throughput(samples: Sequence[Sample]) -> Iterator[Bar]:
    ours = Cell(OURS, *THROUGHPUT_POINT, CONNECTIONS)
    for graph, system in PLAIN.items():
        name = f"requests per second over plain FastAPI, {graph} graph"
        yield from _bar(name, samples, ours, replace(ours, system=system), _rps)
    known = {OURS, *PLAIN.values(), STARLETTE}
    peers = dict.fromkeys(s.cell.system for s in samples if s.cell == replace(ours, system=s.cell.system))
    against = [
        bar
        for peer in peers
        if peer not in known
        for bar in _bar(
            "requests per second over the best peer", samples, ours, replace(ours, system=peer), _rps
        )
    ]
    if against:
        yield min(against, key=lambda bar: bar.median)


def _tails(samples: Sequence[Sample]) -> Iterator[Bar]:
    """Yield a bar a cell of ours in an open loop. Its limit is on p99 over p50, or on p99 over that of the floor."""
    name = "p99 over p50 at half of capacity"
    floor = [s.p99_ms for s in samples if s.cell.system == FLOOR and s.cell.loop == "open"]
    cells = dict.fromkeys(
        s.cell for s in samples if s.cell.system == OURS and s.cell.loop == "open" and s.cell.n > 1
    )
    for cell in cells:
        own = [s for s in samples if s.cell == cell]
        values = [s.p99_ms / s.p50_ms for s in own]
        over_floor_ms = median(s.p99_ms for s in own) - median(floor) if floor else float("inf")
        bar = _of(name, cell, "its own p50", values)
        if bar.verdict == "missed" and over_floor_ms <= TAIL_OVER_FLOOR_MAX_MS:
            bar = replace(bar, verdict="pass")
        yield bar


def _overheads(samples: Sequence[Sample]) -> Iterator[Bar]:
    floors = Cell(FLOOR, 0, 0.0, 1), Cell(BARE_FLOOR, 0, 0.0, 1)
    yield from _bar("CPU of an empty /livez over bare Starlette", samples, *floors, _cpu_us)
    for cell in dict.fromkeys(s.cell for s in samples if s.cell.system == STARLETTE and s.cell.n == 1):
        if cell.connections == 1:
            yield from _bar(
                "CPU of a one-candidate /score over bare Starlette",
                samples,
                replace(cell, system=OURS),
                cell,
                _cpu_us,
            )


def _bar(
    name: str,
    samples: Sequence[Sample],
    ours: Cell,
    other: Cell,
    figure: Callable[[Sample], float | None],
) -> Iterator[Bar]:
    """Yield the bar of our figure over another's, nothing where they were never taken in one turn."""
    pairs = [(figure(a), figure(b)) for a, b in pairs_of(samples, ours, other)]
    values = [a / b for a, b in pairs if a and b]
    if values:
        yield _of(name, ours, other.system, values)


def _of(name: str, cell: Cell, against: str, values: Sequence[float]) -> Bar:
    limits, middle = LIMITS_OF_FEWER.get((name, cell.n), LIMITS[name]), median(values)
    return Bar(
        name,
        cell.n,
        cell.c,
        against,
        middle,
        min(values),
        max(values),
        limits.passes,
        limits.goal,
        limits.verdict(middle),
    )


def _cpu_us(sample: Sample) -> float | None:
    return sample.cpu_us_per_request


def _rps(sample: Sample) -> float | None:
    return sample.rps
