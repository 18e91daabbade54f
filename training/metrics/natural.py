"""Metrics at the natural rate, from rows whose negatives were sampled. Exact, ties included, in NumPy.

A row weighs what it stands for: 1 where negatives were not left out, 1 / keep_probability where it is one
of the negatives kept. Weights of 1 give the metrics of the sampled rows as they are. A row of weight 3
counts like three equal rows, in every metric here. Knows nothing of models, files or where rows come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Array = npt.NDArray[np.generic]

BINS_COUNT: Final = 20
PROBABILITY_FLOOR: Final = 1e-15
"""Log-loss reads probabilities no nearer to 0 and 1 than this, so that one certain mistake stays finite."""


@dataclass(frozen=True, slots=True)
class ReliabilityTable:
    """Predicted against observed by bins of equal natural mass, lowest probability first.

    Axes:
        mass: (G,) share of the natural rows in the bin, adds up to 1; rows_count: (G,) rows as sampled.
        mean_probability, observed_rate: (G,) natural means in the bin. G is at most the bins asked for.
    """

    mass: F64
    rows_count: I64
    mean_probability: F64
    observed_rate: F64


def natural_weights(sampling_label: npt.ArrayLike, keep_probability: npt.ArrayLike) -> F64:
    """Return what each row stands for: 1 where its sampling label is 1, else 1 / keep_probability.

    The sampling label is the click: tasks that imply one are sampled only through it and share its weight.
    """
    positive = np.asarray(sampling_label, np.float64) > 0
    return np.where(positive, 1.0, 1.0 / np.asarray(keep_probability, np.float64))


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike) -> float | None:
    """Return the chance that a natural positive scores above a natural negative; a tie counts one half.

    Returns None where there is one class only.
    """
    one_group = np.zeros(len(np.asarray(labels)), np.int64)
    return gauc(labels, scores, weights, one_group)


def gauc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike, groups: npt.ArrayLike
) -> float | None:
    """Return the mean AUC of groups, each weighted by its natural exposures (the sum of its weights).

    Groups of one class are skipped; None where no group is left.

    Shapes:
        labels, scores, weights, groups: (B,).
    """
    y, score = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    weight, group = np.asarray(weights, np.float64), np.asarray(groups)
    if len(y) == 0:
        return None
    order = np.lexsort((score, group))
    y, score, weight, group = y[order], score[order], weight[order], group[order]

    group_starts = _run_starts(group)
    tie_starts = np.flatnonzero(
        np.concatenate([[True], (group[1:] != group[:-1]) | (score[1:] != score[:-1])])
    )
    positive = np.add.reduceat(weight * y, tie_starts)  # (ties,)
    negative = np.add.reduceat(weight * (1.0 - y), tie_starts)
    first_tie = np.searchsorted(tie_starts, group_starts)  # each group's first tie
    negatives_before = np.cumsum(negative) - negative
    group_of_tie = np.repeat(np.arange(len(first_tie)), np.diff(np.append(first_tie, len(tie_starts))))
    below = negatives_before - negatives_before[first_tie][group_of_tie]

    won = np.add.reduceat(positive * (below + negative / 2.0), first_tie)
    positives = np.add.reduceat(positive, first_tie)
    negatives = np.add.reduceat(negative, first_tie)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return None
    exposures = (positives + negatives)[both]
    return float((won[both] / (positives[both] * negatives[both]) * exposures).sum() / exposures.sum())


def log_loss(labels: npt.ArrayLike, probability: npt.ArrayLike, weights: npt.ArrayLike) -> float | None:
    """Return the mean −ln of the probability given to what happened; None of no rows."""
    y, p, weight = (np.asarray(a, np.float64) for a in (labels, probability, weights))
    if not weight.sum() > 0:
        return None
    p = np.clip(p, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    terms = -(y * np.log(p) + (1.0 - y) * np.log1p(-p))
    return float((weight * terms).sum() / weight.sum())


def pcoc(labels: npt.ArrayLike, probability: npt.ArrayLike, weights: npt.ArrayLike) -> float | None:
    """Return predicted over observed positives; 1 is right on average, None where nothing was observed."""
    y, p, weight = (np.asarray(a, np.float64) for a in (labels, probability, weights))
    observed = float((weight * y).sum())
    return float((weight * p).sum()) / observed if observed > 0 else None


def reliability(
    labels: npt.ArrayLike, probability: npt.ArrayLike, weights: npt.ArrayLike, *, bins_count: int = BINS_COUNT
) -> ReliabilityTable:
    """Return predicted against observed by bins of equal natural mass.

    Rows are ordered by probability, and rows of equal probability stay together: they lie in bin
    ⌊bins_count · m / W⌋, where m is the natural mass below them plus half their own and W the whole. So the
    order of rows does not matter, and a mass larger than a bin leaves the bins that it covers out.
    """
    y, p, weight = (np.asarray(a, np.float64) for a in (labels, probability, weights))
    if len(y) == 0:
        return ReliabilityTable(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    order = np.argsort(p, kind="stable")
    y, p, weight = y[order], p[order], weight[order]
    starts = _run_starts(p)
    mass = np.add.reduceat(weight, starts)
    middle = np.cumsum(mass) - mass / 2.0
    bin_of_run = np.minimum((bins_count * middle / mass.sum()).astype(np.int64), bins_count - 1)
    bin_of_row = np.repeat(bin_of_run, np.diff(np.append(starts, len(p))))

    def total(values: F64) -> F64:
        return np.bincount(bin_of_row, values, bins_count).astype(np.float64)

    rows_count, bin_mass = np.bincount(bin_of_row, minlength=bins_count), total(weight)
    some = bin_mass > 0
    return ReliabilityTable(
        mass=bin_mass[some] / bin_mass.sum(),
        rows_count=rows_count[some].astype(np.int64),
        mean_probability=total(weight * p)[some] / bin_mass[some],
        observed_rate=total(weight * y)[some] / bin_mass[some],
    )


def ece(table: ReliabilityTable) -> float | None:
    """Return the expected calibration error Σ_b mass_b · |p̄_b − ȳ_b|; None of no rows."""
    if len(table.mass) == 0:
        return None
    return float((table.mass * np.abs(table.mean_probability - table.observed_rate)).sum())


def calibration_error(table: ReliabilityTable) -> float | None:
    """Return the relative calibration error Σ_b mass_b · |p̄_b − ȳ_b| / ȳ, ȳ being the overall observed rate.

    Bins are those of the table (BINS_COUNT of equal natural mass unless told otherwise); None where no
    positive was observed. With one bin it is |pcoc − 1|.
    """
    observed = float((table.mass * table.observed_rate).sum())
    absolute = ece(table)
    return None if absolute is None or not observed > 0 else absolute / observed


def _run_starts(values: Array) -> I64:
    """Return where each run of equal neighbours begins, (runs,)."""
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])).astype(np.int64)
