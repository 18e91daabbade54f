"""Runs the stages of a pipeline that are stale, each into a folder that appears whole or not at all.

A stage is stale if it has not run, if its part of the config changed since, or if a stage that it reads was made
from something else or made something else. Knows nothing of what a stage does.
"""

from __future__ import annotations

import hashlib
import importlib
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from service.contract.manifest import FORMAT_VERSION
from training.config import PipelineConfig, check_plugins
from training.errors import StageError
from training.files import output_id, sizes_bytes, state_of_logs
from training.progress import Progress
from training.workbench import Workbench

STAGE_FILE = "stage.json"
STAGES = ("prepare", "embed", "cluster", "train", "evaluate", "export", "verify", "publish")
PER_MODEL = ("train", "evaluate", "export", "verify")
FORMAT = 3
"""Of what the stages write: raise it when their output changes its form. An artefact has a format of its own."""


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
    """Run steps in order, skipping those that are up to date, and yield what each did.

    Raises:
        ConfigError: before any step, the config asks for plug-ins or options that there are not. Not checked
            where only `publish` runs, which uses none and loads no torch.
        StageError: what a step reads was never made, or was made with another config.
    """
    if any(step.stage != "publish" for step in steps):
        check_plugins(config)
    bench = Workbench(config)
    current: set[Step] = set()
    for step in steps:
        if step.stage != "publish":  # which reads verified artefacts, wherever they were made
            _check_needs(bench, step, current)
        current.add(step)
        key = _key(bench, step)
        done = _read_done(bench.folder(step.stage, step.model))
        if done is not None and done["key"] == key and not force and step.stage != "publish":
            yield StepResult(step, False, done["seconds"], done["peak_memory_mib"], done["summary"])
            continue
        yield _run_step(bench, step, key, Progress(stage=step.name, quiet=quiet))


def _run_step(bench: Workbench, step: Step, key: str, progress: Progress) -> StepResult:
    if step.stage == "publish":  # writes to registry and store; the workspace may be read-only
        return _measure(bench, step, bench.config.workspace, progress)
    target = bench.folder(step.stage, step.model)
    staging, old = (target.parent / f".{target.name}.{state}" for state in ("incoming", "outgoing"))
    for left_over in (staging, old):
        shutil.rmtree(left_over, ignore_errors=True)
    staging.mkdir(parents=True)
    needs = {need.name: _state_of_done(bench, need) for need in _needs(bench.config, step)}
    part = _config_part(bench, step)
    try:
        result = _measure(bench, step, staging, progress)
        record = {
            "stage": step.stage,
            "model": step.model,
            "key": key,
            "output": output_id(staging),
            "seconds": result.seconds,
            "peak_memory_mib": result.peak_memory_mib,
            "summary": result.summary,
            "needs": needs,
            "config": part,
            "files": sizes_bytes(staging, without=STAGE_FILE),
        }
        (staging / STAGE_FILE).write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2, default=str))
        if target.exists():
            target.rename(old)  # whole: a folder half deleted would still say that it is done
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return result


def _measure(bench: Workbench, step: Step, out: Path, progress: Progress) -> StepResult:
    """Run a stage into a folder; return what it did, and what that took."""
    module = importlib.import_module(f"training.stages.{step.stage}")
    _reset_peak_memory()
    started = time.perf_counter()
    if step.stage == "prepare":
        summary = module.run(bench.config.dataset, out, progress=progress)
    elif step.model:
        summary = module.run(bench, out, progress, model=step.model)
    else:
        summary = module.run(bench, out, progress)
    return StepResult(step, True, round(time.perf_counter() - started, 2), _peak_memory_mib(), summary)


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
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "prepare": lambda: {
            "dataset": config.dataset,
            "files": state_of_logs(config.dataset.get("path"), without=_own_folders(config)),
        },
        "embed": lambda: {
            "embed": config.embed.model_dump(mode="json"),
            "history": config.history.model_dump(mode="json"),
            "vocabulary": config.vocabulary.model_dump(mode="json"),
            **_chosen_statistics(config),
        },
        "cluster": lambda: {"history": config.history.model_dump(mode="json")},
        "train": lambda: {
            "model": config.models[str(step.model)].model_dump(mode="json"),
            "features": bench.features_digest,
        },
        "evaluate": dict,
        "export": lambda: {"catalogue": config.publish.catalogue, "variants": config.export.variants},
        "verify": lambda: {
            "rows": config.verify_rows,
            "variant_rows": config.export.variant_rows,
            "snapshot_line": config.publish.snapshot_line,
        },
        "publish": lambda: {"publish": config.publish.model_dump(mode="json")},
    }
    return parts[step.stage]()


def _chosen_statistics(config: PipelineConfig) -> dict[str, Any]:
    """Return what of the statistics the config asks for; those as usual are not named."""
    statistics = config.statistics.model_dump(mode="json", exclude_defaults=True)
    return {"statistics": statistics} if statistics else {}


def _own_folders(config: PipelineConfig) -> set[Path]:
    """Return the folders that a pipeline writes; a workspace may lie beside the logs."""
    own = {config.workspace / stage for stage in STAGES} | {config.publish.registry}
    store = urlsplit(config.publish.store)
    if store.scheme == "embedded":
        own.add(Path(unquote(store.netloc + store.path)))
    return own


def _check_needs(bench: Workbench, step: Step, current: set[Step]) -> None:
    """Refuse to run a step alone on what was made with another config, or of other logs, than there are now.

    Steps found to be up to date join `current`, whose steps are not looked at.
    """
    for need in _needs(bench.config, step):
        if need in current:
            continue
        done = _done(bench, need)
        _check_needs(bench, need, current)
        current.add(need)
        if _key(bench, need) != done["key"]:
            raise StageError(
                f"stage {need.name!r} is out of date: run it before {step.name!r}, or `run` for all of them"
            )


def _key(bench: Workbench, step: Step) -> str:
    """Return the key of a step: the hash of its config and of the state of what it reads."""
    part: dict[str, object] = {
        "format": FORMAT,
        "step": step.name,
        "config": _config_part(bench, step),
        "needs": [_state_of_done(bench, need) for need in _needs(bench.config, step)],
        "catalogue": _catalogue_state(bench) if step.stage in ("export", "verify") else None,
    }
    if step.stage in ("export", "verify"):
        part["artefact_format"] = FORMAT_VERSION
    return hashlib.sha256(orjson.dumps(part, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:32]


def _catalogue_state(bench: Workbench) -> str:
    """Return the state of the catalogue that an export appends to, so that one that grew makes it stale."""
    return bench.catalogue.ref().sha256


def _state_of_done(bench: Workbench, step: Step) -> str:
    """Return what a finished step was made from and what it made: a forced run may make something else."""
    done = _done(bench, step)
    return f"{done['key']}:{done['output']}"


def _done(bench: Workbench, step: Step) -> dict[str, Any]:
    done = _read_done(bench.folder(step.stage, step.model))
    if done is None:
        raise StageError(f"stage {step.name!r} has not run: run it first, or `run` for all of them")
    return done


def _read_done(folder: Path) -> dict[str, Any] | None:
    """Return what a step that is done says of itself, None where it is not, or a file of it is gone."""
    try:
        done: dict[str, Any] = orjson.loads((folder / STAGE_FILE).read_bytes())
        sizes = sizes_bytes(folder, without=STAGE_FILE)
        whole = all(sizes.get(name) == size for name, size in done["files"].items()) and "output" in done
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return done if whole else None


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
