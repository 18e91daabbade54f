"""Intervals of natural metrics by bootstrap over users. Knows nothing of models, files or where rows come from.

Users are drawn with replacement; a user drawn twice counts like two users with equal rows. All systems that are
measured on the same rows share the draws, so that the interval of a difference is paired: it is the interval of
the differences of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.metrics import natural

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

METRICS: Final = ("auc", "gauc", "gauc_request", "log_loss", "pcoc", "calibration_error")
RESAMPLES_COUNT: Final = 500
RESAMPLES_AT_ONCE: Final = 50
INTERVAL_PERCENT: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric of all rows and of each draw of users; arithmetic on two of them is paired.

    value: the metric itself. draws: (R,), NaN where a draw lacks a class.
    """

    value: float
    draws: F64

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the draws; NaN where no draw is defined."""
        some = self.draws[~np.isnan(self.draws)]
        if len(some) == 0:
            return float("nan"), float("nan")
        low, high = np.percentile(some, INTERVAL_PERCENT)
        return float(low), float(high)

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the paired difference."""
        return Estimate(self.value - other.value, self.draws - other.draws)

    @staticmethod
    def mean(estimates: list[Estimate]) -> Estimate:
        """Return the mean of several, over seeds or domains, drawn together."""
        return Estimate(
            float(np.mean([e.value for e in estimates])),
            np.asarray(np.mean([e.draws for e in estimates], axis=0), np.float64),
        )


def user_times(users_count: int, *, resamples_count: int = RESAMPLES_COUNT, seed: int = 5) -> F64:
    """Return how often each user is drawn in each resample, (R, U); each row adds up to U."""
    rng = np.random.default_rng(seed)
    share = np.full(users_count, 1.0 / users_count)
    return rng.multinomial(users_count, share, size=resamples_count).astype(np.float64)


def resample(
    labels: npt.ArrayLike,
    probability: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    users: I64,
    requests: npt.ArrayLike,
    times: F64,
) -> dict[str, F64]:
    """Return METRICS of the rows for each resample of users, each (R,).

    A request belongs to one user. The bins of the calibration error are those of all rows, not drawn anew.

    Shapes:
        labels, probability, weights, users, requests: (B,); users are columns of `times` (R, U).
    """
    y, p, w = (np.asarray(a, np.float64) for a in (labels, probability, weights))
    known = ~np.isnan(y)
    y, p, w, user = y[known], p[known], w[known], users[known]
    request = np.unique(np.asarray(requests)[known], return_inverse=True)[1]
    users_count = times.shape[1]

    def per_user(values: F64) -> F64:
        return times @ np.bincount(user, values, users_count)

    clipped = np.clip(p, natural.PROBABILITY_FLOOR, 1.0 - natural.PROBABILITY_FLOOR)
    losses = -(y * np.log(clipped) + (1.0 - y) * np.log1p(-clipped))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "auc": _auc(y, p, w, user, times),
            "gauc": _gauc(y, p, w, user, user, times),
            "gauc_request": _gauc(y, p, w, user, request, times),
            "log_loss": per_user(w * losses) / per_user(w),
            "pcoc": per_user(w * p) / per_user(w * y),
            "calibration_error": _calibration_error(y, p, w, user, times),
        }


