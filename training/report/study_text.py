"""How the study's numbers are written, and its Markdown tables. Knows nothing of where numbers come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from training.metrics.bootstrap import Estimate

LOG_LOSS_SCALE: Final = 1000.0
"""Natural log-losses are thousandths; they are shown times this."""

NAMES: Final = {
    "auc": "AUC",
    "gauc": "GAUC",
    "gauc_request": "GAUC by request",
    "log_loss": "log-loss ×10³",
    "pcoc": "PCOC",
    "calibration_error": "calibration error",
}
_DIGITS: Final = {"auc": 4, "gauc": 4, "gauc_request": 4, "log_loss": 3, "pcoc": 3, "calibration_error": 3}


def number(value: float | None, metric: str, *, signed: bool = False) -> str:
    """Return a metric as it is written: `.9442`, `+.0051`, `3.355`; a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "–"
    scaled = value * LOG_LOSS_SCALE if metric == "log_loss" else value
    text = f"{scaled:{'+' if signed else ''}.{_DIGITS[metric]}f}"
    return text.replace("0.", ".", 1) if abs(scaled) < 1 and metric != "log_loss" else text


def with_interval(
    estimate: Estimate, metric: str, *, signed: bool = False, spread: float | None = None
) -> str:
    """Return `.9442 [.9431, .9453]`, and `± .0003` where there is a spread over seeds."""
    if math.isnan(estimate.value):
        return "–"
    low, high = estimate.interval
    bounds = f"[{number(low, metric, signed=signed)}, {number(high, metric, signed=signed)}]"
    text = f"{number(estimate.value, metric, signed=signed)} {bounds}"
    return text if spread is None else f"{text} ± {number(spread, metric)}"


def count(value: float | None) -> str:
    """Return a number of things: `1,234,567`."""
    return "–" if value is None else f"{value:,.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a Markdown table whose first `left` columns are text and the others numbers."""
    lines = [
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * left + ["--:"] * (len(header) - left)) + " |",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]
    return "\n".join(lines)
