"""The rows that all systems of a study are measured on, and how they are measured. Knows nothing of models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.encoded import EncodedData
from training.metrics.bootstrap import METRICS, resample, user_times
from training.metrics.evaluate import ALL_DOMAINS, evaluate
from training.metrics.natural import natural_weights
from training.workbench import Workbench

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Drawn = dict[str, dict[str, F64]]
"""Domain (`all` among them) → metric → its value in each draw of users, (R,)."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split, in the dataset's order.

    Axes:
        labels: (B, T) NaN where unknown; weights: (B,) natural; users: (B,) numbered from 0 within the split;
        requests: (B,); domains: (B,) index into domain_names; rows: (B,) their places among all exposures.
    """

    split: str
    labels: F32
    weights: F64
    users: I64
    requests: I64
    domains: I64
    rows: I64
    domain_names: tuple[str, ...]
    task_names: tuple[str, ...]


def rows_of(bench: Workbench, data: EncodedData, split: str) -> SplitRows:
    """Return the rows of a split."""
    rows = data.rows_of(data.visits_of(split))
    requests = data.row_request[rows]
    labels = data.labels[rows]
    users = data.visit_user[data.request_visit[requests]]
    return SplitRows(
        split=split,
        labels=labels,
        weights=natural_weights(labels[:, 0], data.keep_probability[rows]),
        users=np.unique(users, return_inverse=True)[1].astype(np.int64),
        requests=requests,
        domains=data.domain[requests],
        rows=rows,
        domain_names=bench.dataset.spec.domains,
        task_names=tuple(task.name for task in bench.tasks),
    )


def measured(rows: SplitRows, probability: F32) -> list[dict[str, Any]]:
    """Return natural metrics of probabilities (B, T) per task and domain, all domains first.

    T may be less than there are tasks: then the first ones are measured.
    """
    tasks_count = probability.shape[1]
    found = evaluate(
        rows.labels[:, :tasks_count],
        probability,
        rows.weights,
        users=rows.users,
        requests=rows.requests,
        domains=rows.domains,
        domain_names=rows.domain_names,
        task_names=rows.task_names[:tasks_count],
    )
    kept = ("domain", "task", *METRICS)
    return [{"split": rows.split, **{key: asdict(row)[key] for key in kept}} for row in found]


def drawn(rows: SplitRows, probability: F32) -> Drawn:
    """Return the first task's metrics by draw of users, for all domains and each.

    Draws depend on the rows alone: systems measured on the same rows are drawn alike.
    """
    times = user_times(int(rows.users.max(initial=-1)) + 1)
    out: Drawn = {}
    for number, name in enumerate((ALL_DOMAINS, *rows.domain_names), start=-1):
        own = np.ones(len(rows.domains), bool) if number < 0 else rows.domains == number
        out[name] = resample(
            rows.labels[own, 0],
            probability[own, 0],
            rows.weights[own],
            users=rows.users[own],
            requests=rows.requests[own],
            times=times,
        )
    return out
