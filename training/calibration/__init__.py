"""Calibrations of a trained model's logits, by name: the file name is the name in the config.

A calibration file holds `Options` (with those of `_maps.MapOptions`) and `build(options, *, domains_count,
tasks_count)`, which returns a `_maps.Calibration`: an increasing map of logits a task, or a task and domain, the
identity until it is fitted. It is fitted once, after training, on rows that training did not read, at natural
weights; from then on it is part of the model, of its predictions and of its served graph. Off by default.

Knows nothing of models and of files.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.calibration._maps import Calibration, CalibrationRows
from training.plugins import load_plugin

__all__ = ["Calibration", "CalibrationRows", "build_calibration"]


def build_calibration(
    name: str, options: Mapping[str, object], *, domains_count: int, tasks_count: int
) -> Calibration:
    """Return a calibration by its name, not yet fitted.

    Raises:
        ConfigError: there is no such file in this folder.
        pydantic.ValidationError: an option is unknown or out of range.
    """
    plugin = load_plugin(__name__, name)
    built: Calibration = plugin.build(
        plugin.Options.model_validate(options), domains_count=domains_count, tasks_count=tasks_count
    )
    return built
