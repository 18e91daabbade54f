"""The study as a whole: what is fitted, what is read from other commands, and what is written.

<workspace>/study/            a folder for each fit, see `results`
config.results                rows of all systems: {name, library, seed, split, domain, task, auc, …}
config.page                   tables and plots
"""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from service.contract.files import write_atomically
from training.config import PipelineConfig
from training.errors import ConfigError
from training.progress import Progress
from training.stages.train import build_model
from training.study.config import StudyConfig
from training.study.display import Display
from training.study.fitting import FitPlan, Inputs, run_fit
from training.study.others import library_models, rivals
from training.study.results import is_current, read_result
from training.study.rows import rows_of
from training.study.schedule import Outcome, in_order, run_fits
from training.study.systems import System, rows_of_systems, system_of_fits
from training.task_losses import TaskLosses
from training.workbench import Workbench

STUDY_FOLDER = "study"
REPORT_FOLDER = "study_report"


def run_study(
    config: StudyConfig,
    pipeline: PipelineConfig,
    *,
    rows: Iterable[str] = (),
    report_only: bool = False,
    json: bool = False,
) -> Outcome:
    """Fit what is not fitted yet, then write results and the page from all that is there.

    Raises:
        ConfigError: a row that is asked for is none of the study, or makes no model.
        StageError: the pipeline has not run up to `cluster`.
    """
    import torch

    from training.report.study import write_page

    torch.set_num_threads(1)  # before anything is forked, and for all that is
    chosen = list(rows) or list(config.rows)
    if unknown := [name for name in chosen if name not in config.rows]:
        raise ConfigError(f"{unknown[0]!r} is no row; there are {', '.join(config.rows)}")
    inputs = make_inputs(Workbench(pipeline), Progress(stage="study", quiet=json))
    outcome = Outcome()
    if not report_only:
        outcome = fit_rows(config, inputs, chosen, json=json)
    systems = collect(config, inputs)
    write_results(config, pipeline, systems)
    write_page(config, inputs, systems, outcome, page=page_of(config, pipeline))
    return outcome


def make_inputs(bench: Workbench, progress: Progress) -> Inputs:
    """Read the dataset and lay out its histories, once for all fits."""
    data = bench.encoded(progress)
    bench.snapshot_moments_ms.sum()  # cached here: it reads tables, which a forked process must not
    identity = {
        "dataset": bench.dataset.spec.fingerprint,
        "cluster": _state_of(bench.done("cluster")),
        "features": bench.features_digest,
    }
    splits = {split: rows_of(bench, data, split) for split in ("validation", "test")}
    return Inputs(bench, data, splits, identity)


def fit_rows(config: StudyConfig, inputs: Inputs, names: list[str], *, json: bool) -> Outcome:
    """Run the fits of some rows that are not up to date."""
    plans = [plan_of(config, inputs, row, seed) for row, seed in in_order(config, names)]
    done = {plan.name: plan for plan in plans if is_done(plan, inputs)}
    known_s = {name: r.seconds for name, plan in done.items() if (r := read_result(plan.folder)) is not None}
    display = Display(total=len(plans), known_s=known_s, processes=config.processes, json=json)
    try:
        display.up_to_date(list(done))
        missing = [plan for plan in plans if plan.name not in done]
        if missing:
            check_rows(config, inputs, dict.fromkeys(plan.row for plan in missing))
            display.say(
                f"{len(missing)} fits within {config.budget_hours:g} hours, {config.processes} at a time"
            )
        gc.freeze()  # the collector would write to pages that are shared
        outcome = run_fits(
            missing,
            lambda plan, tell: run_fit(plan, inputs, tell),
            processes=config.processes,
            budget_s=config.budget_hours * 3600,
            display=display,
        )
        gc.unfreeze()
        if outcome.not_started:
            display.say(f"the budget is spent; not started: {', '.join(outcome.not_started)}")
    finally:
        display.close()
    return outcome


def check_rows(config: StudyConfig, inputs: Inputs, names: Iterable[str]) -> None:
    """Build the model of every row once, so that a mistake is found before hours have gone into the rows above it.

    Raises:
        ConfigError: with a line for each row that makes no model.
    """
    wrong: list[str] = []
    for name in names:
        model = config.model_of(name, config.rows[name].seeds[0])
        try:
            inputs.bench.domains_of(model)
            data = inputs.data.restricted_to(inputs.bench.features_of(model))
            built = build_model(inputs.bench, model, data, TaskLosses(model, inputs.bench.tasks_of(model)))
            if "behaviors" in built.reads.values() and inputs.bench.config.history.limits.behaviors_max == 0:
                raise ConfigError("it reads behaviors: the pipeline's history.limits.behaviors_max is 0")
        except (ConfigError, ValueError) as error:  # of options: pydantic's are ValueErrors
            wrong.append(f"  rows.{name}: {error}")
    if wrong:
        raise ConfigError("the study asks for what there is not:\n" + "\n".join(wrong))


def plan_of(config: StudyConfig, inputs: Inputs, row: str, seed: int) -> FitPlan:
    """Return the fit of a row with a seed."""
    folder = inputs.bench.folder(STUDY_FOLDER) / row / str(seed)
    return FitPlan(row, seed, config.model_of(row, seed), config.rows[row].per_domain, folder)


def is_done(plan: FitPlan, inputs: Inputs) -> bool:
    """Return whether a fit is finished, of this model and these inputs."""
    result = read_result(plan.folder)
    return result is not None and is_current(
        result, model=plan.model, per_domain=plan.per_domain, inputs=inputs.identity
    )


def collect(config: StudyConfig, inputs: Inputs) -> dict[str, System]:
    """Return all systems that were measured: rows of the study, then those of other commands."""
    systems: dict[str, System] = {}
    for name, row in config.rows.items():
        plans = [plan_of(config, inputs, name, seed) for seed in row.seeds]
        finished = [plan for plan in plans if is_done(plan, inputs)]
        if finished:
            systems[name] = system_of_fits(name, row, [plan.folder for plan in finished])
    found = [
        *rivals(inputs),
        *(library_models(inputs, config.public_libraries) if config.public_libraries else ()),
    ]
    for system in found:
        systems.setdefault(system.name, system)
    return systems


def write_results(config: StudyConfig, pipeline: PipelineConfig, systems: dict[str, System]) -> None:
    """Write the rows of all systems, one a line, with what is needed to read them later."""
    rows = rows_of_systems(systems.values())
    meta = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {config.processes} fits at a time",
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("numpy", "torch")}},
        "command": "python -m training study",
        "date": datetime.now(tz=UTC).date().isoformat(),
    }
    path = config.results or pipeline.workspace / REPORT_FOLDER / "study.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + orjson.dumps(row).decode() for row in rows)
    content = f'{{"meta": {orjson.dumps(meta).decode()},\n "rows": [\n{lines}\n]}}\n'
    write_atomically(path, content.encode())


def page_of(config: StudyConfig, pipeline: PipelineConfig) -> Path:
    """Return where tables and plots go."""
    return config.page or pipeline.workspace / REPORT_FOLDER / "study.md"


def _state_of(folder: Path) -> str:
    """Return what a finished stage was made from and what it made."""
    done: dict[str, Any] = orjson.loads((folder / "stage.json").read_bytes())
    return f"{done['key']}:{done.get('output', '')}"
