"""One fit of the study: build, fit, score validation and test once, write. Knows nothing of other fits.

Runs in a process of its own with one thread; what it reads was made before the process was forked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from service.contract.files import write_atomically
from service.contract.history import I64
from training.config import ModelConfig
from training.data.encoded import EncodedData
from training.fit import FitReport, count_parameters, fit, predict, probabilities
from training.progress import Progress
from training.stages.train import build_model, check_visits
from training.study.results import (
    DRAWS_FILE,
    LOG_FILE,
    RESULT_FILE,
    SPLIT_FILES,
    Epoch,
    FitResult,
    Part,
    in_full,
    write_draws,
    write_folder,
)
from training.study.rows import F32, SplitRows, drawn, measured
from training.task_losses import TaskLosses
from training.workbench import Workbench

CURVE_VISITS_MAX: Final = 1_000


@dataclass(frozen=True)
class Inputs:
    """What all fits read; made once and shared.

    identity: what of the dataset, its histories and its encoding a result depends on.
    """

    bench: Workbench
    data: EncodedData
    splits: dict[str, SplitRows]
    identity: dict[str, Any]


@dataclass(frozen=True)
class FitPlan:
    """One fit: a row of the study with one seed."""

    row: str
    seed: int
    model: ModelConfig
    per_domain: bool
    folder: Path

    @property
    def name(self) -> str:
        """Return `row/seed`."""
        return f"{self.row}/{self.seed}"


class FitProgress(Progress):
    """Tells the share of a fit's rows that were seen, and writes what is said to a file."""

    def __init__(self, log: Path, tell: Callable[[float], None]) -> None:
        super().__init__(quiet=True)
        self._log, self._tell = log, tell
        self.parts_count, self.parts_done = 1, 0

    @contextmanager
    def task(self, name: str, *, total: int) -> Iterator[Callable[[int], None]]:
        """Count what is done of a task."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._tell((self.parts_done + min(1.0, done / max(1, total))) / self.parts_count)

        yield advance

    def say(self, line: str) -> None:
        """Write one line to the log."""
        with self._log.open("a") as file:
            file.write(line + "\n")


def models_of(plan: FitPlan, domains: tuple[str, ...]) -> tuple[ModelConfig, ...]:
    """Return the models of a fit: one, or one for each domain."""
    if not plan.per_domain:
        return (plan.model,)
    return tuple(plan.model.model_copy(update={"domains": (domain,)}) for domain in domains)


def run_fit(plan: FitPlan, inputs: Inputs, tell: Callable[[float], None] = lambda _: None) -> None:
    """Fit, measure and write one fit's folder."""
    write_folder(plan.folder, lambda out: _write(plan, inputs, out, tell))


def _write(plan: FitPlan, inputs: Inputs, out: Path, tell: Callable[[float], None]) -> None:
    started = time.perf_counter()
    progress = FitProgress(out / LOG_FILE, tell)
    models = models_of(plan, inputs.bench.dataset.spec.domains)
    progress.parts_count = len(models)
    scored = {split: np.full(rows.labels.shape, np.nan, np.float32) for split, rows in inputs.splits.items()}
    parts: list[Part] = []
    parameters_count = 0
    for model in models:
        part, count = _fit_part(model, inputs, progress, scored)
        parts.append(part)
        parameters_count += count
        progress.parts_done += 1
    epochs_s = sum(epoch.seconds for part in parts for epoch in part.epochs)
    seen = sum(part.train_rows * len(part.epochs) for part in parts)
    metrics: list[dict[str, Any]] = []
    for split, rows in inputs.splits.items():
        np.save(out / SPLIT_FILES[split], scored[split])
        metrics += measured(rows, scored[split])
    write_draws(out / DRAWS_FILE, drawn(inputs.splits["test"], scored["test"]))
    result = FitResult(
        row=plan.row,
        seed=plan.seed,
        inputs=inputs.identity,
        model=in_full(plan.model),
        per_domain=plan.per_domain,
        parameters=parameters_count,
        seconds=round(time.perf_counter() - started, 2),
        train_samples_per_s=round(seen / epochs_s, 1),
        parts=tuple(parts),
        metrics=tuple(metrics),
        peak_memory_mib=_peak_memory_mib(),
        finished_at=datetime.now(tz=UTC).isoformat(timespec="seconds"),
    )
    write_atomically(out / RESULT_FILE, orjson.dumps(result.model_dump(), option=orjson.OPT_INDENT_2))


def _fit_part(
    model: ModelConfig,
    inputs: Inputs,
    progress: FitProgress,
    scored: dict[str, F32],
) -> tuple[Part, int]:
    """Fit one model and fill in the probabilities of the rows of its domains."""
    bench = inputs.bench
    domains = bench.domains_of(model)
    data = bench.encoded_for(model, progress)
    tasks = bench.tasks_of(model)
    losses = TaskLosses(model, tasks)
    built = build_model(bench, model, data, losses)
    train_visits, validation_visits = data.visits_of("train"), data.visits_of("validation")
    check_visits(train_visits, f"no exposures of {', '.join(domains)} in the training weeks")
    report = fit(
        built,
        losses,
        data,
        config=model.fit,
        train_visits=train_visits,
        validation_visits=validation_visits,
        boundaries_ms=bench.snapshot_moments_ms,
        progress=progress,
        curve_visits=some_visits(validation_visits),
    )
    for split, rows in inputs.splits.items():
        visits = data.visits_of(split)
        place = np.searchsorted(rows.rows, data.exposure[data.rows_of(visits)])
        scored[split][place] = probabilities(predict(built, data, visits), tasks)
    return _part(report, domains, len(data.rows_of(train_visits))), count_parameters(built)


def some_visits(visits: I64) -> I64:
    """Return the visits that learning curves are measured on, the same for every fit: in order, CURVE_VISITS_MAX."""
    chosen = np.random.default_rng(0).permutation(len(visits))[:CURVE_VISITS_MAX]
    return visits[np.sort(chosen)]


def _part(report: FitReport, domains: tuple[str, ...], train_rows: int) -> Part:
    return Part(
        domains=domains,
        epochs=tuple(
            Epoch(
                epoch=epoch.epoch,
                seconds=epoch.seconds,
                rows_per_second=epoch.rows_per_second,
                losses=epoch.losses,
                validation_log_loss=None
                if np.isnan(epoch.validation_log_loss)
                else epoch.validation_log_loss,
            )
            for epoch in report.epochs
        ),
        best_epoch=report.best_epoch,
        curve=tuple(point for point in report.curve if not np.isnan(point[1])),
        train_rows=train_rows,
    )


def _peak_memory_mib() -> int:
    """Return the peak resident memory of this process, pages that it shares with others included."""
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    except (OSError, IndexError):
        return 0
