"""train: fit one model of the config on the training weeks, and keep the epoch best on validation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import orjson
import torch

from service.contract.history import I64
from training.config import ModelConfig
from training.data.encoded import EncodedData
from training.errors import ConfigError, StageError
from training.fit import count_parameters, fit
from training.model import CtrModel
from training.progress import Progress
from training.task_losses import TaskLosses
from training.workbench import Workbench

PARAMETERS_FILE = "parameters.npz"
FIT_FILE = "fit.json"


def run(bench: Workbench, out: Path, progress: Progress, *, model: str) -> dict[str, object]:
    """Fit a model and write its parameters."""
    config = bench.config.models[model]
    data = bench.encoded_for(config, progress)
    losses = TaskLosses(config, bench.tasks_of(config))
    built = build_model(bench, config, data, losses)
    train_visits = data.visits_of("train")
    check_visits(train_visits, "the training weeks have no exposures: move splits.train_end")
    report = fit(
        built,
        losses,
        data,
        config=config.fit,
        train_visits=train_visits,
        validation_visits=data.visits_of("validation"),
        boundaries_ms=bench.snapshot_moments_ms,
        progress=progress,
    )
    save_parameters(out / PARAMETERS_FILE, built)
    (out / FIT_FILE).write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))
    last = report.epochs[-1]
    return {
        "rows": len(data.rows_of(train_visits)),
        "parameters": count_parameters(built),
        "rows_per_second": round(last.rows_per_second),
        "best_epoch": report.best_epoch,
        "mixed_context_share": round(last.mixed_context_share, 4),
    }


def build_model(bench: Workbench, config: ModelConfig, data: EncodedData, losses: TaskLosses) -> CtrModel:
    """Build a model for the dataset, from its seed.

    Raises:
        ConfigError: the config names a feature or a task that the dataset lacks, or reads what no history holds.
    """
    known = {"embedding_widths": {f.name for f in bench.features}, "losses": {t.name for t in bench.tasks}}
    asked = {"embedding_widths": config.embedding_widths.keys(), "losses": config.losses.keys() - {"default"}}
    for key, names in asked.items():
        if unknown := sorted(names - known[key]):
            raise ConfigError(
                f"{key}.{unknown[0]}: the dataset has no such name; it has {', '.join(sorted(known[key]))}"
            )
    torch.manual_seed(config.fit.seed)
    built = CtrModel(
        config,
        features=data.features,
        item_ids=torch.from_numpy(data.item_ids),
        domains_count=len(data.domains),
        tasks_count=len(bench.tasks),
        logit_columns=losses.logit_columns,
    )
    limits = bench.config.history.limits
    for part, limit, count in (
        ("recents", "recents_max", limits.recents_max),
        ("behaviors", "behaviors_max", limits.behaviors_max),
    ):
        readers = [name for name, read in built.reads.items() if read == part]
        if readers and count == 0:
            raise ConfigError(f"history.limits.{limit} is 0: {readers[0]} would read nothing")
    return built


def check_visits(visits: I64, reason: str) -> None:
    """Refuse to fit on nothing.

    Raises:
        StageError: with the reason, where there are no visits.
    """
    if len(visits) == 0:
        raise StageError(reason)


def load_model(bench: Workbench, model: str, progress: Progress) -> CtrModel:
    """Return a trained model, ready to predict."""
    config = bench.config.models[model]
    built = build_model(
        bench, config, bench.encoded_for(config, progress), TaskLosses(config, bench.tasks_of(config))
    )
    with np.load(bench.done("train", model) / PARAMETERS_FILE, allow_pickle=False) as stored:
        built.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    built.eval()
    return built


def save_parameters(path: Path, model: CtrModel) -> None:
    """Write a model's parameters and statistics as plain arrays."""
    np.savez(path, **{name: value.numpy() for name, value in model.state_dict().items()})
