"""Training speed at equal architecture, sizes, batch, threads and optimizer, ours and each library by turns.

Every round trains each system afresh for one epoch on the same rows, ours in this process and each library in its own.
What is timed is the epoch alone, with all that the system does to feed itself from memory; reading files, laying out
arrays, validation and start-up are not. Samples per second are medians over rounds, ratios medians of each round's;
beside the clock's stand those of processor time, which other work on the machine moves less.
Equal work is shown by the validation log-loss before and after, at the rate of the sampled rows.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.public_libraries import ours
from benchmarks.public_libraries.exchange import Job, Report
from benchmarks.public_libraries.quality import FOLDER, Sizes
from benchmarks.public_libraries.rows import write_rows
from benchmarks.public_libraries.systems import System, run_system
from service.contract.history import I64
from training.config import PipelineConfig
from training.data.encoded import EncodedData
from training.progress import Progress

SEED = 11
RATES = ("train_samples_per_s", "train_samples_per_cpu_s")

Say = Callable[[str], None]


def measure(
    config: PipelineConfig,
    systems: Iterable[System],
    *,
    sizes: Sizes,
    rows_max: int,
    rounds: int,
    threads: int,
    say: Say,
) -> list[dict[str, Any]]:
    """Return a row per model, system and round, then one per model and system with medians and ratios."""
    bench = ours.OneTaskBench(config)
    data = ours.as_sampled(bench.encoded(Progress(stage=FOLDER)))
    visits = {
        split: whole_users(data, data.visits_of(split), rows_max=rows_max)
        for split in ("train", "validation")
    }
    visits["test"] = visits["validation"][:0]
    folder = bench.folder(FOLDER) / "speed"
    spec = write_rows(
        folder / "rows",
        data,
        visits,
        tasks=bench.tasks,
        domains_count=len(bench.dataset.spec.domains),
        recents_max=bench.config.history.limits.recents_max,
    )
    chosen = tuple(systems)
    runs: list[dict[str, Any]] = []
    for model in sorted({system.model for system in chosen}):
        for turn in range(rounds):
            job = Job(
                rows=str((folder / "rows").resolve()),
                source=spec.source,
                out="",
                model=model,
                seed=SEED + turn,
                threads=threads,
                equal=True,
                **asdict(sizes),
            )
            order: list[System | None] = [None, *(s for s in chosen if s.model == model)]
            for system in order if turn % 2 == 0 else reversed(order):
                say(f"{model}, round {turn + 1} of {rounds}: {system.name if system else ours.NAME}")
                report = (
                    run_once(system, job, folder / "job", say)
                    if system
                    else ours.train(bench, data, visits, job)
                )
                runs.append(_run(model, system, turn, report))
                say(
                    "  {train_samples_per_s} samples/s, log-loss {validation_log_loss:.5f}".format(**runs[-1])
                )
    return [*runs, *summarized(runs)]


def run_once(system: System, job: Job, out: Path, say: Say) -> Report:
    """Train a library's model afresh, whatever was measured before."""
    shutil.rmtree(out, ignore_errors=True)
    report = run_system(system, replace(job, out=str(out.resolve())), say)
    shutil.rmtree(out, ignore_errors=True)
    return report


def whole_users(data: EncodedData, visits: I64, *, rows_max: int) -> I64:
    """Return the visits of as many users, in random order, as have `rows_max` rows together; at least one."""
    users = data.visit_user[visits]
    counts = np.bincount(users, weights=data.row_starts[visits + 1] - data.row_starts[visits])
    order = np.random.default_rng(SEED).permutation(np.unique(users))
    fit_in = np.cumsum(counts[order]) <= rows_max
    fit_in[:1] = True
    return visits[np.isin(users, order[fit_in])]


def summarized(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per model and system: medians over rounds, and the median of ours over it round by round."""
    out = []
    for model, library in dict.fromkeys((run["model"], run["library"]) for run in runs):
        own = {r["round"]: r for r in runs if r["model"] == model and r["library"] == library}
        base = {r["round"]: r for r in runs if r["model"] == model and r["library"] == ours.NAME}
        losses = [run["validation_log_loss"] for run in own.values()]
        out.append(
            {
                "kind": "summary",
                "model": model,
                "library": library,
                "rounds": len(own),
                **{rate: round(statistics.median(run[rate] for run in own.values())) for rate in RATES},
                **{
                    f"ours_over_it_{rate}": round(
                        statistics.median(base[t][rate] / run[rate] for t, run in own.items()), 2
                    )
                    for rate in RATES
                },
                "first_validation_log_loss": statistics.fmean(
                    r["first_validation_log_loss"] for r in own.values()
                ),
                "validation_log_loss": statistics.fmean(losses),
                "validation_log_loss_sd": statistics.stdev(losses) if len(losses) > 1 else None,
                **{key: next(iter(own.values()))[key] for key in ("parameters", "rows", "steps", "version")},
            }
        )
    return out


def _run(model: str, system: System | None, turn: int, report: Report) -> dict[str, Any]:
    return {
        "kind": "run",
        "model": model,
        "library": system.library.driver if system else ours.NAME,
        "version": report.version,
        "round": turn + 1,
        "train_samples_per_s": round(report.train_samples_per_s),
        "train_samples_per_cpu_s": round(report.train_samples_per_cpu_s),
        "rows": report.rows_count,
        "steps": report.epochs[-1].steps,
        "seconds": round(sum(epoch.seconds for epoch in report.epochs), 3),
        "first_validation_log_loss": report.first_validation_log_loss,
        "validation_log_loss": report.epochs[-1].validation_log_loss,
        "parameters": report.parameters,
    }
