"""The training forward as one ONNX graph: every input repeated to N rows, nothing computed ahead of time.

What is exported where nobody thinks of serving. The service never runs it: it is what benchmarks set the
served graph against. A row is a request of its own, with its own copy of the user, the domain and the history;
STAR's networks of all domains run on every row. An item of a history is embedded and projected once, as in
training, where a batch names its distinct items and points to them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from service.contract import served_inputs
from service.contract.manifest import TaskSpec
from training.data.batch import Batch, PartIds
from training.export.onnx_file import OPSET
from training.model import CtrModel
from training.modules.joint_logits import joined_probabilities
from training.modules.split import RowLayout

ITEM: Final = "item"  # (N,) item rows
CANDIDATE_IDS: Final = "candidate_ids"  # (N, FP)
USER_IDS: Final = "user_ids"  # (N, FU)
DOMAIN: Final = "domain"  # (N,)
PARTS: Final = tuple(served_inputs.PARTS)
PART_INPUTS: Final = ("item", "index", "size", "age", "strength")  # (U,) item rows, then four of (N, L)
INPUT_NAMES: Final = (
    ITEM,
    CANDIDATE_IDS,
    USER_IDS,
    DOMAIN,
    *(f"{part}_{name}" for part in PARTS for name in PART_INPUTS),
)
PROBABILITY: Final = "probability"  # (N, T)


class TrainingGraph(nn.Module):
    """A trained model's own forward on N rows, then one logit and one probability a task."""

    def __init__(self, model: CtrModel, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.model = model.eval()
        names = [task.name for task in tasks]
        self.given = [names.index(task.given) if task.given else None for task in tasks]
        self.direct = [task.entire_space == "direct" for task in tasks]

    def forward(
        self,
        item: Tensor,
        candidate_ids: Tensor,
        user_ids: Tensor,
        domain: Tensor,
        clusters_item: Tensor,
        clusters_index: Tensor,
        clusters_size: Tensor,
        clusters_age: Tensor,
        clusters_strength: Tensor,
        recents_item: Tensor,
        recents_index: Tensor,
        recents_size: Tensor,
        recents_age: Tensor,
        recents_strength: Tensor,
        behaviors_item: Tensor,
        behaviors_index: Tensor,
        behaviors_size: Tensor,
        behaviors_age: Tensor,
        behaviors_strength: Tensor,
    ) -> Tensor:
        """Return probabilities (N, T)."""
        row = torch.arange(item.shape[0])
        nothing = item.new_zeros(item.shape[0], dtype=torch.float32)
        batch = Batch(
            item=item,
            candidate_ids=candidate_ids,
            request=row,
            user_ids=user_ids,
            domain=domain,
            layout=RowLayout(row, torch.zeros_like(row), 1),
            parts={
                "clusters": PartIds(
                    clusters_item, clusters_index, clusters_size, clusters_age, clusters_strength
                ),
                "recents": PartIds(recents_item, recents_index, recents_size, recents_age, recents_strength),
                "behaviors": PartIds(
                    behaviors_item, behaviors_index, behaviors_size, behaviors_age, behaviors_strength
                ),
            },
            labels=nothing,
            offset=nothing,
        )
        alone = torch.sigmoid(self.model.natural_logits(batch))
        return joined_probabilities(alone, self.given, self.direct)


def write_training_graph(path: Path, model: CtrModel, tasks: Sequence[TaskSpec]) -> None:
    """Write the graph with free numbers of rows, clusters and recent behaviors."""
    rows = 5  # any sizes above 1: the exporter takes 0 and 1 for constants
    ids = torch.int64
    example = {
        ITEM: torch.zeros(rows, dtype=ids),
        CANDIDATE_IDS: torch.zeros(rows, model.candidate.columns_count, dtype=ids),
        USER_IDS: torch.zeros(rows, len(model.user.names), dtype=ids),
        DOMAIN: torch.zeros(rows, dtype=ids),
    }
    row_axis = torch.export.Dim("rows")
    shapes: dict[str, dict[int, object]] = {name: {0: row_axis} for name in example}
    for part, length, items in zip(PARTS, (7, 3, 9), (11, 13, 15), strict=True):
        length_axis, items_axis = torch.export.Dim(f"{part}_length"), torch.export.Dim(f"{part}_items")
        example[f"{part}_item"] = torch.zeros(items, dtype=ids)
        shapes[f"{part}_item"] = {0: items_axis}
        for name in PART_INPUTS[1:]:
            kind = torch.float32 if name == "size" else ids
            example[f"{part}_{name}"] = torch.zeros(rows, length, dtype=kind)
            shapes[f"{part}_{name}"] = {0: row_axis, 1: length_axis}
    with _quiet():
        program = torch.onnx.export(
            TrainingGraph(model, tasks),
            kwargs=example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(INPUT_NAMES),
            output_names=[PROBABILITY],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter reports of each of its passes."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
