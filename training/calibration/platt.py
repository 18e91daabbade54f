"""Platt scaling: a straight line over the logit, slope · logit + shift, of positive slope. Ranking is kept.

Source:
    Probabilistic Outputs for Support Vector Machines (Platt 1999): logistic regression of the label on the score.
    Differs: rows weigh what they stand for, so that the line is that of natural rates; labels stay 0 and 1, for
    his smoothed ones would add positives by the weight of the negatives (`positives_min` guards small samples
    instead); the slope is kept within SLOPE_BOUNDS, so that a task learned the wrong way round is flattened and
    not turned over, and rows that a threshold separates have a finite optimum.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from training.calibration._maps import F64, Calibration, CalibrationRows, MapOptions, sigmoid

SLOPE_BOUNDS: Final = (0.01, 10.0)


class Options(MapOptions):
    """Platt scaling has the options of every calibration."""


class PlattCalibration(Calibration):
    """A line a task, or a task and domain: `slope` > 0 and `shift`, (G, T)."""

    slope: Tensor
    shift: Tensor

    def __init__(self, options: Options, *, domains_count: int, tasks_count: int) -> None:
        super().__init__(options, domains_count=domains_count)
        self.register_buffer("slope", torch.ones(self.groups_count, tasks_count))
        self.register_buffer("shift", torch.zeros(self.groups_count, tasks_count))

    def forward(self, logit: Tensor, domain: Tensor) -> Tensor:
        """See `Calibration.forward`."""
        return logit * self.of_group(self.slope, domain) + self.of_group(self.shift, domain)

    def fit_map(self, group: int, task: int, rows: CalibrationRows) -> None:
        """Fit slope and shift by the least natural log-loss."""
        slope, shift = fit_line(rows)
        self.slope[group, task], self.shift[group, task] = slope, shift


def fit_line(rows: CalibrationRows) -> tuple[float, float]:
    """Return slope and shift of the least log-loss of weighted rows, the slope within SLOPE_BOUNDS.

    The logits are brought to mean 0 and deviation 1 first: the same optimum, found in a few steps.
    """
    weight = rows.weight / rows.weight.sum()
    mean = float(weight @ rows.logit)
    deviation = float(np.sqrt(weight @ (rows.logit - mean) ** 2)) or 1.0
    x = (rows.logit - mean) / deviation

    def loss_and_gradient(at: F64) -> tuple[float, F64]:
        z = at[0] * x + at[1]
        loss = weight @ (np.logaddexp(0.0, z) - rows.label * z)
        error = weight * (sigmoid(z) - rows.label)
        return float(loss), np.array([error @ x, error.sum()])

    low, high = (bound * deviation for bound in SLOPE_BOUNDS)
    found = minimize(
        loss_and_gradient,
        np.array([np.clip(deviation, low, high), mean]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, high), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 500},
    ).x
    slope = float(found[0]) / deviation
    return slope, float(found[1]) - slope * mean


def build(options: Options, *, domains_count: int, tasks_count: int) -> PlattCalibration:
    """Return the calibration of these options, the identity."""
    return PlattCalibration(options, domains_count=domains_count, tasks_count=tasks_count)
