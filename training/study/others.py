"""Systems that other commands measured on the very same rows: the rivals, and models of public libraries.

    <workspace>/rivals/<name>.npy       probabilities of the first task, a row for each exposure of the dataset in
                                        its order, NaN where it was not scored
    <workspace>/rivals/<name>.json      {"library", "fingerprint", "features" where it read the models' features, and
                                        where known "label", "seconds", "parameters", "train_samples_per_s"}

    <workspace>/public_libraries/<library>-<name>-<seed>.npy    probabilities of the test rows, in the same order,
    with a file of results that has their rows in the form of the study's own

All test rows are measured here, by the functions that measure the rows of the study. What was made from another
dataset or from other features is passed over: its fingerprint or digest differs, its number of rows, or its log-loss
is not the one in its results.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from training.metrics.evaluate import ALL_DOMAINS
from training.study.fitting import Inputs
from training.study.results import DRAWS_FILE, read_draws, write_draws
from training.study.rows import F32, SplitRows, drawn, measured
from training.study.systems import Seeded, System

RIVALS_FOLDER: Final = "rivals"
LIBRARIES_FOLDER: Final = "public_libraries"
CACHE_FOLDER: Final = "study/.others"
LOG_LOSS_TOLERANCE: Final = 1e-5
"""Relative: single against double precision."""


def rivals(inputs: Inputs) -> Iterator[System]:
    """Yield the rivals that were made from this dataset."""
    task = inputs.splits["test"].task_names[0]
    for path in sorted((inputs.bench.config.workspace / RIVALS_FOLDER).glob("*.npy")):
        try:
            about: dict[str, Any] = orjson.loads(path.with_suffix(".json").read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        features = about.get("features")
        if about.get("fingerprint") != inputs.bench.dataset.spec.fingerprint or features not in (
            None,
            inputs.bench.features_digest,
        ):
            continue
        every = np.load(path, mmap_mode="r", allow_pickle=False)
        scored = {split: _column(every[rows.rows]) for split, rows in inputs.splits.items()}
        one = _seeded(path.stem, 1, scored, [], about, inputs)
        yield System(path.stem, about.get("label", path.stem), "rival", about["library"], (one,), task=task)


def library_models(inputs: Inputs, results: Path) -> Iterator[System]:
    """Yield the models of public libraries whose probabilities are there and are those of a file of results."""
    folder = inputs.bench.config.workspace / LIBRARIES_FOLDER
    test = inputs.splits["test"]
    found: dict[tuple[str, str], list[Seeded]] = {}
    for (library, name, seed), rows in by_fit(read_rows(results)).items():
        path = folder / f"{library}-{name}-{seed}.npy"
        if not path.is_file():
            continue
        p = _column(np.load(path, mmap_mode="r", allow_pickle=False))
        whole = [row for row in rows if (row["split"], row["domain"]) == ("test", ALL_DOMAINS)]
        if rows[0].get("features") != inputs.bench.features_digest:
            continue
        if len(p) != len(test.labels) or not whole or not _is_of(p, whole[0], test):
            continue
        validation = [row for row in rows if row["split"] == "validation"]
        one = _seeded(f"{library}-{name}", seed, {"test": p}, validation, rows[0], inputs)
        found.setdefault((library, name), []).append(one)
    for (library, name), seeds in found.items():
        key, label = f"{library}-{name}", f"{name} ({library})"
        yield System(key, label, "public library", library, tuple(seeds), task=test.task_names[0], model=name)


def read_rows(results: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of results, none where there is no file."""
    if not results.is_file():
        return []
    rows: list[dict[str, Any]] = orjson.loads(results.read_bytes())["rows"]
    return rows


def by_fit(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Return rows by library, name and seed."""
    out: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        out.setdefault((row["library"], row["name"], int(row["seed"])), []).append(row)
    return out


def _seeded(
    name: str,
    seed: int,
    scored: dict[str, F32],
    metrics: list[dict[str, Any]],
    about: dict[str, Any],
    inputs: Inputs,
) -> Seeded:
    """Measure probabilities; what takes long is kept in the workspace under the hash of what it is of."""
    digest = hashlib.sha256(scored["test"].tobytes()).hexdigest()[:16]
    cache = inputs.bench.config.workspace / CACHE_FOLDER / name / digest
    cache.mkdir(parents=True, exist_ok=True)
    files = {split: cache / f"{split}.npy" for split in scored}
    for split, p in scored.items():
        np.save(files[split], p)
        metrics = metrics + measured(inputs.splits[split], p)
    if not (cache / DRAWS_FILE).is_file():
        write_draws(cache / DRAWS_FILE, drawn(inputs.splits["test"], scored["test"]))
    return Seeded(
        seed=seed,
        metrics=tuple(metrics),
        drawn=read_draws(cache / DRAWS_FILE),
        probability_files=files,
        parameters=about.get("parameters"),
        train_samples_per_s=about.get("train_samples_per_s"),
        seconds=about.get("seconds"),
    )


def _column(stored: np.ndarray[Any, np.dtype[Any]]) -> F32:
    return np.ascontiguousarray(stored, np.float32).reshape(len(stored), -1)


def _is_of(p: F32, row: dict[str, Any], test: SplitRows) -> bool:
    """Return whether probabilities of the test rows have the log-loss that their results tell."""
    value = measured(test, p)[0]["log_loss"]
    return value is not None and math.isclose(value, row["log_loss"], rel_tol=LOG_LOSS_TOLERANCE)
