"""Systems that other commands measured on the very same rows: the rival, popularity, public libraries.

    <workspace>/rivals/<name>.npy               probabilities of the first task, float32
    <workspace>/rivals/<name>.json              {"library", "fingerprint", and where known "label", "seed",
                                                 "parameters", "train_samples_per_s", "seconds"}
    <workspace>/public_libraries/<name>.npy     and .json, likewise

The array has a row for each exposure of the dataset in its order, NaN where it was not scored (training rows), or
has the test rows alone; it may have a column a task. All is measured here, by the functions that measure the rows
of the study. A file without its description, or made from another dataset, is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from training.study.fitting import Inputs
from training.study.results import SPLIT_FILES, read_draws, write_draws
from training.study.rows import F32, drawn, measured
from training.study.systems import Seeded, System

FOLDERS: Final = {"rivals": "rival", "public_libraries": "public library"}
CACHE_FOLDER: Final = "study/.others"


def other_systems(inputs: Inputs) -> Iterator[System]:
    """Yield the systems that other commands measured."""
    workspace = inputs.bench.config.workspace
    for folder, group in FOLDERS.items():
        for path in sorted((workspace / folder).glob("*.npy")):
            try:
                about: dict[str, Any] = orjson.loads(path.with_suffix(".json").read_bytes())
            except (OSError, orjson.JSONDecodeError):
                continue
            if about.get("fingerprint") != inputs.bench.dataset.spec.fingerprint:
                continue
            system = _system(path, about, group, inputs)
            if system is not None:
                yield system


def _system(path: Path, about: dict[str, Any], group: str, inputs: Inputs) -> System | None:
    cache = inputs.bench.config.workspace / CACHE_FOLDER / path.stem / _digest(path)
    cache.mkdir(parents=True, exist_ok=True)
    metrics: list[dict[str, Any]] = []
    files: dict[str, Path] = {}
    for split, rows in inputs.splits.items():
        p = _scored(np.load(path, mmap_mode="r", allow_pickle=False), split, inputs)
        if p is None:
            continue
        files[split] = cache / SPLIT_FILES[split]
        np.save(files[split], p)
        metrics += measured(rows, p)
        if split == "test" and not (cache / "draws.npz").is_file():
            write_draws(cache / "draws.npz", drawn(rows, p))
    if "test" not in files:
        return None
    one = Seeded(
        seed=int(about.get("seed", 1)),
        metrics=tuple(metrics),
        drawn=read_draws(cache / "draws.npz"),
        probability_files=files,
        parameters=about.get("parameters"),
        train_samples_per_s=about.get("train_samples_per_s"),
        seconds=about.get("seconds"),
    )
    task = inputs.splits["test"].task_names[0]
    return System(path.stem, about.get("label", path.stem), group, about["library"], (one,), task=task)


def _scored(stored: F32, split: str, inputs: Inputs) -> F32 | None:
    """Return the probabilities (B, T) of a split's rows, None where some were not scored."""
    rows = inputs.splits[split].rows
    columns = stored.reshape(len(stored), -1)
    if len(columns) == len(inputs.data.item):
        chosen = np.asarray(columns[rows], np.float32)
    elif len(columns) == len(rows) and split == "test":
        chosen = np.asarray(columns, np.float32)
    else:
        return None
    return None if np.isnan(chosen).any() else chosen


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
