"""Pairs of a positive and a negative of the same group: all of them, or an unbiased draw. Knows no loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses._contexts import Comparison


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows, and how much of its positive's negatives each stands for.

    Axes:
        positive, negative: (P,) rows of the batch; share: (P,), adds up to 1 over the pairs of a positive.
    """

    positive: Tensor
    negative: Tensor
    share: Tensor


def pairs_within(
    comparison: Comparison, scores: Tensor, *, pairs_max: int, negatives_per_positive: int
) -> Pairs:
    """Return every pair of a positive and a negative of its group, or above `pairs_max` pairs a draw of them.

    The draw: where a group has more than `negatives_per_positive` = K negatives, they are sorted by score
    and cut into K equal strata, and each positive gets one negative of each stratum, uniform within it. So
    Σ share · f(positive, negative) has the mean that it has over all pairs, value and gradient, and little
    variance where f goes with the score. Memory: K · N⁺; time: that and one sort. From torch's own random
    numbers: the same seed draws the same.

    Shapes:
        scores: (B,), not differentiated.
    """
    positive = torch.nonzero(comparison.positive & comparison.mixed[comparison.group])[:, 0]
    group = comparison.group[positive]
    available = comparison.negatives_count[group]  # (N⁺,)
    draws = available
    if int(available.sum()) > pairs_max:
        draws = available.clamp(max=negatives_per_positive)
    negatives = torch.nonzero(~comparison.positive)[:, 0]
    if draws is not available:
        negatives = negatives[torch.argsort(scores.detach()[negatives])]
    negatives = negatives[torch.argsort(comparison.group[negatives], stable=True)]
    first = torch.cumsum(comparison.negatives_count, 0) - comparison.negatives_count  # (G,) into negatives

    owner = torch.repeat_interleave(torch.arange(len(positive), device=positive.device), draws)  # (P,)
    stratum = torch.arange(len(owner), device=owner.device) - (torch.cumsum(draws, 0) - draws)[owner]
    if draws is available:
        rank = stratum
    else:
        share_of_stratum = torch.rand(len(owner), dtype=torch.float64, device=owner.device)
        width = available / draws.to(torch.float64)  # negatives a stratum, 1 where all are taken
        rank = ((stratum + share_of_stratum) * width[owner]).long()
        # Rounding may end on the next stratum's first, or past the last.
        rank = torch.where(draws[owner] == available[owner], stratum, rank).minimum(available[owner] - 1)
    share = (1.0 / draws.to(scores.dtype))[owner]
    return Pairs(positive[owner], negatives[first[group][owner] + rank], share)
