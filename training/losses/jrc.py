"""JRC: one loss that ranks within a context and calibrates, over two logits per row.

Source:
    Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model, arXiv:2208.06164.
    Differs: the ranking term is computed by log-sum-exp per context instead of over a (B, B) mask, with
    equal values; `same_label_competition=False` is the variant in which the rows of the same label leave
    each other's denominators (floor 0); `compare="batch"` is the variant of public code that takes the
    whole batch for one context; both terms take the offset of sampled negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from training.losses._contexts import Compare, segment_logsumexp
from training.losses.bce import natural_logit
from training.modules.joint_logits import with_offset


class Options(BaseModel):
    """How much calibration counts against ranking, and who competes with whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.5, ge=0.0, le=1.0, description="weight of the calibration term")
    same_label_competition: bool = Field(
        default=True, description="whether rows of the same label stand in each other's denominator"
    )
    compare: Compare = Field(default="context", description="rows of a context, or all of the batch")


@dataclass(frozen=True, slots=True)
class JrcLoss:
    """α · calibration + (1 − α) · ranking, each the mean over all rows given."""

    alpha: float = 0.5
    same_label_competition: bool = True
    compare: Compare = "context"
    logit_columns: int = 2

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """See `training.losses.Loss`.

        The offset leaves the non-click column, whose exp is the share of negatives as sampled, so that natural-rate
        logits stay the optimum of both terms. Where it is the same for a whole context, ranking there never sees it.
        """
        if len(logits) == 0:
            return logits.sum()
        logits = with_offset(logits, offset)
        calibration = functional.binary_cross_entropy_with_logits(
            natural_logit(logits), labels.to(logits.dtype)
        )
        if self.compare == "batch":
            context = torch.zeros_like(context)
        ranking = ranking_terms(
            logits, labels, context, same_label_competition=self.same_label_competition
        ).mean()
        return self.alpha * calibration + (1.0 - self.alpha) * ranking


def ranking_terms(
    logits: Tensor, labels: Tensor, context: Tensor, *, same_label_competition: bool = True
) -> Tensor:
    """Return −ln of each row's share of its context, in the column of its own label.

    Of P positives and Q negatives in a context, the terms add up to no less than P ln P + Q ln Q (to 0
    without competition within a label), so the level says nothing of quality.

    Shapes:
        logits: (B, 2); labels, context: (B,).
        returns: (B,).
    """
    own = labels.to(torch.int64)
    ids, segment = torch.unique(context, return_inverse=True)
    own_logit = logits.gather(1, own[:, None])[:, 0]
    if same_label_competition:
        both = torch.cat([segment * 2, segment * 2 + 1])  # (2B,) context × column
        denominator = segment_logsumexp(torch.cat([logits[:, 0], logits[:, 1]]), both, 2 * len(ids))
        return denominator[segment * 2 + own] - own_logit
    rival_logit = logits.gather(1, 1 - own[:, None])[:, 0]  # in the column where it is a rival
    rivals = segment_logsumexp(rival_logit, segment * 2 + 1 - own, 2 * len(ids))[segment * 2 + own]
    alone = torch.isneginf(rivals)
    gap = torch.where(alone, 0.0, rivals) - own_logit
    return torch.where(alone, own_logit * 0.0, functional.softplus(gap))


def mixed_context_share(labels: Tensor, context: Tensor) -> float:
    """Return the share of rows whose context has both labels: only these compare a positive with a negative.

    Near 0 where a context's rows are scattered over batches. Of no rows, 0.

    Shapes:
        labels, context: (B,).
    """
    if len(labels) == 0:
        return 0.0
    ids, segment = torch.unique(context, return_inverse=True)
    rows = torch.zeros(len(ids)).index_add(0, segment, torch.ones(len(labels)))
    positives = torch.zeros(len(ids)).index_add(0, segment, labels.to(torch.float32))
    mixed = (positives > 0) & (positives < rows)
    return float(mixed[segment].to(torch.float64).mean())


def build(options: Options) -> JrcLoss:
    """Return the loss of these options."""
    return JrcLoss(options.alpha, options.same_label_competition, options.compare)
