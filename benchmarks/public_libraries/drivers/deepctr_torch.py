"""deepctr-torch: DCN-V2 (its DCN with matrix crosses), DIN, MMoE and PLE by its own models and their `fit`.

As its models are made here, its defaults stand (regularization included) unless the job asks for equal architectures;
DCN then has no linear part, since the others have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepctr_torch.callbacks import Callback  # type: ignore[import-not-found]
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat  # type: ignore[import-not-found]
from deepctr_torch.models import DCN, DIN, MMOE, PLE  # type: ignore[import-not-found]
from torch import nn

from benchmarks.public_libraries.drivers.loop import Seconds, equal_start, run
from benchmarks.public_libraries.exchange import F64, LENGTH, Job, RowsSpec, label, read_column, recent

MULTI_TASK = {"mmoe": MMOE, "ple": PLE}
HISTORY = "hist_"  # the prefix by which its DIN knows what belongs to the history


class Stopwatch(Callback):  # type: ignore[misc]
    """Times an epoch from its first batch on: what `fit` does before is laying out data."""

    took = Seconds(0.0, 0.0)

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Start."""
        self.started = Seconds.now()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Stop."""
        self.took = Seconds.now() - self.started


class DeepCtrTorch:
    """One model of deepctr-torch on a folder of rows."""

    def __init__(self, job: Job, spec: RowsSpec) -> None:
        self.job, self.spec, self.rows = job, spec, Path(job.rows)
        self.multi_task = job.model in MULTI_TASK
        self.tasks = spec.tasks if self.multi_task else spec.tasks[:1]
        self.model: Any = self._model()
        assert isinstance(self.model, nn.Module)
        if job.equal:
            equal_start(self.model)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=job.learning_rate)
        loss = ["binary_crossentropy"] * len(self.tasks) if self.multi_task else "binary_crossentropy"
        self.model.compile(optimizer, loss)
        self.x, self.y = self._columns("train"), self._labels("train")

    def train_epoch(self) -> Seconds:
        """Train one epoch by the model's `fit`."""
        watch = Stopwatch()
        self.model.fit(self.x, self.y, batch_size=self.job.batch_rows, epochs=1, verbose=0, callbacks=[watch])
        return watch.took

    def predict(self, split: str) -> F64:
        """Return the probabilities of the first task."""
        p = np.asarray(self.model.predict(self._columns(split), self.job.batch_rows), np.float64)
        return p.reshape(len(p), -1)[:, 0]

    def _model(self) -> Any:
        job, width = self.job, self.job.embedding_width
        columns: list[Any] = [SparseFeat(f.name, f.ids_count, embedding_dim=width) for f in self.spec.fields]
        bare: dict[str, Any] = {"l2_reg_embedding": 0.0} if job.equal else {}
        if job.model == "dcnv2":
            linear = [] if job.equal else columns
            bare |= {"l2_reg_linear": 0.0, "l2_reg_cross": 0.0} if job.equal else {}
            return DCN(
                linear,
                columns,
                cross_num=job.cross_layers,
                cross_parameterization="matrix",
                dnn_hidden_units=job.hidden,
                seed=job.seed,
                **bare,
            )
        if self.multi_task:
            names = {"task_types": ["binary"] * len(self.tasks), "task_names": list(self.tasks)}
            layers = {
                "expert_dnn_hidden_units": job.hidden[:1],
                "gate_dnn_hidden_units": (),
                "tower_dnn_hidden_units": job.hidden[1:],
            }
            if job.model == "mmoe":
                return MMOE(columns, num_experts=job.experts_count, seed=job.seed, **names, **layers)
            # its PLE makes as many shared experts as specific ones, whatever it is told
            count = max(1, job.experts_count // 2)
            experts = {"specific_expert_num": count, "shared_expert_num": count}
            return PLE(columns, num_levels=1, seed=job.seed, **experts, **names, **layers)
        items = self.spec.of_side("item")
        columns += [
            VarLenSparseFeat(
                SparseFeat(HISTORY + f.name, f.ids_count, embedding_dim=width, embedding_name=f.name),
                maxlen=self.spec.recents_max,
                length_name=LENGTH,
            )
            for f in items
        ]
        return DIN(
            columns,
            [field.name for field in items],
            dnn_hidden_units=job.hidden,
            att_hidden_size=job.attention_hidden,
            att_activation="relu" if job.equal else "Dice",
            seed=job.seed,
            **bare,
        )

    def _columns(self, split: str) -> dict[str, Any]:
        columns = {f.name: read_column(self.rows, split, f.name) for f in self.spec.fields}
        if self.job.model == "din":
            for field in self.spec.of_side("item"):
                columns[HISTORY + field.name] = read_column(self.rows, split, recent(field.name))
            columns[LENGTH] = read_column(self.rows, split, LENGTH)
        return columns

    def _labels(self, split: str) -> Any:
        columns = [read_column(self.rows, split, label(task)) for task in self.tasks]
        return np.stack(columns, axis=1) if self.multi_task else columns[0]


if __name__ == "__main__":
    run("deepctr-torch", DeepCtrTorch)
