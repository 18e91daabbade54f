"""Our own models as they are compared in speed: one task, plain log-loss at the rate of the sampled rows.

Libraries take no offset per row, so here ours takes none either: every keep_probability is 1, in training and in the
validation loss. Architecture, sizes, start and optimizer are those of the job; the batches are ours, whole requests
grouped by user, and so is all else of `training.fit`.
"""

from __future__ import annotations

import dataclasses
import time
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch

from benchmarks.public_libraries.exchange import EpochRecord, Job, Report
from service.contract.history import I64
from service.contract.manifest import TaskSpec
from training.config import FitConfig, ModelConfig
from training.data.batches import BatchBuilder
from training.data.encoded import COUNTED_SIDES, EncodedData
from training.fit import count_parameters, fit, predict, probabilities
from training.metrics.natural import log_loss
from training.progress import Progress
from training.stages.train import build_model
from training.task_losses import TaskLosses
from training.workbench import Workbench

NAME: Final = "twinstar"
DIN_OPTIONS: Final[dict[str, Any]] = {"activation": "relu"}


class OneTaskBench(Workbench):
    """A workbench whose only task is the first."""

    @cached_property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The first task."""
        return super().tasks[:1]


def as_sampled(data: EncodedData) -> EncodedData:
    """Return the data with the first task alone, every row counted once, and no match statistics or popularity."""
    ones = np.ones_like(data.keep_probability)
    data = data.restricted_to(tuple(f for f in data.features if f.side not in COUNTED_SIDES))
    return dataclasses.replace(data, labels=data.labels[:, :1].copy(), keep_probability=ones)


def model_config(job: Job) -> ModelConfig:
    """Return our model of the job's architecture."""
    backbone: dict[str, Any]
    interests: list[dict[str, Any]] = []
    if job.model == "dcnv2":
        backbone = {"name": "dcnv2", "cross_layers": job.cross_layers}
    else:
        backbone = {"name": "mlp"}
        interests = [{"name": "din", **DIN_OPTIONS, "hidden": list(job.attention_hidden)}]
    backbone |= {"hidden": list(job.hidden), "domain_width": job.embedding_width}
    return ModelConfig.model_validate(
        {
            "backbone": backbone,
            "interests": interests,
            "losses": {"default": "bce"},
            "embedding_width": job.embedding_width,
            "fit": FitConfig(
                epochs=job.epochs,
                batch_rows=job.batch_rows,
                dense_learning_rate=job.learning_rate,
                embedding_learning_rate=job.learning_rate,
                last_learning_rate_ratio=1.0,
                cold_start_ratio=0.0,
                seed=job.seed,
            ).model_dump(),
        }
    )


def train(bench: OneTaskBench, data: EncodedData, visits: dict[str, I64], job: Job) -> Report:
    """Fit our model of a job in this process; the validation rows are scored before and after, not in between."""
    torch.set_num_threads(job.threads)
    torch.optim.Adam(
        [torch.zeros(1, requires_grad=True)]
    )  # torch's first optimizer loads modules for seconds
    config = model_config(job)
    losses = TaskLosses(config, bench.tasks_of(config))
    model = build_model(bench, config, data, losses)
    first = _log_loss(bench, data, visits["validation"], predict(model, data, visits["validation"]))
    boundaries = bench.snapshot_moments_ms
    started = time.process_time()
    report = fit(
        model,
        losses,
        data,
        config=config.fit,
        train_visits=visits["train"],
        validation_visits=visits["validation"][:0],
        boundaries_ms=boundaries,
        progress=Progress(stage=NAME),
    )
    cpu_seconds = (time.process_time() - started) / job.epochs
    last = _log_loss(bench, data, visits["validation"], predict(model, data, visits["validation"]))
    steps = _steps(data, visits["train"], boundaries, job)
    return Report(
        parameters=count_parameters(model),
        rows_count=len(data.rows_of(visits["train"])),
        first_validation_log_loss=first,
        epochs=tuple(EpochRecord(e.seconds, cpu_seconds, steps, last) for e in report.epochs),
        best_epoch=report.best_epoch,
        version="",
    )


def _log_loss(bench: OneTaskBench, data: EncodedData, visits: I64, logits: Any) -> float:
    click = data.labels[data.rows_of(visits), 0]
    loss = log_loss(click, probabilities(logits, bench.tasks)[:, 0], np.ones(len(click)))
    if loss is None:
        raise ValueError("there are no validation rows")
    return loss


def _steps(data: EncodedData, visits: I64, boundaries_ms: I64, job: Job) -> int:
    """Return how many batches the rows are cut into: a batch of whole visits is seldom full."""
    builder = BatchBuilder(data, user_features_count=0)
    rng = np.random.default_rng(job.seed)
    return sum(1 for _ in builder.shuffled(visits, job.batch_rows, boundaries_ms=boundaries_ms, rng=rng))
