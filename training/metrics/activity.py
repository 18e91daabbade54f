"""Calibration by how active users are: natural ECE and PCOC per domain × task and decile of users.

A model that is right on average may be wrong for those with little history and for those with much. Knows
nothing of models, files or of what activity is; reports use the number of behaviors before the test weeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.metrics import natural
from training.metrics.evaluate import ALL_DOMAINS

DECILES_COUNT: Final = 10


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """Calibration of one decile of users in one domain (or ALL_DOMAINS) and task.

    decile: 1 the least active. activity_min, activity_max: over its users. users_count, rows_count and
    positives_count are of the rows as sampled, all else is natural; None where undefined.
    """

    domain: str
    task: str
    decile: int
    activity_min: float
    activity_max: float
    users_count: int
    rows_count: int
    positives_count: int
    ece: float | None
    pcoc: float | None


def equal_groups(values: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Return the group of each value, 0 the least: `count` groups of about equally many values, (N,).

    Equal values stay together: they lie in group ⌊count · m / N⌋, m being the values below them plus half of
    them. So a value that is frequent may leave a group empty.
    """
    array = np.asarray(values)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2.0
    return np.minimum((count * middle / max(1, len(array))).astype(np.int64), count - 1)[inverse]


def by_activity(
    labels: npt.ArrayLike,
    probability: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    users: npt.ArrayLike,
    activity: npt.ArrayLike,
    domains: npt.ArrayLike,
    domain_names: Sequence[str],
    task_names: Sequence[str],
) -> list[ActivityRow]:
    """Return a row per task × (all domains, then each) × decile that has users, least active first.

    Deciles are of the users that have rows here, in any domain, so that all domains speak of the same users.

    Shapes:
        labels, probability: (B, T), labels NaN where unknown; weights, users, domains: (B,);
        activity: (B,) that of the row's user, equal in all rows of a user.
    """
    label, p = np.asarray(labels, np.float64), np.asarray(probability, np.float64)
    weight, domain, active = np.asarray(weights, np.float64), np.asarray(domains), np.asarray(activity)
    _, first, user = np.unique(np.asarray(users), return_index=True, return_inverse=True)
    decile = equal_groups(active[first], DECILES_COUNT)[user]
    rows: list[ActivityRow] = []
    for t, task in enumerate(task_names):
        known = ~np.isnan(label[:, t])
        for d, name in enumerate((ALL_DOMAINS, *domain_names)):
            here = known if d == 0 else known & (domain == d - 1)
            for number in np.unique(decile[here]):
                own = here & (decile == number)
                y, score, w = label[own, t], p[own, t], weight[own]
                rows.append(
                    ActivityRow(
                        domain=name,
                        task=task,
                        decile=int(number) + 1,
                        activity_min=float(active[own].min()),
                        activity_max=float(active[own].max()),
                        users_count=len(np.unique(user[own])),
                        rows_count=int(own.sum()),
                        positives_count=int((y > 0).sum()),
                        ece=natural.ece(natural.reliability(y, score, w)),
                        pcoc=natural.pcoc(y, score, w),
                    )
                )
    return rows
