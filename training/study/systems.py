"""What is compared: a row of the study with its seeds, or a system that another command measured.

Knows nothing of how any of them were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.metrics.bootstrap import METRICS, Estimate
from training.metrics.evaluate import ALL_DOMAINS
from training.study.config import StudyRow
from training.study.results import DRAWS_FILE, SPLIT_FILES, Part, read_draws, read_result
from training.study.rows import F32, Drawn

LIBRARY: Final = "twinstar"
MACRO: Final = "macro"
"""Not a domain: the mean over domains."""


@dataclass(frozen=True)
class Seeded:
    """One system fitted with one seed.

    metrics: rows with split, domain, task and METRICS. drawn: of the first task on the test rows.
    probability_files: split → file of (rows, T) float32.
    """

    seed: int
    metrics: tuple[dict[str, Any], ...]
    drawn: Drawn
    probability_files: dict[str, Path]
    parameters: int | None = None
    train_samples_per_s: float | None = None
    seconds: float | None = None
    peak_memory_mib: int | None = None
    parts: tuple[Part, ...] = ()

    def metric(self, name: str, *, domain: str, task: str, split: str = "test") -> float:
        """Return a metric, NaN where it is not defined."""
        for row in self.metrics:
            if (row["split"], row["domain"], row["task"]) == (split, domain, task):
                value = row[name]
                return float("nan") if value is None else float(value)
        return float("nan")


@dataclass(frozen=True)
class System:
    """A system with all its seeds; `library` is who made it."""

    name: str
    label: str
    group: str
    library: str
    seeds: tuple[Seeded, ...]
    task: str  # the first one, whose metrics are drawn
    model: str = ""  # its name in results, where that is not its name here
    calibrated_on_validation: bool = False

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that it was measured on."""
        return tuple(domain for domain in self.seeds[0].drawn if domain != ALL_DOMAINS)

    def estimate(self, metric: str, domain: str, *, seeds: Iterable[int] | None = None) -> Estimate:
        """Return the first task's metric on the test rows, the mean over seeds, with its draws.

        `domain` is a domain, `all`, or MACRO.
        """
        chosen = [one for one in self.seeds if seeds is None or one.seed in set(seeds)]
        domains = self.domains if domain == MACRO else (domain,)
        return Estimate.mean(
            [
                Estimate(one.metric(metric, domain=d, task=self.task), one.drawn[d][metric])
                for one in chosen
                for d in domains
            ]
        )

    def over(self, other: System, metric: str, domain: str) -> Estimate:
        """Return this − other, paired by users, and by seeds where they have some in common."""
        seeds = ({one.seed for one in self.seeds} & {one.seed for one in other.seeds}) or None
        return self.estimate(metric, domain, seeds=seeds) - other.estimate(metric, domain, seeds=seeds)

    def spread(self, metric: str, domain: str) -> float | None:
        """Return the standard deviation over seeds, None of one seed."""
        if len(self.seeds) < 2:
            return None
        values = [self.estimate(metric, domain, seeds=[one.seed]).value for one in self.seeds]
        return float(np.std(values, ddof=1))

    def probability(self, split: str, seed: int | None = None) -> F32:
        """Return the probabilities (rows, T) of one seed, the first where none is named."""
        chosen = next((one for one in self.seeds if one.seed == seed), self.seeds[0])
        stored: F32 = np.load(chosen.probability_files[split], mmap_mode="r", allow_pickle=False)
        return stored

    def validation(self, metric: str) -> float:
        """Return the first task's metric on validation, the mean over seeds: what selection may read."""
        values = [
            s.metric(metric, domain=ALL_DOMAINS, task=self.task, split="validation") for s in self.seeds
        ]
        return float(np.mean(values))


def system_of_fits(name: str, row: StudyRow, folders: list[Path]) -> System:
    """Return a row of the study from the folders of its finished fits."""
    seeds: list[Seeded] = []
    calibrated = False
    for folder in folders:
        result = read_result(folder)
        if result is None:
            continue
        calibrated |= result.model.get("calibration") is not None
        seeds.append(
            Seeded(
                seed=result.seed,
                metrics=result.metrics,
                drawn=read_draws(folder / DRAWS_FILE),
                probability_files={split: folder / file for split, file in SPLIT_FILES.items()},
                parameters=result.parameters,
                train_samples_per_s=result.train_samples_per_s,
                seconds=result.seconds,
                peak_memory_mib=result.peak_memory_mib,
                parts=result.parts,
            )
        )
    task = seeds[0].metrics[0]["task"]
    return System(
        name, row.label, row.group, LIBRARY, tuple(seeds), task, calibrated_on_validation=calibrated
    )


def seed_deviation(systems: Sequence[System], metric: str) -> float:
    """Return the standard deviation of a metric over seeds, pooled over systems of several seeds."""
    seeds = [[s.estimate(metric, ALL_DOMAINS, seeds=[one.seed]).value for one in s.seeds] for s in systems]
    squares = sum(float(np.sum((np.array(own) - np.mean(own)) ** 2)) for own in seeds)
    return float(np.sqrt(squares / sum(len(own) - 1 for own in seeds)))


def rows_of_systems(systems: Iterable[System]) -> list[dict[str, Any]]:
    """Return one row a system, seed, split, domain and task."""
    return [
        {
            "name": system.model or system.name,
            "library": system.library,
            "seed": one.seed,
            "split": row["split"],
            "domain": row["domain"],
            "task": row["task"],
            **{metric: row[metric] for metric in METRICS},
            "parameters": one.parameters,
            "train_samples_per_s": one.train_samples_per_s,
        }
        for system in systems
        for one in system.seeds
        for row in one.metrics
    ]
