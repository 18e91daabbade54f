"""From the samples of a benchmark's rounds to the rows and ratios that are reported. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median


@dataclass(frozen=True)
class Cell:
    """What is measured together.

    n: candidates; c: mean clusters of the users asked.
    input: `ids` as a client has them, or ready `tensors`.
    loop: `closed`, where each connection asks again once it was answered, or `open`, at a constant rate.
    """

    system: str
    n: int
    c: float
    connections: int
    input: str = "ids"
    loop: str = "closed"


@dataclass(frozen=True)
class Sample:
    """One round of one cell. Samples of one `turn` were taken one after the other: only those are compared.

    rate_rps: what was asked for in an open loop.
    """

    cell: Cell
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float | None
    turn: int = 0
    rate_rps: float | None = None


@dataclass(frozen=True)
class Ratio:
    """How many times `system` is better than `other` by a metric: the median of the turns' ratios, and their range."""

    system: str
    other: str
    n: int
    c: float
    connections: int
    input: str
    loop: str
    metric: str
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def sample_of(
    cell: Cell,
    latencies_ms: Sequence[float],
    *,
    wall_s: float,
    cpu_s: float | None,
    turn: int = 0,
    rate_rps: float | None = None,
) -> Sample:
    """Return one round's sample."""
    count = len(latencies_ms)
    return Sample(
        cell,
        rps=count / wall_s,
        p50_ms=percentile(latencies_ms, 0.50),
        p99_ms=percentile(latencies_ms, 0.99),
        cpu_us_per_request=None if cpu_s is None else cpu_s * 1e6 / count,
        turn=turn,
        rate_rps=rate_rps,
    )


def rows_of(samples: Iterable[Sample]) -> list[dict[str, object]]:
    """Return one row a cell, in the order of their first samples, each figure the median over its rounds."""
    by_cell: dict[Cell, list[Sample]] = {}
    for sample in samples:
        by_cell.setdefault(sample.cell, []).append(sample)
    rows: list[dict[str, object]] = []
    for cell, rounds in by_cell.items():
        cpu_us = [s.cpu_us_per_request for s in rounds if s.cpu_us_per_request is not None]
        rates = [s.rate_rps for s in rounds if s.rate_rps is not None]
        rows.append(
            {
                **asdict(cell),
                "c": round(cell.c, 1),
                "rps": round(median(s.rps for s in rounds), 1),
                "p50_ms": round(median(s.p50_ms for s in rounds), 3),
                "p99_ms": round(median(s.p99_ms for s in rounds), 3),
                "cpu_us_per_request": round(median(cpu_us), 1) if cpu_us else None,
                "rate_rps": round(median(rates), 1) if rates else None,
            }
        )
    return rows


def ratios(samples: Sequence[Sample], ours: str, other: str) -> list[Ratio]:
    """Return by how much `ours` is better, turn by turn: more requests a second, less latency, less CPU.

    An open loop asks each system at a rate of its own, so that its requests a second say nothing.
    """
    found: list[Ratio] = []
    for cell in dict.fromkeys(s.cell for s in samples if s.cell.system == ours):
        pairs = list(pairs_of(samples, cell, replace(cell, system=other)))
        by_metric = {
            "rps": [a.rps / b.rps for a, b in pairs if cell.loop == "closed"],
            "p50": [b.p50_ms / a.p50_ms for a, b in pairs],
            "p99": [b.p99_ms / a.p99_ms for a, b in pairs],
            "cpu": [
                b.cpu_us_per_request / a.cpu_us_per_request
                for a, b in pairs
                if a.cpu_us_per_request and b.cpu_us_per_request
            ],
        }
        where = (cell.n, cell.c, cell.connections, cell.input, cell.loop)
        found += [
            Ratio(ours, other, *where, metric, median(values), min(values), max(values))
            for metric, values in by_metric.items()
            if values
        ]
    return found


def pairs_of(samples: Sequence[Sample], first: Cell, second: Cell) -> Iterator[tuple[Sample, Sample]]:
    """Yield the samples of two cells that were taken in the same turn."""
    of_second = {s.turn: s for s in samples if s.cell == second}
    for sample in samples:
        if sample.cell == first and sample.turn in of_second:
            yield sample, of_second[sample.turn]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table whose columns also line up as text; figures to the right."""
    cells = [list(header), *([text_of(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]

    def line(values: Sequence[str]) -> str:
        first = values[0].ljust(widths[0])
        return (
            "| "
            + " | ".join([first, *(v.rjust(w) for v, w in zip(values[1:], widths[1:], strict=True))])
            + " |"
        )

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(cells[0]), rule, *(line(values) for values in cells[1:])])


def text_of(value: object) -> str:
    """Return a figure as people read it: three significant digits or more, thousands apart, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return (
            f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
        )
    return str(value)
