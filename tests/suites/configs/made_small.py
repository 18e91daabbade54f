"""Every model of every config of the configs folder, as it is there but for the data and how long it is fitted.

The data are four households of Complete Journey, and an epoch is a few steps. Rows of a study are models too.

Exporting takes seconds, most of them torch's own. So of the pipelines' models that have one graph (they differ in
their loss, say) the first is sealed, by the real stages; the others, and the rows of a study, are trained by the
real stage and compared with their served forms in torch. What ONNX Runtime makes of each module, `suites/models` asks.
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
from service.models.live import load_model as load_live
from tests.suites.models.built import furthest, item_tables, searched_inputs
from tests.support.pipelines import changed, run
from training.config import ModelConfig, PipelineConfig, load_config
from training.data.sources.complete_journey import TASKS
from training.export.parity import draw_cases, reference_logits
from training.export.served_scorer import ServedScorer
from training.pipeline import PER_MODEL, Step
from training.progress import Progress
from training.stages.train import load_model
from training.study.config import load_study
from training.task_losses import TaskLosses
from training.workbench import Workbench

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
DATASET = {"source": "complete_journey", "households": 4, "negatives_per_request": 1, "seed": 4}
FIT = {"epochs": 1, "batch_rows": 512}
VERIFY_ROWS = 500
CANDIDATES_COUNT = 7
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
    """How far the logits of the served form are from those of the model that was trained, both in torch."""

    logit_difference_max: float


@dataclass(frozen=True)
class Sealed:
    """What the service says of the model that it loaded."""

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
        if is_study(path.stem):
            study, pipeline = load_study(path)
            models = {name: study.model_of(name, row.seeds[0]) for name, row in study.rows.items()}
            per_domain = [name for name, row in study.rows.items() if row.per_domain]
        else:
            pipeline = load_config(path)
            models, per_domain = dict(pipeline.models), []
        small = {name: _small(model) for name, model in models.items()}
        for name in per_domain:
            small[name]["domains"] = ["mailer"]  # its models differ in nothing else
        changes = {"dataset": DATASET, "embed": _small(pipeline.embed), "models": small}
        found[path.stem] = changed(
            pipeline, changes | {"verify_rows": VERIFY_ROWS, "publish.store": "memory://"}
        )
    return found


def is_study(config: str) -> bool:
    """Return whether a config of the folder is a study's; a pipeline's has no pipeline."""
    path = next(path for path in CONFIGS if path.stem == config)
    return "pipeline" in yaml.safe_load(path.read_text())


def _small(model: ModelConfig) -> dict[str, Any]:
    content = model.model_dump(mode="json")
    content["fit"] |= FIT
    return content


def sealed_and_others() -> tuple[list[Case], list[Case]]:
    """Return the models that are sealed, one a graph, and the others."""
    sealed: dict[bytes, Case] = {}
    others: list[Case] = []
    for name, config in small_configs().items():
        for model in config.models:
            case = Case(name, model)
            if is_study(name) or sealed.setdefault(_graph(config, config.models[model]), case) != case:
                others.append(case)
    return list(sealed.values()), others


def _graph(config: PipelineConfig, model: ModelConfig) -> bytes:
    """Return all that a served graph follows from, but the values of the parameters."""
    content = model.model_dump(mode="json", exclude={"fit", "losses", "entire_space"})
    tasks = [TaskSpec(name=task.name, given=task.given) for task in TASKS]
    direct = [model.entire_space_of(task.name) == "direct" for task in tasks]
    around = config.model_dump(mode="json", include={"history", "statistics", "vocabulary"})
    parts = [content, TaskLosses(model, tasks).logit_columns, direct, around]
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)


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


def seal(config: PipelineConfig, model: str) -> Sealed:
    """Run all stages of one model, publish it, and load it as the service does."""
    torch.set_num_threads(1)  # this runs in a process of its own
    config = _alone(config, model)
    run(config, *(Step(stage, model) for stage in PER_MODEL), Step("publish"))
    live = load_live(config.publish.registry, model, {})
    return Sealed(
        label=live.label,
        backbone=live.manifest.backbone,
        domains=live.manifest.domains,
        rows_count=live.manifest.parity.rows_count,
        logit_difference_max=live.manifest.parity.logit_difference_max,
        logit_difference_limit=live.manifest.parity.logit_difference_limit,
    )


def train(config: PipelineConfig, model: str) -> Trained:
    """Train one model, and compare it with its served form on requests of all domains."""
    torch.set_num_threads(1)
    config = _alone(config, model)
    run(config, Step("train", model))
    bench, quiet = Workbench(config), Progress(quiet=True)
    chosen = config.models[model]
    data = bench.encoded_for(chosen, quiet)
    trained = load_model(bench, model, quiet)
    scorer = ServedScorer(trained, bench.tasks_of(chosen), len(data.domains)).eval()
    tables = item_tables(scorer.item_tables(trained, data.features))
    cases = draw_cases(data, rows_min=1, rng=np.random.default_rng(3))
    few = [case for case in cases if len(case.rows) == CANDIDATES_COUNT]
    with torch.inference_mode():
        pairs = (
            (
                scorer(**searched_inputs(scorer, data, tables, case))[0].numpy(),
                reference_logits(trained, data, case),
            )
            for case in few
        )
        return Trained(furthest(pairs))


def _alone(config: PipelineConfig, model: str) -> PipelineConfig:
    """Return a config of one of its models, with a registry of its own: others may be made at the same time."""
    registry = config.workspace / "registries" / model
    content = config.models[model].model_dump(mode="json")
    return changed(config, {"publish.registry": str(registry), "models": {model: content}})
