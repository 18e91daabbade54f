"""Runs the stages of a pipeline that are stale, each into a folder that appears whole or not at all.

A stage is stale if it has not run, or if its part of the config, or the key of a stage it reads, is another
than when it did. Knows nothing of what a stage does.
"""

from __future__ import annotations

import hashlib
import importlib
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from training.config import PipelineConfig
from training.errors import StageError
from training.progress import Progress
from training.workbench import Workbench

STAGE_FILE = "stage.json"
STAGES = ("prepare", "embed", "cluster", "train", "evaluate", "export", "verify", "publish")
PER_MODEL = ("train", "evaluate", "export", "verify")
FORMAT = 1  # of what the stages write: raise it when their output changes its form


@dataclass(frozen=True)
class Step:
    """One stage, of one model where it has one."""

    stage: str
    model: str | None = None

    @property
    def name(self) -> str:
        """Return `stage` or `stage/model`."""
        return f"{self.stage}/{self.model}" if self.model else self.stage


@dataclass(frozen=True)
class StepResult:
    """What a step did; `ran` is false where it was up to date."""

    step: Step
    ran: bool
    seconds: float
    peak_memory_mib: int
    summary: dict[str, Any]


def steps_of(config: PipelineConfig) -> tuple[Step, ...]:
    """Return all steps of a pipeline in the order in which they run."""
    steps: list[Step] = [Step("prepare"), Step("embed"), Step("cluster")]
    for model in config.models:
        steps += [Step(stage, model) for stage in PER_MODEL]
    return (*steps, Step("publish"))


def run_steps(
    config: PipelineConfig, steps: tuple[Step, ...], *, force: bool = False, quiet: bool = False
) -> Iterator[StepResult]:
    """Run steps in order, skipping those that are up to date, and yield what each did."""
    bench = Workbench(config)
    for step in steps:
        key = _key(bench, step)
        done = _read_done(bench.folder(step.stage, step.model))
        if done is not None and done["key"] == key and not force and step.stage != "publish":
            yield StepResult(step, False, done["seconds"], done["peak_memory_mib"], done["summary"])
            continue
        yield _run_step(bench, step, key, Progress(stage=step.name, quiet=quiet))


def _run_step(bench: Workbench, step: Step, key: str, progress: Progress) -> StepResult:
    target = bench.folder(step.stage, step.model)
    staging = target.parent / f".{target.name}.incoming"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    module = importlib.import_module(f"training.stages.{step.stage}")
    _reset_peak_memory()
    started = time.perf_counter()
    try:
        if step.stage == "prepare":
            summary = module.run(bench.config.dataset, staging, progress=progress)
        elif step.model:
            summary = module.run(bench, staging, progress, model=step.model)
        else:
            summary = module.run(bench, staging, progress)
        result = StepResult(step, True, round(time.perf_counter() - started, 2), _peak_memory_mib(), summary)
        record = {
            "stage": step.stage,
            "model": step.model,
            "key": key,
            "seconds": result.seconds,
            "peak_memory_mib": result.peak_memory_mib,
            "summary": summary,
            "needs": {need.name: _key_of_done(bench, need) for need in _needs(bench.config, step)},
            "config": _config_part(bench, step),
        }
        (staging / STAGE_FILE).write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2, default=str))
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return result


def _needs(config: PipelineConfig, step: Step) -> tuple[Step, ...]:
    """Return the steps whose output a step reads."""
    m = step.model
    return {
        "prepare": (),
        "embed": (Step("prepare"),),
        "cluster": (Step("prepare"), Step("embed")),
        "train": (Step("prepare"), Step("cluster")),
        "evaluate": (Step("train", m),),
        "export": (Step("train", m), Step("evaluate", m)),
        "verify": (Step("export", m),),
        "publish": tuple(Step("verify", model) for model in config.models),
    }[step.stage]


def _config_part(bench: Workbench, step: Step) -> dict[str, Any]:
    """Return what of the config a step depends on by itself."""
    config = bench.config
    vocabulary = config.vocabulary.model_dump(mode="json")
    history = config.history.model_dump(mode="json")
    publish = config.publish.model_dump(mode="json")
    parts: dict[str, dict[str, Any]] = {
        "prepare": {"dataset": config.dataset, "files": _state_of_files(config.dataset.get("path"))},
        "embed": {
            "embed": config.embed.model_dump(mode="json"),
            "history": history,
            "vocabulary": vocabulary,
        },
        "cluster": {"history": history},
        "train": {"vocabulary": vocabulary},
        "evaluate": {},
        "export": {"catalogue": [publish["registry"], publish["catalogue"]]},
        "verify": {"rows": config.verify_rows, "publish": publish},
        "publish": {"publish": publish},
    }
    if step.model is not None:
        parts["train"]["model"] = config.models[step.model].model_dump(mode="json")
    return parts[step.stage]


def _state_of_files(path: object) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of a source's own files, so that new logs make `prepare` stale."""
    if not isinstance(path, str):
        return []
    root = Path(path) if Path(path).is_dir() else Path(path).parent
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return [(p.relative_to(root).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _key(bench: Workbench, step: Step) -> str:
    """Return the key of a step: the hash of its config and of the keys of what it reads."""
    part = {
        "format": FORMAT,
        "step": step.name,
        "config": _config_part(bench, step),
        "needs": [_key_of_done(bench, need) for need in _needs(bench.config, step)],
        "catalogue": _catalogue_state(bench) if step.stage in ("export", "verify") else None,
    }
    return hashlib.sha256(orjson.dumps(part, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:32]


def _catalogue_state(bench: Workbench) -> str:
    """Return the state of the catalogue that an export appends to, so that one that grew makes it stale."""
    return bench.catalogue.ref().sha256


def _key_of_done(bench: Workbench, step: Step) -> str:
    done = _read_done(bench.folder(step.stage, step.model))
    if done is None:
        raise StageError(f"stage {step.name!r} has not run: run it first, or `run` for all of them")
    return str(done["key"])


def _read_done(folder: Path) -> dict[str, Any] | None:
    try:
        done: dict[str, Any] = orjson.loads((folder / STAGE_FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return done


def _reset_peak_memory() -> None:
    """Let the kernel count the peak from here on, where it can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory_mib() -> int:
    """Return the peak resident memory since the reset; elsewhere than on Linux, of the process's whole life."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024
    except (OSError, IndexError):
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) // 1024
