"""RCR: cross-entropy of each row, and a list term over normalized probabilities, with the same optimum.

Source:
    Regression Compatible Listwise Objectives for Calibrated Ranking with Binary Relevance,
    arXiv:2211.01494, ListCE, as stated in arXiv:2403.14144:
    α · BCE + (1 − α) · (1/N⁺) Σ_P −ln(σ(z) / Σ σ(z)).
    Differs: as Combined-List (`compare`, one-label contexts add nothing, no weight of positives), and in
    log-sigmoids throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from training.losses._contexts import Compare, Comparison, listwise_term
from training.losses.bce import natural_logit


class Options(BaseModel):
    """How much calibration counts against ranking, and what is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.9, ge=0.0, le=1.0, description="weight of the cross-entropy")
    compare: Compare = Field(default="context", description="rows of a context, or all of the batch")
    average: Literal["contexts", "positives"] = Field(
        default="contexts", description="what counts alike: contexts with both labels, or their positives"
    )


@dataclass(frozen=True, slots=True)
class RcrLoss:
    """α · cross-entropy + (1 − α) · normalized-sigmoid list term."""

    alpha: float = 0.9
    compare: Compare = "context"
    average: Literal["contexts", "positives"] = "contexts"
    logit_columns: int = 1

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """See `training.losses.Loss`; logits may be (B, 1) or (B, 2).

        Both terms read logit + offset. A constant does not cancel out of normalized sigmoids, so within a
        context too the list term needs the offset: its optimum has σ proportional to the rate of the rows
        as sampled, which is BCE's optimum only if both read the same logit.
        """
        if len(logits) == 0:
            return logits.sum()
        sampled = natural_logit(logits) + offset
        bce = functional.binary_cross_entropy_with_logits(sampled, labels.to(logits.dtype))
        ranking = listwise_term(
            functional.logsigmoid(sampled),
            Comparison.of(labels, context, self.compare),
            average=self.average,
        )
        return self.alpha * bce + (1.0 - self.alpha) * ranking


def build(options: Options) -> RcrLoss:
    """Return the loss of these options."""
    return RcrLoss(options.alpha, options.compare, options.average)
