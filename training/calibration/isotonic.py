"""Isotonic calibration: an increasing, piecewise straight map of the logit, its knots from isotonic regression.

Isotonic regression of the label on the logit gives blocks of rows of one rate each. A block becomes a knot: from
the logit of its mean probability to the logit of its observed rate. Between knots the map is straight, beyond the
outer ones it goes on at slope 1. Neighbouring blocks are pooled first

1. until each has `positives_min` rows of either label, and there are no more than `knots_max`;
2. until the slope between any two knots is within `slope_min` and `slope_max`.

So every slope is positive and the map keeps the ranking: no two logits change places, in float32 neither, as each
segment adds a term that never falls; two nearer than float32 tells apart after the map may tie. The steepest slope
bounds how much the map can magnify a difference between torch and ONNX Runtime.

Source:
    Transforming Classifier Scores into Accurate Multiclass Probability Estimates (Zadrozny & Elkan 2002); straight
    lines between block centers as in Centered Isotonic Regression, arXiv:1701.05964, instead of steps, which would
    tie all candidates of a block.
    Differs: in logits, where small rates are; centers are mean probabilities, so that a model calibrated already
    has its knots on the diagonal, and not mean scores; steps 1 and 2, without which a block without a positive has
    no logit, and two blocks that lie near each other make a cliff.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from sklearn.isotonic import isotonic_regression
from torch import Tensor

from training.calibration._maps import F64, I64, Calibration, CalibrationRows, MapOptions, logit_of, sigmoid


class Options(MapOptions):
    """How finely the map follows the rows."""

    knots_max: int = Field(default=32, ge=1, description="most knots of a map")
    slope_min: float = Field(default=0.05, gt=0, le=1, description="flatter neighbours are pooled")
    slope_max: float = Field(default=4.0, ge=1, description="steeper neighbours are pooled")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Runs of rows in the order of their logits. Axes: all (K,).

    mass, positive_mass, probability_mass: natural weight, of positives, and times the predicted probability;
    positives, negatives: rows as they are.
    """

    mass: F64
    positive_mass: F64
    probability_mass: F64
    positives: I64
    negatives: I64

    def pooled(self, starts: I64) -> Blocks:
        """Return fewer blocks; `starts` are the first of each."""
        return Blocks(
            np.add.reduceat(self.mass, starts),
            np.add.reduceat(self.positive_mass, starts),
            np.add.reduceat(self.probability_mass, starts),
            np.add.reduceat(self.positives, starts),
            np.add.reduceat(self.negatives, starts),
        )

    def without_boundary(self, after: int) -> Blocks:
        """Return the blocks with block `after` and the next one pooled."""
        return self.pooled(np.delete(np.arange(len(self.mass)), after + 1))

    def knots(self) -> tuple[F64, F64]:
        """Return where the knots are and what they become, both rising, (K,) each."""
        return logit_of(self.probability_mass / self.mass), logit_of(self.positive_mass / self.mass)


class IsotonicCalibration(Calibration):
    """A map a task, or a task and domain, as a sum over segments: slope · min(max(logit − start, 0), width).

    The last segment has no end; unused ones have slope and width 0.
    """

    first: Tensor  # (G, T) the first knot
    level: Tensor  # (G, T) what it becomes
    start: Tensor  # (G, T, K) where each segment begins
    width: Tensor  # (G, T, K)
    slope: Tensor  # (G, T, K)

    def __init__(self, options: Options, *, domains_count: int, tasks_count: int) -> None:
        super().__init__(options, domains_count=domains_count)
        self.options = options
        maps = (self.groups_count, tasks_count)
        identity = torch.zeros(*maps, options.knots_max)
        identity[..., 0] = 1.0
        self.register_buffer("first", torch.zeros(maps))
        self.register_buffer("level", torch.zeros(maps))
        self.register_buffer("start", torch.zeros_like(identity))
        self.register_buffer("width", torch.where(identity > 0, torch.inf, 0.0))
        self.register_buffer("slope", identity)

    def forward(self, logit: Tensor, domain: Tensor) -> Tensor:
        """See `Calibration.forward`."""
        start, width, slope = (self.of_group(v, domain) for v in (self.start, self.width, self.slope))
        below = torch.clamp(logit - self.of_group(self.first, domain), max=0.0)
        above = torch.minimum(torch.clamp(logit[..., None] - start, min=0.0), width)  # (N, T, K)
        return self.of_group(self.level, domain) + below + (above * slope).sum(-1)

    def fit_map(self, group: int, task: int, rows: CalibrationRows) -> None:
        """Fit the knots of one map."""
        x, y = fit_knots(rows, self.options)
        count = len(x)
        slope = np.append(np.diff(y) / np.diff(x), 1.0)
        width = np.append(np.diff(x), np.inf)
        self.first[group, task], self.level[group, task] = float(x[0]), float(y[0])
        for buffer, values in ((self.start, x), (self.width, width), (self.slope, slope)):
            buffer[group, task] = 0.0
            buffer[group, task, :count] = torch.from_numpy(values).to(buffer.dtype)


def fit_knots(rows: CalibrationRows, options: Options) -> tuple[F64, F64]:
    """Return where the knots of a map are and what they become, (K,) each, K at most `knots_max`.

    Args:
        rows: at least `positives_min` of either label.
    """
    blocks = _filled(_regression_blocks(rows), options)
    while len(blocks.mass) > 1:
        x, y = blocks.knots()
        slope = np.log(np.maximum(np.diff(y) / np.diff(x), np.finfo(float).tiny))
        outside = np.maximum(np.log(options.slope_min) - slope, slope - np.log(options.slope_max))
        worst = int(np.argmax(outside))
        if outside[worst] <= 0:
            break
        blocks = blocks.without_boundary(worst)
    return blocks.knots()


def _regression_blocks(rows: CalibrationRows) -> Blocks:
    """Return the blocks of isotonic regression; rows of equal logits are in one block."""
    _, place = np.unique(rows.logit, return_inverse=True)
    positives = np.bincount(place, rows.label > 0).astype(np.int64)
    points = Blocks(
        mass=np.bincount(place, rows.weight).astype(np.float64),
        positive_mass=np.bincount(place, rows.weight * rows.label).astype(np.float64),
        probability_mass=np.bincount(place, rows.weight * sigmoid(rows.logit)).astype(np.float64),
        positives=positives,
        negatives=(np.bincount(place) - positives).astype(np.int64),
    )
    rate = isotonic_regression(points.positive_mass / points.mass, sample_weight=points.mass)
    return points.pooled(np.flatnonzero(np.diff(rate, prepend=-1.0) > 0))


def _filled(blocks: Blocks, options: Options) -> Blocks:
    """Return blocks pooled from the lowest on until each has enough; what is left over joins the last."""
    enough = max(options.positives_min, -(-int(blocks.positives.sum()) // options.knots_max))
    starts, positives, negatives = [0], 0, 0
    for i in range(len(blocks.mass)):
        if positives >= enough and negatives >= options.positives_min:
            starts.append(i)
            positives = negatives = 0
        positives += int(blocks.positives[i])
        negatives += int(blocks.negatives[i])
    if len(starts) > 1 and (positives < enough or negatives < options.positives_min):
        starts.pop()
    return blocks.pooled(np.array(starts))


def build(options: Options, *, domains_count: int, tasks_count: int) -> IsotonicCalibration:
    """Return the calibration of these options, the identity."""
    return IsotonicCalibration(options, domains_count=domains_count, tasks_count=tasks_count)
