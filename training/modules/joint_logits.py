"""Logits of outcomes that need another outcome first, stably. Knows nothing of tasks, losses and models."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def joint_columns(first: Tensor, second: Tensor) -> Tensor:
    """Return the logit columns of two outcomes that both happen.

    `first` is one logit, or two columns (no, yes) whose difference is the logit; `second` is the logit of the
    other outcome among rows where the first happened. One column: the logit of σ(a)·σ(b), which is
    −ln(e^−a + e^−b + e^−(a+b)). Two columns are read as logarithms of shares, as JRC does: the yes column times σ(b),
    the no column plus what is left of the yes column; their difference is the same logit.

    Shapes:
        first: (B, 1) or (B, 2); second: (B,).
        returns: as `first`.
    """
    if first.shape[1] == 1:
        a = first[:, 0]
        return -torch.logsumexp(torch.stack([-a, -second, -a - second]), dim=0)[:, None]
    no, yes = first[:, 0], first[:, 1]
    rest = torch.logaddexp(no, yes + functional.logsigmoid(-second))
    return torch.stack([rest, yes + functional.logsigmoid(second)], dim=1)


def with_offset(columns: Tensor, offset: Tensor) -> Tensor:
    """Return logit columns (B, 1 or 2) of rows as sampled: `offset` (B,) is added to the logit.

    Of two columns it leaves the no column, whose exp is the share of negatives.
    """
    if columns.shape[1] == 1:
        return columns + offset[:, None]
    return torch.stack([columns[:, 0] - offset, columns[:, 1]], dim=1)


def offset_through(logit: Tensor, sampled_logit: Tensor, offset: Tensor) -> Tensor:
    """Return the offset of a task whose rows were sampled through the label of another that it cannot do without.

    Negatives of the other, of probability 1 − q, were kept with probability k = e^−offset. The odds of the
    task, p / (1 − p), become p / (1 − p − (1 − k)(1 − q)) in the rows kept: more by 1 / (1 − (1 − k) r),
    r = (1 − q) / (1 − p). Where the logits say p > q, which cannot be, r is 1. No gradient passes.

    Shapes:
        logit, sampled_logit: (B,) natural-rate logits of p and of q; offset: (B,) −ln k.
        returns: (B,).
    """
    with torch.no_grad():
        log_ratio = functional.logsigmoid(-sampled_logit) - functional.logsigmoid(-logit)
        return -torch.log1p(torch.expm1(-offset) * torch.exp(log_ratio.clamp(max=0.0)))


def joined_probabilities(alone: Tensor, given: list[int | None], direct: list[bool]) -> Tensor:
    """Return the probabilities served, (N, T), of sigmoids of logits (N, T).

    A task with a condition, whose place is in `given`, has its own times the condition's, or where it is `direct`
    the lesser of both: never more than the condition's.
    """
    columns: list[Tensor] = []
    for task, condition in enumerate(given):
        column = alone[:, task : task + 1]
        if condition is not None:
            before = columns[condition]
            column = torch.minimum(column, before) if direct[task] else column * before
        columns.append(column)
    return torch.cat(columns, dim=-1)
