"""What we and a library's process hand each other: rows and a job in, probabilities and a report out.

NumPy only: both sides read it, each with its own interpreter. A folder of rows has

    rows.json                       fields, sequences, tasks
    <split>/<field>.npy             (B,) int32 ids, 1 the unknown value; 0 is left to padding
    <split>/recent_<field>.npy      (B, L) int32 the same of the newest behaviors, oldest first, then padding
    <split>/recent_length.npy       (B,) int32 how many of them there are
    <split>/label_<task>.npy        (B,) float32
    <split>/keep_probability.npy    (B,) float64
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Column = npt.NDArray[Any]

ROWS_FILE: Final = "rows.json"
JOB_FILE: Final = "job.json"
REPORT_FILE: Final = "report.json"
SPLITS: Final = ("train", "validation", "test")
LENGTH: Final = "recent_length"
KEEP_PROBABILITY: Final = "keep_probability"


@dataclass(frozen=True)
class FieldSpec:
    """A categorical feature. `ids_count` counts padding; `side` is one of ours, or domain."""

    name: str
    ids_count: int
    side: str


def recent(field: str) -> str:
    """Return the name of the column with a field of the newest behaviors."""
    return f"recent_{field}"


def label(task: str) -> str:
    """Return the name of the column with a task's labels."""
    return f"label_{task}"


@dataclass(frozen=True)
class RowsSpec:
    """What a folder of rows holds. `source` is a hash of what it was made from."""

    fields: tuple[FieldSpec, ...]
    tasks: tuple[str, ...]
    recents_max: int
    rows_count: dict[str, int]
    source: str

    def of_side(self, *sides: str) -> tuple[FieldSpec, ...]:
        """Return the fields of some sides, in order."""
        return tuple(field for field in self.fields if field.side in sides)

    def without(self, left_out: Collection[str]) -> Self:
        """Return the same rows without some fields or sides."""
        kept = tuple(f for f in self.fields if f.name not in left_out and f.side not in left_out)
        return dataclasses.replace(self, fields=kept)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what a folder holds."""
        raw = json.loads((folder / ROWS_FILE).read_text())
        fields = tuple(FieldSpec(**field) for field in raw.pop("fields"))
        return cls(fields=fields, tasks=tuple(raw.pop("tasks")), **raw)

    def save(self, folder: Path) -> None:
        """Write what a folder holds; written last, so that half a folder is none."""
        (folder / ROWS_FILE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def read_column(folder: Path, split: str, name: str) -> Column:
    """Return a column as a plain array over mapped memory, so that what is not read takes no room."""
    mapped = np.load(folder / split / f"{name}.npy", mmap_mode="c", allow_pickle=False)
    plain: Column = mapped.view(np.ndarray)
    return plain


@dataclass(frozen=True)
class Job:
    """What a library's process is to train, on rows made from a source.

    `leave_out` names fields or sides that the model does not read.

    `equal` asks for the architecture and the optimizer that all have in the comparison of speed (ReLU, no batch
    normalization, no regularization, one start for all, gradients as they are); without it a model is as its library
    makes it, with the sizes given here.
    """

    rows: str
    source: str
    out: str
    model: str
    embedding_width: int
    hidden: tuple[int, ...]
    attention_hidden: tuple[int, ...]
    cross_layers: int
    experts_count: int
    epochs: int
    batch_rows: int
    learning_rate: float
    seed: int
    threads: int
    leave_out: tuple[str, ...] = ()
    equal: bool = False

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job."""
        raw: dict[str, Any] = json.loads(path.read_text())
        lists: dict[str, Any] = {key: tuple(v) for key, v in raw.items() if isinstance(v, list)}
        return cls(**{**raw, **lists})

    def save(self) -> Path:
        """Write the job where its process and its report belong, and return the file."""
        path = Path(self.out) / JOB_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        return path


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: seconds of training on the clock and of processors, steps taken, validation log-loss after it."""

    seconds: float
    cpu_seconds: float
    steps: int
    validation_log_loss: float


@dataclass(frozen=True)
class Report:
    """What a library's process did. `best_epoch` counts from 1; its parameters scored the rows."""

    parameters: int
    rows_count: int
    first_validation_log_loss: float
    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    version: str

    @property
    def train_samples_per_s(self) -> float:
        """The median over epochs of training rows per second."""
        return float(np.median([self.rows_count / epoch.seconds for epoch in self.epochs]))

    @property
    def train_samples_per_cpu_s(self) -> float:
        """The same per second of processor time, which other work on the machine moves less."""
        return float(np.median([self.rows_count / epoch.cpu_seconds for epoch in self.epochs]))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the report of a job."""
        raw = json.loads((folder / REPORT_FILE).read_text())
        return cls(epochs=tuple(EpochRecord(**epoch) for epoch in raw.pop("epochs")), **raw)

    def save(self, folder: Path) -> None:
        """Write the report; written last, so that a job without one is not done."""
        (folder / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def scores_path(folder: Path, split: str) -> Path:
    """Return where a job's probabilities of the first task lie, (B,) float64 at the rate of the sampled rows."""
    return folder / f"{split}.npy"
