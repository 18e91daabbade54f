"""Quality: models of public libraries on the very rows of ours, by our metrics, at the natural rate."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.public_libraries.exchange import F64, Job, Report, RowsSpec, scores_path
from benchmarks.public_libraries.rows import write_rows
from benchmarks.public_libraries.sampling import natural_probability
from benchmarks.public_libraries.systems import System, run_system
from training.data.encoded import EncodedData
from training.metrics.evaluate import evaluate
from training.metrics.natural import natural_weights
from training.progress import Progress
from training.workbench import Workbench

FOLDER = "public_libraries"
METRICS = ("auc", "gauc", "gauc_request", "log_loss", "pcoc", "calibration_error")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """What the libraries' models are made of and how long they are trained; ours have the same defaults."""

    embedding_width: int = 16
    hidden: tuple[int, ...] = (128, 64)
    attention_hidden: tuple[int, ...] = (64,)
    cross_layers: int = 3
    experts_count: int = 4
    epochs: int = 3
    batch_rows: int = 2048
    learning_rate: float = 1e-3


def prepare(bench: Workbench, say: Say) -> tuple[EncodedData, Path]:
    """Write the rows of all splits and return them as we see them, and their folder."""
    data = bench.encoded(Progress(stage=FOLDER))
    folder = bench.folder(FOLDER) / "rows"
    say(f"rows: {folder}")
    write_rows(
        folder,
        data,
        {split: data.visits_of(split) for split in ("train", "validation", "test")},
        tasks=bench.tasks,
        domains_count=len(bench.dataset.spec.domains),
        recents_max=bench.config.history.limits.recents_max,
    )
    return data, folder


def measure(
    bench: Workbench,
    data: EncodedData,
    rows: Path,
    system: System,
    sizes: Sizes,
    *,
    leave_out: tuple[str, ...],
    seed: int,
    threads: int,
    say: Say,
) -> list[dict[str, Any]]:
    """Train a system and return its rows of metrics; its test probabilities are kept beside the workspace's models."""
    model = "_without_".join([system.model, *leave_out])
    name = f"{system.library.driver}-{model}-{seed}"
    out = bench.folder(FOLDER) / "jobs" / name
    job = Job(
        rows=str(rows.resolve()),
        source=RowsSpec.load(rows).source,
        out=str(out.resolve()),
        model=system.model,
        seed=seed,
        threads=threads,
        leave_out=leave_out,
        **asdict(sizes),
    )
    report = run_system(system, job, say)
    shutil.rmtree(out / "npz", ignore_errors=True)  # a second copy of the rows, in the library's format
    measured: list[dict[str, Any]] = []
    for split in ("validation", "test"):
        chosen = data.rows_of(data.visits_of(split))
        p = natural_probability(np.load(scores_path(out, split)), data.keep_probability[chosen])
        if split == "test":
            np.save(bench.folder(FOLDER) / f"{name}.npy", p)
        named = {"name": model, "library": system.library.driver, "seed": seed, "split": split}
        measured += [named | row for row in metrics_rows(bench, data, split, p, report)]
    return measured


def metrics_rows(
    bench: Workbench, data: EncodedData, split: str, probability: F64, report: Report
) -> list[dict[str, Any]]:
    """Return a row for all domains together and one for each, of natural probabilities (B,) of the first task."""
    rows = data.rows_of(data.visits_of(split))
    requests = data.row_request[rows]
    labels = data.labels[rows, :1]
    table = evaluate(
        labels,
        probability[:, None],
        natural_weights(labels[:, 0], data.keep_probability[rows]),
        users=data.visit_user[data.request_visit[requests]],
        requests=requests,
        domains=data.domain[requests],
        domain_names=bench.dataset.spec.domains,
        task_names=[bench.tasks[0].name],
    )
    return [
        {
            "domain": row.domain,
            "task": row.task,
            **{metric: getattr(row, metric) for metric in METRICS},
            "parameters": report.parameters,
            "train_samples_per_s": round(report.train_samples_per_s),
        }
        for row in table
    ]


def tasks_of(rows: Path) -> tuple[str, ...]:
    """Return the tasks that the multi-task models learn."""
    return RowsSpec.load(rows).tasks
