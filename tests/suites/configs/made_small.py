"""Every model of every config of the configs folder, as it is there but for the data and how long it is fitted.

The data are six households of Complete Journey, and an epoch is a few steps. Rows of a study are models too.
Models of one graph (they differ in their loss or how they are fitted, or stand in two configs) share one run of
the stages; the others of that graph are only trained.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
import yaml

from service.contract.manifest import TaskSpec
from service.models.live import load_model
from tests.support.pipelines import changed, run
from training.config import ModelConfig, PipelineConfig, load_config
from training.data.sources.complete_journey import TASKS
from training.fit import TaskLosses
from training.pipeline import PER_MODEL, Step
from training.stages.train import PARAMETERS_FILE
from training.study.config import load_study
from training.workbench import Workbench

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
DATASET = {"source": "complete_journey", "households": 6, "negatives_per_request": 1, "seed": 1}
FIT = {"epochs": 1, "batch_rows": 512}
VERIFY_ROWS = 1_000
SHARED_STAGES = ("prepare", "embed", "cluster")


@dataclass(frozen=True)
class Case:
    """A model of a config: of a pipeline, or a row of a study."""

    config: str
    model: str

    def __str__(self) -> str:
        return f"{self.config}:{self.model}"


@dataclass(frozen=True)
class Trained:
    """What training alone wrote: the shapes of all parameters and statistics."""

    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sealed(Trained):
    """What the stages wrote, and how the service names the model that it loaded."""

    label: str
    backbone: str
    domains: tuple[str, ...]
    rows_count: int
    logit_difference_max: float
    logit_difference_limit: float


@cache
def small_configs() -> dict[str, PipelineConfig]:
    """Return all configs by name, small; a study as a pipeline with a model for each row."""
    found: dict[str, PipelineConfig] = {}
    for path in CONFIGS:
        if "pipeline" in yaml.safe_load(path.read_text()):
            study, pipeline = load_study(path)
            models = {name: study.model_of(name, row.seeds[0]) for name, row in study.rows.items()}
            per_domain = [name for name, row in study.rows.items() if row.per_domain]
        else:
            pipeline = load_config(path)
            models, per_domain = dict(pipeline.models), []
        small = {name: _small(model) for name, model in models.items()}
        for name in per_domain:
            small[name]["domains"] = ["mailer"]  # its models differ in nothing else
        found[path.stem] = changed(
            pipeline,
            {
                "dataset": DATASET,
                "embed": _small(pipeline.embed),
                "models": small,
                "verify_rows": VERIFY_ROWS,
                "publish.store": "memory://",
            },
        )
    return found


def _small(model: ModelConfig) -> dict[str, Any]:
    content = model.model_dump(mode="json")
    content["fit"] |= FIT
    return content


def cases_by_graph() -> list[list[Case]]:
    """Return all models, those of one served graph together."""
    found: dict[bytes, list[Case]] = {}
    for name, config in small_configs().items():
        for model in config.models:
            found.setdefault(_graph(config, config.models[model]), []).append(Case(name, model))
    return list(found.values())


def _graph(config: PipelineConfig, model: ModelConfig) -> bytes:
    """Return all that a served graph follows from: everything but the values of the parameters."""
    content = model.model_dump(mode="json", exclude={"fit", "losses"})
    columns = TaskLosses(model, [TaskSpec(name=task.name, given=task.given) for task in TASKS]).logit_columns
    around = config.model_dump(mode="json", include={"history", "statistics", "vocabulary"})
    return orjson.dumps([content, columns, around], option=orjson.OPT_SORT_KEYS)


def lay_out(folder: Path, names: list[str]) -> dict[str, PipelineConfig]:
    """Return some configs in workspaces where all that models share has run; equal stages run once."""
    placed: dict[str, PipelineConfig] = {}
    for name in names:
        workspace = folder / name
        config = changed(small_configs()[name], {"workspace": str(workspace)})
        twins = [c for c in placed.values() if (c.embed, c.history) == (config.embed, config.history)]
        for source in (twins or list(placed.values()))[:1]:
            for stage in SHARED_STAGES:
                shutil.copytree(source.workspace / stage, workspace / stage)
        run(config, *map(Step, SHARED_STAGES))
        placed[name] = config
    return placed


def train_or_seal(config: PipelineConfig, model: str, registry: Path, *, seal: bool) -> Trained:
    """Run the stages of one model and load it as the service does, or train it only. Runs in a process of its own."""
    torch.set_num_threads(1)
    changes = {
        "publish.registry": str(registry),
        "models": {model: config.models[model].model_dump(mode="json")},
    }
    config = changed(config, changes)
    if not seal:
        run(config, Step("train", model))
        return Trained(_shapes(config, model))
    run(config, *(Step(stage, model) for stage in PER_MODEL), Step("publish"))
    live = load_model(registry, model, {})
    return Sealed(
        _shapes(config, model),
        label=live.label,
        backbone=live.manifest.backbone,
        domains=live.manifest.domains,
        rows_count=live.manifest.parity.rows_count,
        logit_difference_max=live.manifest.parity.logit_difference_max,
        logit_difference_limit=live.manifest.parity.logit_difference_limit,
    )


def _shapes(config: PipelineConfig, model: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a trained model's arrays; all of them are finite."""
    with np.load(Workbench(config).done("train", model) / PARAMETERS_FILE, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    broken = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    assert not broken, f"not finite: {broken}"
    return {name: values.shape for name, values in arrays.items()}
