"""Taking samples: rounds of turns at servers that run side by side, each load in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.environments import REPOSITORY
from benchmarks.figures import Cell, Sample, sample_of
from benchmarks.load import Load
from benchmarks.servers import Server, ServerError, on_cores

REQUESTS_MAX: Final = 20_000


@dataclass(frozen=True)
class Task:
    """One load on one server. With a rate its loop is open."""

    cell: Cell
    server: Server
    requests: Path
    expect: str
    seconds: float
    rate_rps: float | None = None


@dataclass
class Measurements:
    """All samples so far. `load_cores` are for the load generator, `server_cores` for what is measured."""

    server_cores: set[int] | None
    load_cores: set[int] | None
    samples: list[Sample] = field(default_factory=list)
    _turn: int = 0
    _warm: set[Cell] = field(default_factory=set)

    def begin_turn(self) -> None:
        """Begin a turn: the samples until the next are compared with each other."""
        self._turn += 1

    def take(self, task: Task) -> None:
        """Take the sample of a task.

        Raises:
            ServerError: the server did not answer as it must.
        """
        if task.cell not in self._warm and task.rate_rps is None:
            # The first request of its size makes the server's memory grow, which may take longer than the request.
            self._load(replace(task, cell=replace(task.cell, connections=1), seconds=0.0))
            self._warm.add(task.cell)
        before_s = task.server.cpu_s()
        load = self._load(task)
        after_s = task.server.cpu_s()
        cpu_s = None if before_s is None or after_s is None else after_s - before_s
        self._add(task.cell, load.latencies_ms, load.wall_s, cpu_s, task.rate_rps)

    def take_pure(
        self, reference: Sequence[str], environment: Mapping[str, str], points: Sequence[tuple[int, float]]
    ) -> None:
        """Take samples of ONNX Runtime alone. `reference` are further options of the process that does it.

        Raises:
            ServerError: it failed.
        """
        command = [sys.executable, "-m", "benchmarks.pure_session", *reference, "--points"]
        command += [f"{n}x{c:.0f}" for n, c in points]
        for line in _run(command, self.server_cores, environment).splitlines():
            row: dict[str, Any] = json.loads(line)
            cell = Cell(row["system"], row["n"], float(row["c"]), 1, "tensors")
            self._add(cell, row["latencies_ms"], row["wall_s"], row["cpu_s"], None)

    def capacity_rps(self, cell: Cell) -> float:
        """Return how many requests a second a cell's system was seen to answer, by the median of its rounds."""
        return median(sample.rps for sample in self.samples if sample.cell == cell)

    def _add(
        self,
        cell: Cell,
        latencies_ms: Sequence[float],
        wall_s: float,
        cpu_s: float | None,
        rate_rps: float | None,
    ) -> None:
        self.samples.append(
            sample_of(cell, latencies_ms, wall_s=wall_s, cpu_s=cpu_s, turn=self._turn, rate_rps=rate_rps)
        )

    def _load(self, task: Task) -> Load:
        command = [sys.executable, "-m", "benchmarks.load", "--port", str(task.server.port)]
        command += ["--requests", str(task.requests), "--connections", str(task.cell.connections)]
        command += ["--seconds", str(task.seconds), "--requests-max", str(REQUESTS_MAX)]
        command += ["--expect", task.expect]
        if task.rate_rps is not None:
            command += ["--rate", str(task.rate_rps)]
        try:
            return Load(**json.loads(_run(command, self.load_cores, {})))
        except ServerError as error:
            raise ServerError(f"{task.server.name}: {error}") from error


def _run(command: Sequence[str], cores: set[int] | None, environment: Mapping[str, str]) -> str:
    """Return what a process has printed.

    Raises:
        ServerError: it failed, with what it said.
    """
    with on_cores(cores):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
    if done.returncode:
        raise ServerError(done.stderr.strip()[-2000:])
    return done.stdout
