"""Isotonic calibration: a rising, piecewise straight map of the logit, that of the least natural log-loss.

Knots stand at quantiles of the positives' logits, so that every piece has `positives_per_piece` of them, and there are
no more than `pieces_max`; with too few for two pieces the map is one line, as Platt's. The level and one slope a piece,
each within `slope_min` and `slope_max`, minimize the weighted log-loss: a convex problem, whose optimum predicts as
many positives as there are. The outer pieces go on for ever at their slopes.

Every slope is positive, so the map keeps the ranking: no two logits change places, in float32 neither, as each
piece adds a term that never falls; two that are nearer than float32 tells apart after the map may tie. The
steepest slope bounds how much the map can magnify a difference between torch and ONNX Runtime.

Source:
    Transforming Classifier Scores into Accurate Multiclass Probability Estimates (Zadrozny & Elkan 2002): a map
    that rises and is otherwise free.
    Differs: straight pieces in logits, where small rates are, instead of steps, which tie all candidates of a
    step and take a step without a positive for certainty; fitted by log-loss with bounded slopes, instead of by
    squares with pooled violators.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.optimize import minimize
from torch import Tensor

from training.calibration._maps import F64, Calibration, CalibrationRows, MapOptions, sigmoid


class Options(MapOptions):
    """How closely the map follows the rows."""

    pieces_max: int = Field(default=16, ge=1, description="most pieces of a map")
    positives_per_piece: int = Field(default=200, ge=1, description="least positives under a piece")
    slope_min: float = Field(default=0.05, gt=0)
    slope_max: float = Field(default=4.0)

    @model_validator(mode="after")
    def _slopes_are_ordered(self) -> Self:
        if self.slope_max < self.slope_min:
            raise ValueError("slope_max must be at least slope_min")
        return self


class IsotonicCalibration(Calibration):
    """A map a task, or a task and domain: a level at the first knot, and what each piece adds on either side of it.

    level + below · min(logit − first, 0) + Σ slope · min(max(logit − start, 0), width) over the pieces above. The
    last has no end; those not used have slope and width 0.
    """

    first: Tensor  # (G, T) the first knot
    level: Tensor  # (G, T) what it becomes
    below: Tensor  # (G, T) slope of the lowest piece
    start: Tensor  # (G, T, K) where each further piece begins
    width: Tensor  # (G, T, K)
    slope: Tensor  # (G, T, K)

    def __init__(self, options: Options, *, domains_count: int, tasks_count: int) -> None:
        super().__init__(options, domains_count=domains_count)
        self.options = options
        maps = (self.groups_count, tasks_count)
        identity = torch.zeros(*maps, max(1, options.pieces_max - 1))
        identity[..., 0] = 1.0
        self.register_buffer("first", torch.zeros(maps))
        self.register_buffer("level", torch.zeros(maps))
        self.register_buffer("below", torch.ones(maps))
        self.register_buffer("start", torch.zeros_like(identity))
        self.register_buffer("width", torch.where(identity > 0, torch.inf, 0.0))
        self.register_buffer("slope", identity)

    def forward(self, logit: Tensor, domain: Tensor) -> Tensor:
        """See `Calibration.forward`."""
        start, width, slope = (self.of_group(v, domain) for v in (self.start, self.width, self.slope))
        below = torch.clamp(logit - self.of_group(self.first, domain), max=0.0)
        above = torch.minimum(torch.clamp(logit[..., None] - start, min=0.0), width)  # (N, T, K)
        rise = below * self.of_group(self.below, domain) + (above * slope).sum(-1)
        return self.of_group(self.level, domain) + rise

    def fit_map(self, group: int, task: int, rows: CalibrationRows) -> None:
        """Fit level and slopes of one map."""
        knots = knots_of(rows, self.options)
        level, slopes = fit_pieces(rows, knots, self.options)
        self.first[group, task], self.level[group, task] = float(knots[0]), level
        self.below[group, task] = float(slopes[0])
        width = np.append(np.diff(knots), np.inf)
        for buffer, values in ((self.start, knots), (self.width, width), (self.slope, slopes[1:])):
            buffer[group, task] = 0.0
            buffer[group, task, : len(values)] = torch.from_numpy(values).to(buffer.dtype)


def pieces_of(rows: CalibrationRows, options: Options) -> int:
    """Return for how many pieces there are positives; below 2, the map is one straight line."""
    return min(options.pieces_max, int((rows.label > 0).sum()) // options.positives_per_piece)


def knots_of(rows: CalibrationRows, options: Options) -> F64:
    """Return where the pieces meet, (K,), rising; of a map of one piece, its middle, K = 1."""
    positive, pieces = rows.logit[rows.label > 0], pieces_of(rows, options)
    if pieces < 2:
        return np.array([np.median(positive)])
    knots: F64 = np.unique(np.quantile(positive, np.arange(1, pieces) / pieces))
    return knots


def fit_pieces(rows: CalibrationRows, knots: F64, options: Options) -> tuple[float, F64]:
    """Return the level at the first knot and the slope of each piece, (K + 1,), of the least log-loss.

    Where there are too few positives for two pieces, both have one slope.
    """
    rises = [np.minimum(rows.logit - knots[0], 0.0)]
    for start, width in zip(knots, np.append(np.diff(knots), np.inf), strict=True):
        rises.append(np.minimum(np.maximum(rows.logit - start, 0.0), width))
    x = np.stack(rises, axis=1)  # (B, slopes)
    if pieces_of(rows, options) < 2:
        x = x.sum(axis=1, keepdims=True)
    weight = rows.weight / rows.weight.sum()
    scale = np.sqrt(weight @ x**2)  # one step length for all slopes
    scale = np.where(scale > 0, scale, 1.0)
    x = x / scale

    def loss_and_gradient(at: F64) -> tuple[float, F64]:
        z = at[0] + x @ at[1:]
        error = weight * (sigmoid(z) - rows.label)
        loss = weight @ (np.logaddexp(0.0, z) - rows.label * z)
        return float(loss), np.append(error.sum(), error @ x)

    found = minimize(
        loss_and_gradient,
        np.append(knots[0], np.clip(1.0, options.slope_min, options.slope_max) * scale),
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None), *((options.slope_min * s, options.slope_max * s) for s in scale)],
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000, "maxfun": 4000},
    ).x
    slopes = np.broadcast_to(found[1:] / scale, len(knots) + 1)
    return float(found[0]), np.array(slopes)


def build(options: Options, *, domains_count: int, tasks_count: int) -> IsotonicCalibration:
    """Return the calibration of these options, the identity."""
    return IsotonicCalibration(options, domains_count=domains_count, tasks_count=tasks_count)
