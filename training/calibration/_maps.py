"""What calibrations share: which rows each of their maps is fitted on. Knows no form of a map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class MapOptions(BaseModel):
    """How many maps there are, and how much each must be fitted on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_domain: bool = Field(default=False, description="a map for each domain, else one for all")
    positives_min: int = Field(
        default=50,
        ge=1,
        description="least rows of either label to fit on; a domain with fewer takes the map of all domains, "
        "a task with fewer stays as it is",
    )


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """The rows that one task's maps are fitted on.

    Axes:
        logit, label (0 or 1), weight (what the row stands for), domain (index): (B,).
    """

    logit: F64
    label: F64
    weight: F64
    domain: I64

    def of_domain(self, domain: int) -> CalibrationRows:
        """Return the rows of one domain."""
        own = self.domain == domain
        return CalibrationRows(self.logit[own], self.label[own], self.weight[own], self.domain[own])

    def has_both(self, rows_min: int) -> bool:
        """Return whether there are so many rows of either label."""
        positives = int((self.label > 0).sum())
        return min(positives, len(self.label) - positives) >= rows_min


class Calibration(nn.Module):
    """Increasing maps of logits, one a task, or one a task and domain. What is fitted are buffers: no gradients."""

    def __init__(self, options: MapOptions, *, domains_count: int) -> None:
        super().__init__()
        self.per_domain, self.positives_min = options.per_domain, options.positives_min
        self.groups_count = domains_count if options.per_domain else 1

    def forward(self, logit: Tensor, domain: Tensor) -> Tensor:
        """Return calibrated logits (N, T) of natural-rate logits (N, T); domain: (N,), or (1,) for all rows."""
        raise NotImplementedError

    def of_group(self, maps: Tensor, domain: Tensor) -> Tensor:
        """Return the maps (G, ...) that rows of some domains take, (N, ...) or (1, ...)."""
        return maps[domain] if self.per_domain else maps

    def fit(self, task: int, rows: CalibrationRows) -> None:
        """Fit the maps of a task, each on its own rows; those with too few rows as `MapOptions` says."""
        for group in range(self.groups_count):
            own = rows.of_domain(group) if self.per_domain else rows
            chosen = own if own.has_both(self.positives_min) else rows
            if chosen.has_both(self.positives_min):
                self.fit_map(group, task, chosen)

    def fit_map(self, group: int, task: int, rows: CalibrationRows) -> None:
        """Fit one map."""
        raise NotImplementedError


def logit_of(probability: F64) -> F64:
    """Return ln p / (1 − p)."""
    out: F64 = np.log(probability) - np.log1p(-probability)
    return out


def sigmoid(logit: F64) -> F64:
    """Return the probability of a logit, small ones to their last digit."""
    out: F64 = np.exp(-np.logaddexp(0.0, -logit))
    return out
