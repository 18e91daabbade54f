"""Pipelines for tests: one that has run over the synthetic logs, copies of it, and one of stages that only write."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from training.config import PipelineConfig
from training.pipeline import STAGES, Step, StepResult, run_steps, steps_of

WRITTEN_FILE = "written.txt"


def changed(config: PipelineConfig, changes: dict[str, Any]) -> PipelineConfig:
    """Return a config with some values replaced, each named by its dotted path."""
    content = config.model_dump(mode="json")
    for path, value in changes.items():
        *folders, last = path.split(".")
        place = content
        for folder in folders:
            place = place[folder]
        place[last] = value
    return PipelineConfig.model_validate(content)


def copied(config: PipelineConfig, folder: Path, **publish: Any) -> PipelineConfig:
    """Return a finished pipeline's config over a copy of its workspace; registry and store are new ones."""
    for stage in STAGES:
        if (config.workspace / stage).is_dir():
            shutil.copytree(config.workspace / stage, folder / "workspace" / stage)
    target = {"registry": str(folder / "registry"), "store": f"embedded://{folder}/store", **publish}
    own = {"workspace": str(folder / "workspace")}
    return changed(config, own | {f"publish.{name}": value for name, value in target.items()})


def run(config: PipelineConfig, *steps: Step, force: bool = False) -> list[StepResult]:
    """Run steps, all where none is named, and return what each did."""
    return list(run_steps(config, steps or steps_of(config), force=force, quiet=True))


def names_of_ran(results: list[StepResult]) -> list[str]:
    """Return the names of the steps that were not up to date."""
    return [result.step.name for result in results if result.ran]


@contextmanager
def written_stages(
    fail: Callable[[Step], None] = lambda step: None, content: Callable[[Step], str] = lambda step: step.name
) -> Iterator[None]:
    """Replace all stages but `prepare` by ones that write a file and, where told, fail after it."""

    def stage_module(stage: str) -> ModuleType:
        def run_stage(bench: Any, out: Path, progress: Any, *, model: str | None = None) -> dict[str, object]:
            step = Step(stage, model)
            if stage != "publish":  # which writes to registry and store
                (out / WRITTEN_FILE).write_text(content(step))
            fail(step)
            return {"files": 1}

        module = ModuleType(f"training.stages.{stage}")
        module.run = run_stage  # type: ignore[attr-defined]
        return module

    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            if stage != "prepare":
                patch.setitem(sys.modules, f"training.stages.{stage}", stage_module(stage))
        yield
