"""evaluate: natural metrics of one trained model per domain and task, on validation and test weeks.

metrics.json                    rows with `split` and `weighting`, natural or sampled
reliability.png                 predicted against observed on the test weeks
activity.json, activity.png     natural calibration on the test weeks by decile of users' behaviors before them
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import orjson

from training.data.encoded import EncodedData
from training.fit import predict, probabilities
from training.metrics.activity import by_activity
from training.metrics.evaluate import MetricsRow, evaluate
from training.metrics.natural import natural_weights
from training.progress import Progress
from training.report.activity import behaviors_before, plot_activity
from training.report.reliability import plot_reliability
from training.stages.train import load_model
from training.workbench import Workbench

METRICS_FILE = "metrics.json"
ACTIVITY_FILE = "activity.json"


def run(bench: Workbench, out: Path, progress: Progress, *, model: str) -> dict[str, object]:
    """Evaluate a model."""
    config = bench.config.models[model]
    data, tasks = bench.encoded_for(config, progress), bench.tasks_of(config)
    trained = load_model(bench, model, progress)
    written: list[dict[str, object]] = []
    summary: dict[str, object] = {}
    for split in ("validation", "test"):
        visits = data.visits_of(split)
        with progress.task(f"score {split}", total=len(data.rows_of(visits))) as advance:
            p = probabilities(predict(trained, data, visits, advance=advance), tasks)
        for weighting in ("natural", "sampled"):
            rows = metrics_of(bench, data, visits, p, natural=weighting == "natural")
            written += [{"split": split, "weighting": weighting, **asdict(row)} for row in rows]
            if split == "test" and weighting == "natural":
                summary = {"rows": rows[0].rows_count, "auc": rows[0].auc, "gauc": rows[0].gauc}
                plot_reliability(out, bench, data, visits, p)
                _write_activity(out, bench, data, visits, p)
    (out / METRICS_FILE).write_bytes(orjson.dumps(written, option=orjson.OPT_INDENT_2))
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in summary.items()}


def metrics_of(
    bench: Workbench,
    data: EncodedData,
    visits: np.ndarray[tuple[int], np.dtype[np.int64]],
    p: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    *,
    natural: bool,
) -> list[MetricsRow]:
    """Return the metrics of probabilities (B, T) for the rows of some visits."""
    rows = data.rows_of(visits)
    requests = data.row_request[rows]
    labels = data.labels[rows]
    weights = natural_weights(labels[:, 0], data.keep_probability[rows]) if natural else np.ones(len(rows))
    return evaluate(
        labels,
        p,
        weights,
        users=data.visit_user[data.request_visit[requests]],
        requests=requests,
        domains=data.domain[requests],
        domain_names=data.domains,
        task_names=[task.name for task in bench.tasks],
    )


def _write_activity(
    out: Path,
    bench: Workbench,
    data: EncodedData,
    visits: np.ndarray[tuple[int], np.dtype[np.int64]],
    p: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    """Write calibration by decile of users' activity: the behaviors that they had before the test weeks."""
    rows = data.rows_of(visits)
    requests = data.row_request[rows]
    users = data.visit_user[data.request_visit[requests]]
    activity = behaviors_before(bench.dataset, data.users, bench.dataset.spec.splits.validation_end_ms)
    found = by_activity(
        data.labels[rows],
        p,
        natural_weights(data.labels[rows, 0], data.keep_probability[rows]),
        users=users,
        activity=activity[users],
        domains=data.domain[requests],
        domain_names=data.domains,
        task_names=[task.name for task in bench.tasks],
    )
    (out / ACTIVITY_FILE).write_bytes(orjson.dumps([asdict(row) for row in found]))
    plot_activity(out / "activity.png", {"model": found}, task=bench.tasks[0].name, domain_names=data.domains)