def _auc(y: F64, p: F64, w: F64, user: I64, times: F64) -> F64:
    """Return the AUC of each resample: rows are ordered once, draws only change what users weigh.

    Negatives are added up per user in steps: those tied with the k-th distinct score of a positive are step
    2k + 1, those between it and the one below it step 2k. So a resample is a sparse product.
    """
    from scipy.sparse import csr_array

    positive = y > 0
    scores = np.unique(p[positive])  # (K,)
    if len(scores) == 0 or positive.all():
        return np.full(len(times), np.nan)
    place = np.searchsorted(scores, p)
    tied = scores[np.minimum(place, len(scores) - 1)] == p
    users_count = times.shape[1]
    negatives = csr_array(
        (w[~positive], ((2 * place + tied)[~positive], user[~positive])),
        shape=(2 * len(scores) + 1, users_count),
    )
    positives = csr_array((w[positive], (place[positive], user[positive])), shape=(len(scores), users_count))
    out: list[F64] = []
    for start in range(0, len(times), RESAMPLES_AT_ONCE):
        drawn = times[start : start + RESAMPLES_AT_ONCE].T  # (U, r)
        by_step, won_by = negatives @ drawn, positives @ drawn
        total = np.cumsum(by_step, axis=0)
        below = total[:-1:2] + by_step[1::2] / 2.0  # (K, r)
        with np.errstate(divide="ignore", invalid="ignore"):
            out.append((won_by * below).sum(axis=0) / (won_by.sum(axis=0) * total[-1]))
    return np.concatenate(out)


def _gauc(y: F64, p: F64, w: F64, user: I64, group: I64, times: F64) -> F64:
    """Return the GAUC of each resample: a group's AUC does not change, only how often its user counts."""
    value, exposures = group_aucs(y, p, w, group)
    owner = np.zeros(len(value), np.int64)
    owner[group] = user
    defined = ~np.isnan(value)
    users_count = times.shape[1]
    won = np.bincount(owner[defined], (value * exposures)[defined], users_count)
    shown = np.bincount(owner[defined], exposures[defined], users_count)
    return np.asarray((times @ won) / (times @ shown), np.float64)


def group_aucs(y: F64, p: F64, w: F64, group: I64) -> tuple[F64, F64]:
    """Return each group's AUC, NaN where it has one class, and its natural exposures, each (G,).

    Shapes: y, p, w, group: (B,); groups are numbered from 0.
    """
    count = int(group.max(initial=-1)) + 1
    order = np.lexsort((p, group))
    y, p, w, group = y[order], p[order], w[order], group[order]
    starts = np.flatnonzero(np.concatenate([[True], (group[1:] != group[:-1]) | (p[1:] != p[:-1])])[: len(y)])
    if len(starts) == 0:
        return np.full(count, np.nan), np.zeros(count)
    positive, negative = np.add.reduceat(w * y, starts), np.add.reduceat(w * (1.0 - y), starts)
    of_run = group[starts]
    negatives, positives = np.bincount(of_run, negative, count), np.bincount(of_run, positive, count)
    before = np.cumsum(negative) - negative
    first = np.searchsorted(of_run, np.arange(count))
    below = before - before[np.minimum(first, len(before) - 1)][of_run]
    won = np.bincount(of_run, positive * (below + negative / 2.0), count)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where((positives > 0) & (negatives > 0), won / (positives * negatives), np.nan)
    return np.asarray(value, np.float64), np.asarray(positives + negatives, np.float64)


def _calibration_error(y: F64, p: F64, w: F64, user: I64, times: F64) -> F64:
    """Return Σ_b |P_b − Y_b| / Σ_b Y_b of each resample, P and Y being natural sums over the bins of all rows."""
    table = natural.reliability(y, p, w)
    if len(table.mass) == 0:
        return np.full(len(times), np.nan)
    order = np.argsort(p, kind="stable")  # bins are runs of rows in this order
    bin_of_row = np.empty(len(p), np.int64)
    bins_count = len(table.mass)
    bin_of_row[order] = np.repeat(np.arange(bins_count), table.rows_count)
    cell = user * bins_count + bin_of_row
    shape = (times.shape[1], bins_count)

    def cells(values: F64) -> F64:
        return np.bincount(cell, values, shape[0] * shape[1]).reshape(shape).astype(np.float64)

    off = times @ cells(w * (p - y))  # (R, bins)
    observed = times @ np.bincount(user, w * y, shape[0])
    return np.asarray(np.abs(off).sum(axis=1) / observed, np.float64)
