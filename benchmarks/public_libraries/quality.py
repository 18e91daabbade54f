"""Quality: models of public libraries on the very rows of ours, by our metrics, at the natural rate."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.public_libraries.exchange import Job, RowsSpec, scores_path
from benchmarks.public_libraries.rows import write_rows
from benchmarks.public_libraries.sampling import natural_probability
from benchmarks.public_libraries.systems import System, run_system
from training.data.encoded import EncodedData
from training.progress import Progress
from training.study.rows import F32, measured, rows_of
from training.workbench import Workbench

FOLDER = "public_libraries"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """What the libraries' models are made of and how they are trained, by Adam at one rate.

    The defaults are usual ones of those libraries. What a study compares with takes its widths, rows a batch and
    epochs from its base, and its rate by the validation rows.
    """

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
    sizes: Sequence[Sizes],
    *,
    leave_out: tuple[str, ...],
    seed: int,
    threads: int,
    say: Say,
) -> list[dict[str, Any]]:
    """Train a system with each of some sizes and return the rows of metrics of the best on validation.

    Best is the least log-loss. Its test probabilities are kept beside the workspace's models.
    """
    model = "_without_".join([system.model, *leave_out])
    name = f"{system.library.driver}-{model}-{seed}"
    split_rows = {split: rows_of(bench, data, split) for split in ("validation", "test")}
    source = RowsSpec.load(rows).source
    tried: list[tuple[list[dict[str, Any]], F32]] = []
    for chosen in sizes:
        out = bench.folder(FOLDER) / "jobs" / f"{name}-{chosen.learning_rate:g}"
        job = Job(
            rows=str(rows.resolve()),
            source=source,
            out=str(out.resolve()),
            model=system.model,
            seed=seed,
            threads=threads,
            leave_out=leave_out,
            **asdict(chosen),
        )
        report = run_system(system, job, say)
        shutil.rmtree(out / "npz", ignore_errors=True)  # a second copy of the rows, in the library's format
        probability = {
            split: natural_probability(np.load(scores_path(out, split)), data.keep_probability[own.rows])
            for split, own in split_rows.items()
        }
        about = {
            "name": model,
            "library": system.library.driver,
            "seed": seed,
            "learning_rate": chosen.learning_rate,
            "features": bench.features_digest,
            "parameters": report.parameters,
            "train_samples_per_s": round(report.train_samples_per_s),
        }
        found = [
            about | row
            for split, own in split_rows.items()
            for row in measured(own, probability[split].astype(np.float32)[:, None])
        ]
        say(f"{name}: rate {chosen.learning_rate:g}, validation log-loss {found[0]['log_loss']:.6f}")
        tried.append((found, probability["test"].astype(np.float32)))
    best, test = min(tried, key=lambda each: each[0][0]["log_loss"])
    np.save(bench.folder(FOLDER) / f"{name}.npy", test)
    return best


def tasks_of(rows: Path) -> tuple[str, ...]:
    """Return the tasks that the multi-task models learn."""
    return RowsSpec.load(rows).tasks
