"""torch-rechub: DCNv2, DIN, MMoE and PLE by its own models, data generator and trainers.

Its batch normalization after every layer and its Dice in DIN's network cannot be turned off; where the job asks for
equal architectures they are taken out of the model that it built. Its DIN attends to each item feature by itself, which
stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_rechub.basic.activation import Dice  # type: ignore[import-not-found]
from torch_rechub.basic.features import SequenceFeature, SparseFeature  # type: ignore[import-not-found]
from torch_rechub.models.multi_task import MMOE, PLE  # type: ignore[import-not-found]
from torch_rechub.models.ranking import DIN, DCNv2  # type: ignore[import-not-found]
from torch_rechub.trainers import CTRTrainer, MTLTrainer  # type: ignore[import-not-found]
from torch_rechub.utils.data import (  # type: ignore[import-not-found]
    DataGenerator,
    PredictDataset,
    TorchDataset,
)

from benchmarks.public_libraries.drivers.loop import Seconds, equal_start, replace_modules, run, timed
from benchmarks.public_libraries.exchange import F64, FieldSpec, Job, RowsSpec, label, read_column, recent

MULTI_TASK = {"mmoe": MMOE, "ple": PLE}


class TorchRechub:
    """One model of torch-rechub on a folder of rows."""

    def __init__(self, job: Job, spec: RowsSpec) -> None:
        self.job, self.spec, self.rows = job, spec, Path(job.rows)
        self.multi_task = job.model in MULTI_TASK
        self.tasks = spec.tasks if self.multi_task else spec.tasks[:1]
        self.model: nn.Module = self._model()
        if job.equal:
            replace_modules(self.model, nn.BatchNorm1d, nn.Identity)
            replace_modules(self.model, Dice, nn.ReLU)
            equal_start(self.model)
        decay = {"weight_decay": 0.0} if job.equal else {"weight_decay": 1e-5}  # the trainers' default
        optimizer = {"lr": job.learning_rate, **decay}
        if self.multi_task:
            types = ["classification"] * len(self.tasks)
            self.trainer = MTLTrainer(self.model, task_types=types, optimizer_params=optimizer)
        else:
            self.trainer = CTRTrainer(self.model, optimizer_params=optimizer)
        x, y = self._columns("train"), self._labels("train")
        generator = DataGenerator(x, y)
        self.train_loader, _, _ = generator.generate_dataloader(
            x_val=x, y_val=y, x_test=x, y_test=y, batch_size=job.batch_rows, num_workers=0
        )

    def train_epoch(self) -> Seconds:
        """Train one epoch by the library's trainer."""
        return timed(lambda: self.trainer.train_one_epoch(self.train_loader))

    def predict(self, split: str) -> F64:
        """Return the probabilities of the first task."""
        x = self._columns(split)
        data = PredictDataset(x) if self.multi_task else TorchDataset(x, self._labels(split))
        loader = torch.utils.data.DataLoader(data, batch_size=self.job.batch_rows, shuffle=False)
        p = np.array(self.trainer.predict(self.model, loader), np.float64)
        return p.reshape(len(p), -1)[:, 0]

    def _model(self) -> Any:
        job, width = self.job, self.job.embedding_width
        mlp = {"dims": list(job.hidden), "activation": "relu"}
        if job.model == "dcnv2":
            features = [self._sparse(field) for field in self.spec.fields]
            return DCNv2(features, job.cross_layers, mlp, use_low_rank_mixture=False)
        if self.multi_task:
            features = [self._sparse(field) for field in self.spec.fields]
            experts = {"dims": list(job.hidden[:1]), "activation": "relu"}
            towers = [{"dims": list(job.hidden[1:]), "activation": "relu"} for _ in self.tasks]
            types = ["classification"] * len(self.tasks)
            if job.model == "mmoe":
                return MMOE(features, types, job.experts_count, experts, towers)
            return PLE(features, types, 1, 1, job.experts_count, experts, towers)
        items = self.spec.of_side("item")
        return DIN(
            features=[self._sparse(field) for field in self.spec.fields if field not in items],
            target_features=[self._sparse(field, padding_idx=0) for field in items],
            history_features=[
                SequenceFeature(
                    recent(field.name),
                    vocab_size=field.ids_count,
                    embed_dim=width,
                    pooling="concat",
                    shared_with=field.name,
                    padding_idx=0,
                )
                for field in items
            ],
            mlp_params={"dims": list(job.hidden)},
            attention_mlp_params={"dims": list(job.attention_hidden)},
        )

    def _sparse(self, field: FieldSpec, padding_idx: int | None = None) -> Any:
        width = self.job.embedding_width
        return SparseFeature(field.name, field.ids_count, embed_dim=width, padding_idx=padding_idx)

    def _columns(self, split: str) -> dict[str, Any]:
        names = [field.name for field in self.spec.fields]
        if self.job.model == "din":
            names += [recent(field.name) for field in self.spec.of_side("item")]
        return {name: read_column(self.rows, split, name) for name in names}

    def _labels(self, split: str) -> Any:
        columns = [read_column(self.rows, split, label(task)) for task in self.tasks]
        return np.stack(columns, axis=1) if self.multi_task else columns[0]


if __name__ == "__main__":
    run("torch-rechub", TorchRechub)
