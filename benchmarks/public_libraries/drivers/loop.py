"""What all drivers do alike: train epoch by epoch, keep the epoch best on validation, score, report.

The selection is the one of our own models: least natural log-loss of the first task on the validation weeks.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import nn

from benchmarks.public_libraries.exchange import (
    F64,
    KEEP_PROBABILITY,
    SPLITS,
    EpochRecord,
    Job,
    Report,
    RowsSpec,
    label,
    read_column,
    scores_path,
)
from benchmarks.public_libraries.sampling import natural_probability
from training.metrics.natural import log_loss, natural_weights

EMBEDDING_STD = 0.05


@dataclass(frozen=True)
class Seconds:
    """A moment, or what lies between two: seconds on the clock, and of processor time in this process."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Self:
        """Return this moment."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.clock - other.clock, self.processor - other.processor)


class Trainable(Protocol):
    """A library's model with its data."""

    model: nn.Module

    def train_epoch(self) -> Seconds:
        """Train one epoch by the library's own trainer; return what training took."""

    def predict(self, split: str) -> F64:
        """Return the probabilities of the first task at the rate of the sampled rows, (B,), in the rows' order."""


def run(distribution: str, make: Callable[[Job, RowsSpec], Trainable]) -> None:
    """Do the job named on the command line."""
    job = Job.load(Path(sys.argv[1]))
    rows, out = Path(job.rows), Path(job.out)
    spec = RowsSpec.load(rows).without(job.leave_out)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002  the libraries draw from the global generator
    trainable = make(job, spec)
    first = validation_log_loss(rows, trainable.predict("validation"))
    epochs: list[EpochRecord] = []
    best: dict[str, Any] = {}
    best_epoch = 0
    steps = -(-spec.rows_count["train"] // job.batch_rows)
    for epoch in range(1, job.epochs + 1):
        took = trainable.train_epoch()
        loss = validation_log_loss(rows, trainable.predict("validation"))
        epochs.append(EpochRecord(took.clock, took.processor, steps, loss))
        print(f"epoch {epoch}: {took.clock:.1f} s, validation log-loss {loss:.6f}", flush=True)
        if loss < min((e.validation_log_loss for e in epochs[:-1]), default=np.inf):
            best, best_epoch = copy.deepcopy(trainable.model.state_dict()), epoch
    trainable.model.load_state_dict(best)
    for split in SPLITS[1:]:
        if spec.rows_count[split]:
            np.save(scores_path(out, split), trainable.predict(split))
    parameters = sum(p.numel() for p in trainable.model.parameters() if p.requires_grad)
    Report(
        parameters=parameters,
        rows_count=spec.rows_count["train"],
        first_validation_log_loss=first,
        epochs=tuple(epochs),
        best_epoch=best_epoch,
        version=version(distribution),
    ).save(out)


def validation_log_loss(rows: Path, sampled: F64) -> float:
    """Return the natural log-loss of the first task on the validation rows."""
    click = read_column(rows, "validation", label(RowsSpec.load(rows).tasks[0]))
    keep = read_column(rows, "validation", KEEP_PROBABILITY)
    loss = log_loss(click, natural_probability(sampled, keep), natural_weights(click, keep))
    if loss is None:
        raise ValueError("there are no validation rows")
    return loss


def timed(work: Callable[[], object]) -> Seconds:
    """Return what some work took."""
    started = Seconds.now()
    work()
    return Seconds.now() - started


def equal_start(model: nn.Module) -> None:
    """Give a model the start that all have where speed is compared: torch's own linear layers, embeddings N(0, .05²).

    The padding row, where a library keeps one, stays zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD)
            if module.padding_idx is not None:
                with torch.no_grad():
                    module.weight[module.padding_idx] = 0.0


def replace_modules(model: nn.Module, kind: type[nn.Module], make: Callable[[], nn.Module]) -> None:
    """Put another module in the place of every module of a kind."""
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make())
