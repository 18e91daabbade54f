"""Combined-List: cross-entropy of each row, and a softmax of each positive against all it is compared with.

Source:
    Scale Calibration of Deep Ranking Models (Yan et al., KDD 2022) as stated in Understanding the Ranking
    Loss for Recommendation with Sparse User Feedback, arXiv:2403.14144:
    α · BCE + (1 − α) · (1/N⁺) Σ_P −ln(e^z / Σ e^z).
    Differs: rows are compared within a context unless `compare: batch`, which is the paper's; a context
    (or batch) of one label only adds nothing, where the paper's term compares positives with each other or
    is 0/0; no weight of positives (β, the paper's device to simulate sparsity); log-sum-exp per context
    instead of raw exponentials.
    The term grows with the logarithm of the rows compared, so α does not carry over between sizes.
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
class CombinedListLoss:
    """α · cross-entropy + (1 − α) · listwise softmax."""

    alpha: float = 0.9
    compare: Compare = "context"
    average: Literal["contexts", "positives"] = "contexts"
    logit_columns: int = 1

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """See `training.losses.Loss`; logits may be (B, 1) or (B, 2).

        Both terms read logit + offset. Within a context the offset is a constant and cancels; over the
        batch it makes the softmax that of the rows as sampled, so that natural-rate logits are its optimum.
        """
        if len(logits) == 0:
            return logits.sum()
        sampled = natural_logit(logits) + offset
        bce = functional.binary_cross_entropy_with_logits(sampled, labels.to(logits.dtype))
        ranking = listwise_term(sampled, Comparison.of(labels, context, self.compare), average=self.average)
        return self.alpha * bce + (1.0 - self.alpha) * ranking


def build(options: Options) -> CombinedListLoss:
    """Return the loss of these options."""
    return CombinedListLoss(options.alpha, options.compare, options.average)
