"""Which rows a ranking term compares: those of a context, or all of the batch. Knows no loss but its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

Compare = Literal["context", "batch"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The groups in which rows are compared.

    A group without a positive, or without a negative, is not mixed: there is nothing to rank in it.

    Axes:
        group: (B,) of each row, in [0, G); positive: (B,) bool;
        positives_count, negatives_count: (G,) rows of each label; mixed: (G,) bool.
    """

    group: Tensor
    positive: Tensor
    positives_count: Tensor
    negatives_count: Tensor
    mixed: Tensor

    @classmethod
    def of(cls, labels: Tensor, context: Tensor, compare: Compare) -> Self:
        """Return the groups of a batch; with `batch` there is one, whatever the context.

        Shapes:
            labels, context: (B,), B > 0.
        """
        positive = labels > 0
        if compare == "batch":
            group, groups_count = torch.zeros_like(context), 1
        else:
            ids, group = torch.unique(context, return_inverse=True)
            groups_count = len(ids)
        rows = torch.bincount(group, minlength=groups_count)
        positives = torch.bincount(group[positive], minlength=groups_count)
        return cls(group, positive, positives, rows - positives, (positives > 0) & (positives < rows))


def segment_logsumexp(values: Tensor, segment: Tensor, segments_count: int) -> Tensor:
    """Return ln Σ exp of the values of each segment, −∞ for a segment without any.

    Shapes:
        values, segment: (R,), segment in [0, segments_count).
        returns: (segments_count,).
    """
    with torch.no_grad():  # the shift cancels, in the value and in the gradient
        shift = values.new_full((segments_count,), -torch.inf).scatter_reduce(0, segment, values, "amax")
        filled = torch.isfinite(shift)
        shift = torch.where(filled, shift, 0.0)
    total = values.new_zeros(segments_count).index_add(0, segment, torch.exp(values - shift[segment]))
    # An empty segment must not reach log(0): its gradient would be 0 · ∞.
    return torch.where(filled, torch.log(torch.where(filled, total, 1.0)) + shift, -torch.inf)


def listwise_term(log_scores: Tensor, comparison: Comparison, *, average: str) -> Tensor:
    """Return the mean over positives of −ln of their share of their group's scores; 0 without a mixed group.

    Time and memory go with the rows. A 0 still reaches the scores.

    Shapes:
        log_scores: (B,) logarithms of the scores that are normalized.
        average: "contexts", every mixed group counts alike; "positives", every positive of one does.
        returns: () scalar.
    """
    rows = torch.nonzero(comparison.positive & comparison.mixed[comparison.group])[:, 0]
    if len(rows) == 0:
        return log_scores.sum() * 0.0
    total = segment_logsumexp(log_scores, comparison.group, len(comparison.mixed))
    group = comparison.group[rows]
    terms = total[group] - log_scores[rows]
    if average == "positives":
        return terms.mean()
    return (terms / comparison.positives_count[group]).sum() / comparison.mixed.sum()
