"""FuxiCTR: DCN-V2 and DIN from the layers, base model, feature map and data loaders of its package.

Its package carries no models: those lie in the `model_zoo` folder of its repository and are not installed. They are put
together here from the package's layers by its base model, and trained by that base model's `train_epoch` with its own
clipping of gradients (off, in effect, where the job asks for equal optimizers: by an endless norm).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap  # type: ignore[import-not-found]
from fuxictr.pytorch.dataloaders import RankDataLoader  # type: ignore[import-not-found]
from fuxictr.pytorch.layers import (  # type: ignore[import-not-found]
    CrossNetV2,
    DIN_Attention,
    FeatureEmbeddingDict,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel  # type: ignore[import-not-found]
from torch import Tensor, nn

from benchmarks.public_libraries.drivers.loop import Seconds, equal_start, run, timed
from benchmarks.public_libraries.exchange import F64, Job, RowsSpec, label, read_column, recent

DATASET = "rows"
NEVER = 10**12  # steps between evaluations of its own: the driver evaluates after each epoch
GRADIENT_NORM_MAX = 10.0  # the default of its `fit`
BLOCK_ROWS = 200_000  # of the files that it reads one by one where all at once would take too much memory
WHOLE_BYTES_MAX = 1_000_000_000


class Ranker(BaseModel):  # type: ignore[misc]
    """What both models share: embeddings, a deep network, and the base model's training."""

    def __init__(self, job: Job, spec: RowsSpec, feature_map: Any) -> None:
        super().__init__(
            feature_map,
            model_id=job.model,
            eval_steps=NEVER,
            verbose=0,
            model_root=job.out,
            metrics=["logloss"],
        )
        self.embedding_layer = FeatureEmbeddingDict(feature_map, job.embedding_width)
        self.width = job.embedding_width * len(spec.fields)
        self.items = [field.name for field in spec.of_side("item")]
        self._max_gradient_norm = float("inf") if job.equal else GRADIENT_NORM_MAX
        self._stop_training = False
        self._total_steps = 0

    def ready(self, job: Job) -> None:
        """Do what a model of the library does last."""
        self.compile("adam", "binary_crossentropy", job.learning_rate)
        self.reset_parameters()
        self.model_to_device()


class CrossAndDeep(Ranker):
    """DCN-V2, parallel."""

    def __init__(self, job: Job, spec: RowsSpec, feature_map: Any) -> None:
        super().__init__(job, spec, feature_map)
        self.cross = CrossNetV2(self.width, job.cross_layers)
        self.deep = MLP_Block(self.width, hidden_units=list(job.hidden))
        self.last = nn.Linear(self.width + job.hidden[-1], 1)
        self.ready(job)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the probabilities, (B, 1)."""
        embedded = self.embedding_layer(self.get_inputs(inputs))
        x = self.embedding_layer.dict2tensor(embedded, flatten_emb=True)
        logits = self.last(torch.cat([self.cross(x), self.deep(x)], dim=-1))
        return {"y_pred": self.output_activation(logits)}


class InterestNetwork(Ranker):
    """DIN: one attention over whole behaviors, the embeddings of their features side by side."""

    def __init__(self, job: Job, spec: RowsSpec, feature_map: Any) -> None:
        super().__init__(job, spec, feature_map)
        item_width = job.embedding_width * len(self.items)
        self.attention = DIN_Attention(
            item_width,
            attention_units=list(job.attention_hidden),
            hidden_activations="ReLU" if job.equal else "Dice",
        )
        self.deep = MLP_Block(self.width + item_width, hidden_units=list(job.hidden), output_dim=1)
        self.ready(job)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the probabilities, (B, 1)."""
        ids = self.get_inputs(inputs)
        embedded = self.embedding_layer(ids)
        target = torch.cat([embedded[name] for name in self.items], dim=-1)
        behaviors = torch.cat([embedded.pop(recent(name)) for name in self.items], dim=-1)
        interest = self.attention(target, behaviors, ids[recent(self.items[0])].long() != 0)
        fields = self.embedding_layer.dict2tensor(embedded, flatten_emb=True)
        return {"y_pred": self.output_activation(self.deep(torch.cat([fields, interest], dim=-1)))}


