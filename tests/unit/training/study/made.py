"""Systems with numbers that tests know."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.metrics.bootstrap import METRICS
from training.study.systems import LIBRARY, Seeded, System

DOMAINS = ("all", "a", "b")


def seeded(
    seed: int, auc: dict[str, float], *, spread: float = 0.001, validation: float = 0.5, **others: float
) -> Seeded:
    """Return a seed whose AUC in each of DOMAINS is known; its draws lie evenly within ± spread."""
    values = {metric: others.get(metric, 1.0) for metric in METRICS}
    metrics = [{"split": "test", "domain": d, "task": "click", **values, "auc": auc[d]} for d in DOMAINS]
    whole = {"split": "validation", "domain": "all", "task": "click", **values, "log_loss": validation}
    noise = np.linspace(-spread, spread, 101)
    drawn = {d: {m: (auc[d] if m == "auc" else values[m]) + noise for m in METRICS} for d in DOMAINS}
    return Seeded(seed, (*metrics, whole), drawn, {"test": Path("none")}, parameters=10, seconds=2.0)


def system(name: str, *seeds: Seeded, library: str = LIBRARY, group: str = "g") -> System:
    return System(name, name.upper(), group, library, seeds, task="click")


def alike(auc: float) -> dict[str, float]:
    """Return the same AUC for all of DOMAINS."""
    return dict.fromkeys(DOMAINS, auc)
