"""Rows whose rate is known at every logit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.calibration._maps import F64, CalibrationRows, sigmoid


def rows_at_their_rates(
    logit: F64, truth: Callable[[F64], F64], *, mass: F64 | None = None, domain: int = 0
) -> CalibrationRows:
    """Return two rows a logit, a positive and a negative, that weigh what the true logit says: no noise at all."""
    rate = sigmoid(truth(logit))
    weight = np.ones(len(logit)) if mass is None else mass
    return CalibrationRows(
        np.concatenate([logit, logit]),
        np.repeat([1.0, 0.0], len(logit)),
        np.concatenate([weight * rate, weight * (1 - rate)]),
        np.full(2 * len(logit), domain),
    )


def together(*parts: CalibrationRows) -> CalibrationRows:
    return CalibrationRows(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("logit", "label", "weight", "domain")
        )
    )