class FuxiCtr:
    """One model made of FuxiCTR's parts on a folder of rows."""

    def __init__(self, job: Job, spec: RowsSpec) -> None:
        self.job, self.spec, self.rows = job, spec, Path(job.rows)
        self.names = [field.name for field in spec.fields]
        if job.model == "din":
            self.names += [recent(field.name) for field in spec.of_side("item")]
        self.feature_map = self._feature_map()
        made = InterestNetwork if job.model == "din" else CrossAndDeep
        self.model: Any = made(job, spec, self.feature_map)
        if job.equal:
            equal_start(self.model)
        self.train_loader = self._loader("train", shuffle=True)

    def train_epoch(self) -> Seconds:
        """Train one epoch by the base model."""
        return timed(lambda: self.model.train_epoch(self.train_loader))

    def predict(self, split: str) -> F64:
        """Return the probabilities of the click."""
        return np.asarray(self.model.predict(self._loader(split, shuffle=False)), np.float64)

    def _feature_map(self) -> Any:
        ids_count = {field.name: field.ids_count for field in self.spec.fields}
        features: list[dict[str, dict[str, Any]]] = [
            {f.name: {"type": "categorical", "source": f.side, "vocab_size": f.ids_count, "padding_idx": 0}}
            for f in self.spec.fields
        ]
        for name in self.names[len(self.spec.fields) :]:
            of = name.removeprefix(recent(""))
            features.append(
                {
                    name: {
                        "type": "sequence",
                        "source": "user",
                        "vocab_size": ids_count[of],
                        "max_len": self.spec.recents_max,
                        "share_embedding": of,
                        "padding_idx": 0,
                    }
                }
            )
        path = Path(self.job.out) / "feature_map.json"
        described = {"dataset_id": DATASET, "labels": [label(self.spec.tasks[0])], "features": features}
        path.write_text(json.dumps(described))
        feature_map = FeatureMap(DATASET, self.job.out)
        feature_map.load(str(path), {"embedding_dim": self.job.embedding_width})
        return feature_map

    def _loader(self, split: str, *, shuffle: bool) -> Any:
        """Return the library's loader over .npz files of the split, written once."""
        folder = Path(self.job.out) / "npz" / split
        count = self.spec.rows_count[split]
        columns = {name: read_column(self.rows, split, name) for name in self.names}
        columns[label(self.spec.tasks[0])] = read_column(self.rows, split, label(self.spec.tasks[0]))
        whole = sum(column.size * 4 for column in columns.values()) <= WHOLE_BYTES_MAX
        if not folder.exists():
            folder.mkdir(parents=True)
            # its loader of blocks shuffles within a buffer only, so the blocks hold rows in random order
            order = np.random.default_rng(self.job.seed).permutation(count) if shuffle else np.arange(count)
            block = count if whole else BLOCK_ROWS
            for i, start in enumerate(range(0, count, block)):
                chosen = order[start : start + block]
                # one type for all: the loader stacks the columns, and int32 with float32 would make float64
                arrays: dict[str, Any] = {name: c[chosen].astype(np.int32) for name, c in columns.items()}
                np.savez(folder / f"part-{i:04d}.npz", **arrays)
        path = str(folder / "part-0000.npz") if whole else str(folder)
        stage, key = ("train", "train_data") if shuffle else ("test", "test_data")
        loaded = RankDataLoader(
            self.feature_map,
            stage=stage,
            batch_size=self.job.batch_rows,
            shuffle=shuffle,
            num_workers=0,
            **{key: path},
        )
        return loaded[0] if shuffle else loaded


if __name__ == "__main__":
    run("fuxictr", FuxiCtr)
