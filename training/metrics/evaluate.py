"""The table of natural metrics by domain and task that reports and manifests quote.

Knows nothing of models: it reads labels and probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.metrics import natural

ALL_DOMAINS: Final = "all"


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """Metrics of one domain (or ALL_DOMAINS) and task; None where undefined, as with one class only.

    rows_count and positives_count are of the rows as sampled; all else is natural.
    """

    domain: str
    task: str
    rows_count: int
    positives_count: int
    auc: float | None
    gauc: float | None  # by user
    gauc_request: float | None
    log_loss: float | None
    pcoc: float | None
    calibration_error: float | None


def evaluate(
    labels: npt.ArrayLike,
    probability: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    users: npt.ArrayLike,
    requests: npt.ArrayLike,
    domains: npt.ArrayLike,
    domain_names: Sequence[str],
    task_names: Sequence[str],
) -> list[MetricsRow]:
    """Return a row per task × (all domains together, then each domain), domains without rows included.

    A row whose label is NaN is not known and does not count for that task. Weights of one give the metrics
    of the rows as sampled.

    Shapes:
        labels, probability: (B, T) in the order of task_names; the probability is the one served.
        weights: (B,), see `natural.natural_weights`.
        users, requests: (B,) ids of any sortable type; domains: (B,) indices into domain_names.
    """
    label, p = np.asarray(labels, np.float64), np.asarray(probability, np.float64)
    weight, domain = np.asarray(weights, np.float64), np.asarray(domains)
    if label.shape != (len(weight), len(task_names)) or p.shape != label.shape:
        raise ValueError(
            f"labels {label.shape} and probability {p.shape}: expected ({len(weight)}, {len(task_names)})"
        )
    user = np.unique(np.asarray(users), return_inverse=True)[1]
    request = np.unique(np.asarray(requests), return_inverse=True)[1]
    rows = []
    for t, task in enumerate(task_names):
        known = ~np.isnan(label[:, t])
        for d, name in enumerate((ALL_DOMAINS, *domain_names)):
            chosen = known if d == 0 else known & (domain == d - 1)
            y, score, w = label[chosen, t], p[chosen, t], weight[chosen]
            rows.append(
                MetricsRow(
                    domain=name,
                    task=task,
                    rows_count=int(chosen.sum()),
                    positives_count=int((y > 0).sum()),
                    auc=natural.auc(y, score, w),
                    gauc=natural.gauc(y, score, w, user[chosen]),
                    gauc_request=natural.gauc(y, score, w, request[chosen]),
                    log_loss=natural.log_loss(y, score, w),
                    pcoc=natural.pcoc(y, score, w),
                    calibration_error=natural.calibration_error(natural.reliability(y, score, w)),
                )
            )
    return rows
