"""What one fit of the study leaves behind: a folder that appears whole, closed by `result.json`.

<workspace>/study/<row>/<seed>/
    test.npy, validation.npy    probabilities (rows of the split, T) float32, rows in the dataset's order
    draws.npz                   metrics of the first task on the test rows by draw of users, see `drawn`
    fit.log                     what the fit said
    result.json                 FitResult
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from service.contract.files import sync_folder
from training.config import ModelConfig
from training.errors import ConfigError
from training.plugins import load_plugin

RESULT_FILE: Final = "result.json"
DRAWS_FILE: Final = "draws.npz"
LOG_FILE: Final = "fit.log"
SPLIT_FILES: Final = {"validation": "validation.npy", "test": "test.npy"}
FORMAT: Final = 1

_PACKAGES: Final = {
    "backbone": "training.backbones",
    "interests": "training.interest",
    "losses": "training.losses",
    "optimizer": "training.optim",
    "calibration": "training.calibration",
}


class Epoch(BaseModel):
    """One epoch of a fit."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    seconds: float
    rows_per_second: float
    losses: dict[str, float]
    validation_log_loss: float | None


class Part(BaseModel):
    """One model of a fit: there are several where each domain has its own.

    curve: (epochs done, log-loss of the first task on some validation visits), ten an epoch.
    """

    model_config = ConfigDict(frozen=True)

    domains: tuple[str, ...]
    epochs: tuple[Epoch, ...]
    best_epoch: int
    curve: tuple[tuple[float, float], ...] = ()
    train_rows: int


class FitResult(BaseModel):
    """What a fit was made from, and what came of it."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    row: str
    seed: int
    inputs: dict[str, Any]
    model: dict[str, Any]
    per_domain: bool
    parameters: int
    seconds: float
    train_samples_per_s: float
    parts: tuple[Part, ...]
    metrics: tuple[dict[str, Any], ...]
    peak_memory_mib: int
    finished_at: str


def read_result(folder: Path) -> FitResult | None:
    """Return a finished fit, None where there is none, or one of another form, or a file of it is gone."""
    try:
        result = FitResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    files = (*SPLIT_FILES.values(), DRAWS_FILE)
    return result if result.format == FORMAT and all((folder / name).is_file() for name in files) else None


def is_current(result: FitResult, *, model: ModelConfig, per_domain: bool, inputs: dict[str, Any]) -> bool:
    """Return whether a result is of this model on these inputs.

    An option that came since counts as what the model had: only a key whose value is another one makes it stale. Code
    that changed is not seen: raise FORMAT with it.
    """
    if result.inputs != inputs or result.per_domain != per_domain:
        return False
    try:
        return in_full(ModelConfig.model_validate(result.model)) == in_full(model)
    except (ConfigError, ValidationError):  # one of them makes no model any more
        return False


def in_full(model: ModelConfig) -> dict[str, Any]:
    """Return a model's configuration with the options of its plug-ins written out, defaults too."""
    return {key: _in_full(value, key) for key, value in model.model_dump(mode="json").items()}


def _in_full(value: Any, package: str) -> Any:
    if isinstance(value, list):
        return [_in_full(each, package) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"name", "options"} and package in _PACKAGES:
        options = load_plugin(_PACKAGES[package], value["name"]).Options.model_validate(value["options"])
        return {"name": value["name"], "options": options.model_dump(mode="json")}
    return {
        key: _in_full(each, key if key in _PACKAGES else package if package in _PACKAGES else key)
        for key, each in value.items()
    }


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside a fit's own, then put it in its place.

    A run that is ended in between leaves no folder, or the old one.
    """
    staging, old = (folder.parent / f".{folder.name}.{state}" for state in ("incoming", "outgoing"))
    for left_over in (staging, old):
        shutil.rmtree(left_over, ignore_errors=True)
    staging.mkdir(parents=True)
    write(staging)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def read_draws(path: Path) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Return the draws of a folder: domain (`all` among them) → metric → (R,)."""
    out: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    with np.load(path, allow_pickle=False) as stored:
        for name in stored.files:
            domain, _, metric = name.rpartition("/")
            out.setdefault(domain, {})[metric] = stored[name]
    return out


def write_draws(path: Path, drawn: dict[str, dict[str, npt.NDArray[np.float64]]]) -> None:
    """Write draws, see `read_draws`."""
    flat: dict[str, Any] = {f"{d}/{metric}": v for d, own in drawn.items() for metric, v in own.items()}
    np.savez(path, **flat)
