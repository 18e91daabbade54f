"""The losses of all tasks of a model: which rows each reads, and which logit. Knows nothing of fitting.

A task that is `given` another cannot happen without it. Its loss has one of three forms:

conditional   The tower's logit is that of the task among rows where the other happened, and only those are read:
              nothing was left out among them. Elsewhere the tower is never told what is right.
product       The same logit, multiplied by the other task's probability, over all rows: p(click) · p(task | click).
              A row without a click is a negative of the task, and what it teaches reaches both towers.
direct        The tower's logit is that of the task over all rows. Served is the lesser of its probability and the
              other task's.

Source:
    Entire Space Multi-Task Model, arXiv:1804.07931, for `product`. Differs: in logits, so that nothing vanishes
    where both are small; any loss, not cross-entropy only; sampled negatives: what was left out, was left out
    for lack of a click, so the click's logit takes the offset before it is multiplied, and the product is then
    exactly that of the rows as sampled. Towers share what the backbone lets them share, not embeddings only.
    For `direct` no constant offset is right, since a clicked row that is a negative of the task was never left
    out: see `offset_through`, which reads the model's own click logit, without gradient.

Labels of all rows are read by `product` and `direct`: a label may be unknown by the time of the row, as
`matures_after_days` masks it, but not because the other task happened. A task's loss is the mean over its rows times
its share of the batch's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.contract.manifest import TaskSpec
from training.config import ModelConfig
from training.data.batch import Batch
from training.losses import Loss, build_loss
from training.modules.joint_logits import joint_columns, offset_through, with_offset
from training.modules.split import fold_logit_columns


class TaskLosses:
    """The losses of all tasks; how one that is `given` another is fitted, its `entire_space` says."""

    def __init__(self, config: ModelConfig, tasks: Sequence[TaskSpec]) -> None:
        self.tasks = tuple(tasks)
        self.losses: dict[str, Loss] = {}
        for task in tasks:
            chosen = config.loss_of(task.name)
            self.losses[task.name] = build_loss(chosen.name, chosen.options)
        self.logit_columns = max(loss.logit_columns for loss in self.losses.values())
        index = {task.name: i for i, task in enumerate(tasks)}
        self._given = [None if task.given is None else index[task.given] for task in self.tasks]

    def __call__(self, logits: Tensor, batch: Batch, seen: Tensor | None = None) -> dict[str, Tensor]:
        """Return each task's loss of logits (B, T, columns).

        A task of which no label is known in the batch is absent. With `seen`, the logit (B,) of having been seen, the
        logits of tasks over all rows are those of rows that were seen: nothing happens on the others. A task among
        rows where another happened needs no such factor: they were seen.
        """
        if seen is not None:
            logits = self._of_all_rows(logits, seen)
        out: dict[str, Tensor] = {}
        for i, task in enumerate(self.tasks):
            given = self._given[i]
            known = ~torch.isnan(batch.labels[:, i])
            if given is not None and task.entire_space == "conditional":
                known &= batch.labels[:, given] == 1
            rows = torch.nonzero(known)[:, 0]
            if len(rows) == 0:
                continue
            columns, offset = self._compared(i, logits, batch)
            loss = self.losses[task.name](
                columns[rows], batch.labels[rows, i], batch.request[rows], offset[rows]
            )
            out[task.name] = loss * (len(rows) / max(1, len(known)))
        return out

    def _of_all_rows(self, logits: Tensor, seen: Tensor) -> Tensor:
        """Return logits (B, T, columns) of rows seen or not."""
        over_all = [
            given is None or task.entire_space == "direct"
            for given, task in zip(self._given, self.tasks, strict=True)
        ]
        return torch.stack(
            [
                joint_columns(logits[:, i], seen) if over_all[i] else logits[:, i]
                for i in range(len(over_all))
            ],
            dim=1,
        )

    def _compared(self, i: int, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logit columns (B, columns) that are compared with a task's labels, and their offset (B,)."""
        given = self._given[i]
        if given is None:
            return logits[:, i], batch.offset
        form = self.tasks[i].entire_space
        if form == "direct":
            return logits[:, i], self._direct_offset(i, logits, batch)
        nothing = torch.zeros_like(batch.offset)  # nothing was left out among rows where `given` happened
        return (logits[:, i] if form == "conditional" else self._as_sampled(i, logits, batch)), nothing

    def _as_sampled(self, i: int, logits: Tensor, batch: Batch) -> Tensor:
        """Return the logit columns of a task over all rows as sampled, (B, columns)."""
        given = self._given[i]
        if given is None:
            return with_offset(logits[:, i], batch.offset)
        if self.tasks[i].entire_space == "direct":
            return with_offset(logits[:, i], self._direct_offset(i, logits, batch))
        return joint_columns(self._as_sampled(given, logits, batch), fold_logit_columns(logits[:, i]))

    def _direct_offset(self, i: int, logits: Tensor, batch: Batch) -> Tensor:
        """Return the offset of a `direct` task, (B,): rows are sampled through the first task of its chain."""
        first = i
        while (given := self._given[first]) is not None:
            first = given
        own, sampled = fold_logit_columns(logits[:, i]), fold_logit_columns(logits[:, first])
        return offset_through(own.detach(), sampled.detach(), batch.offset)
