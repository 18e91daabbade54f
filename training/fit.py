"""Fitting a model and predicting with it. Knows nothing of files and of how a model is made."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from service.contract.features import Side
from service.contract.history import AGE_BUCKETS, F32, I64, STRENGTH_BUCKETS
from service.contract.manifest import TaskSpec
from training.calibration import CalibrationRows
from training.config import FitConfig
from training.data.batch import Batch
from training.data.batches import BatchBuilder
from training.data.encoded import EncodedData, ranges
from training.errors import StageError
from training.losses.jrc import mixed_context_share
from training.metrics.natural import log_loss, natural_weights
from training.model import CtrModel, parameters_by_kind
from training.optim import AUXILIARY, build_optimizer
from training.progress import Progress
from training.task_losses import TaskLosses

EVALUATION_BATCH_ROWS = 8192
CURVE_POINTS = 10


@dataclass
class EpochReport:
    """What one epoch was like. `losses` are means of the optimized loss per task."""

    epoch: int
    seconds: float
    rows_per_second: float
    losses: dict[str, float]
    mixed_context_share: float
    validation_log_loss: float


@dataclass
class FitReport:
    """What a whole fit was like; `best_epoch` is the one whose parameters were kept.

    curve: validation log-loss on the way, as (epochs done, log-loss); empty where nobody asked for it.
    """

    epochs: list[EpochReport] = field(default_factory=list)
    best_epoch: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)


def fit(
    model: CtrModel,
    losses: TaskLosses,
    data: EncodedData,
    *,
    config: FitConfig,
    train_visits: I64,
    validation_visits: I64,
    boundaries_ms: I64,
    progress: Progress,
    curve_visits: I64 | None = None,
) -> FitReport:
    """Fit a model and leave it with the parameters of the epoch best on validation.

    Best is the least natural log-loss of the first task; where there are no validation visits, the last epoch.
    A model with a calibration is then calibrated on the validation visits. On `curve_visits`, a few of those, the
    log-loss is measured CURVE_POINTS times an epoch for the report, and changes nothing else.

    Raises:
        StageError: the model has a calibration, and there are no validation visits.
    """
    if model.calibration is not None and len(validation_visits) == 0:
        raise StageError("calibration: there are no validation visits to fit it on")
    rng = np.random.default_rng(config.seed)
    kinds = parameters_by_kind(model)
    optimizer = build_optimizer(
        config.optimizer.name,
        config.optimizer.options,
        embeddings=kinds["embeddings"],
        dense=kinds["dense"],
        embedding_learning_rate=config.embedding_learning_rate,
        dense_learning_rate=config.dense_learning_rate,
    )
    rows_count = len(data.rows_of(train_visits))
    steps_count = max(1, math.ceil(rows_count / config.batch_rows) * config.epochs)
    epoch_steps = steps_count // config.epochs
    measured_at = (
        set() if curve_visits is None else {epoch_steps * i // CURVE_POINTS for i in range(1, CURVE_POINTS)}
    )
    builder = batch_builder(data, cold_start_ratio=config.cold_start_ratio)
    report = FitReport()
    best: dict[str, Tensor] = {}
    step = 0
    with progress.task("fit", total=rows_count * config.epochs) as advance:
        for epoch in range(config.epochs):
            started = time.perf_counter()
            sums, mixed, batches, paused_s = dict.fromkeys(losses.losses, 0.0), 0.0, 0, 0.0
            model.train()
            cuts = builder.shuffled(train_visits, config.batch_rows, boundaries_ms=boundaries_ms, rng=rng)
            for visits in cuts:
                batch = builder.build(visits, rng)
                by_task = losses(model(batch), batch, model.seen_logit(batch))
                for name, value in by_task.items():
                    sums[name] += value.item()
                own = model.auxiliary_loss(batch)
                if own is not None:
                    by_task[AUXILIARY] = own
                optimizer.step(by_task, rate_ratio=_rate_ratio(config, step, steps_count))
                step += 1
                mixed += mixed_context_share(batch.labels[:, 0], batch.request)
                batches += 1
                advance(len(batch.item))
                if curve_visits is not None and batches in measured_at:
                    paused = time.perf_counter()
                    loss = _validation_log_loss(model, data, curve_visits)
                    report.curve.append((epoch + batches / epoch_steps, loss))
                    model.train()
                    paused_s += time.perf_counter() - paused
            seconds = time.perf_counter() - started - paused_s
            if curve_visits is not None:
                report.curve.append((epoch + 1.0, _validation_log_loss(model, data, curve_visits)))
            validation = _validation_log_loss(model, data, validation_visits)
            report.epochs.append(
                EpochReport(
                    epoch + 1,
                    seconds,
                    rows_count / seconds,
                    {name: total / max(1, batches) for name, total in sums.items()},
                    mixed / max(1, batches),
                    validation,
                )
            )
            progress.say(
                f"epoch {epoch + 1}: "
                + (f"validation log-loss {validation:.6f}, " if len(validation_visits) else "")
                + f"{rows_count / seconds:,.0f} rows/s, "
                f"{mixed / max(1, batches):.1%} of rows in mixed contexts"
            )
            if not best or not validation >= report.epochs[report.best_epoch - 1].validation_log_loss:
                report.best_epoch = epoch + 1
                best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    _fill_unseen_buckets(model, data, train_visits)
    _calibrate(model, data, validation_visits, losses.tasks)
    model.eval()
    return report


def _rate_ratio(config: FitConfig, step: int, steps_count: int) -> float:
    """Return by how much learning rates have fallen: linearly, to their last ratio at the last step.

    Steps are counted as if every batch were full. Batches of whole visits are not quite, so the last ratio is reached a
    little earlier.
    """
    return 1.0 + (config.last_learning_rate_ratio - 1.0) * min(1.0, step / steps_count)


def _fill_unseen_buckets(model: CtrModel, data: EncodedData, visits: I64) -> None:
    """Let interest modules that embed ages and strengths know which of them the training visits had."""
    for name, module in model.interests.items():
        fill = getattr(module, "fill_unseen", None)
        if fill is not None:
            part = data.parts[model.reads[name]]
            entries = ranges(part.starts[visits], part.starts[visits + 1])
            fill(
                torch.from_numpy(np.bincount(part.age[entries], minlength=AGE_BUCKETS) > 0),
                torch.from_numpy(np.bincount(part.strength[entries], minlength=STRENGTH_BUCKETS) > 0),
            )


def _calibrate(model: CtrModel, data: EncodedData, visits: I64, tasks: Sequence[TaskSpec]) -> None:
    """Fit the model's calibration, each task's on the rows that its logit speaks of, at natural weights."""
    if model.calibration is None:
        return
    rows = data.rows_of(visits)
    labels = data.labels[rows]
    weights = natural_weights(labels[:, 0], data.keep_probability[rows])
    logits = predict(model, data, visits).astype(np.float64)
    names = [task.name for task in tasks]
    for i, task in enumerate(tasks):
        known = ~np.isnan(labels[:, i])
        if task.given is not None and task.entire_space != "direct":
            known &= labels[:, names.index(task.given)] == 1
        model.calibration.fit(
            i,
            CalibrationRows(
                logits[known, i],
                labels[known, i].astype(np.float64),
                weights[known],
                data.domain[data.row_request[rows[known]]],
            ),
        )


def predict(
    model: CtrModel, data: EncodedData, visits: I64, *, advance: Callable[[int], None] = lambda _: None
) -> F32:
    """Return natural-rate logits (B, T) of the rows of some visits, in order; calibrated where the model is."""
    model.eval()
    out: list[F32] = []
    with torch.inference_mode():
        for batch in batches_in_order(data, visits):
            out.append(model.natural_logits(batch).numpy())
            advance(len(batch.item))
    return np.concatenate(out) if out else np.zeros((0, data.labels.shape[1]), np.float32)


def probabilities(logits: F32, tasks: Sequence[TaskSpec]) -> F32:
    """Return probabilities (B, T) from logits; of a task that is `given` another as `TaskSpec` says."""
    alone = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))  # a logit of -1000 overflows exp
    names = [task.name for task in tasks]
    columns: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for i, task in enumerate(tasks):
        before = columns[task.given] if task.given else np.float64(1.0)
        columns[task.name] = (
            np.minimum(alone[:, i], before) if task.entire_space == "direct" else alone[:, i] * before
        )
    return np.stack([columns[name] for name in names], axis=1).astype(np.float32)


def batch_builder(data: EncodedData, *, cold_start_ratio: float = 0.0) -> BatchBuilder:
    """Return a builder that knows which id columns are the user's own."""
    count = sum(feature.side is Side.USER for feature in data.features)
    return BatchBuilder(data, user_features_count=count, cold_start_ratio=cold_start_ratio)


def batches_in_order(data: EncodedData, visits: I64) -> Iterator[Batch]:
    """Yield the batches of some visits, in order."""
    builder = batch_builder(data)
    for cut in builder.in_order(visits, EVALUATION_BATCH_ROWS):
        yield builder.build(cut)


def _validation_log_loss(model: CtrModel, data: EncodedData, visits: I64) -> float:
    if len(visits) == 0:
        return float("nan")
    rows = data.rows_of(visits)
    labels = data.labels[rows, 0]
    known = ~np.isnan(labels)
    p = probabilities(predict(model, data, visits)[:, :1], [TaskSpec(name="first")])[known, 0]
    labels = labels[known]
    loss = log_loss(labels, p, natural_weights(labels, data.keep_probability[rows][known]))
    return float("nan") if loss is None else loss


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers are learned."""
    return sum(p.numel() for p in model.parameters())
