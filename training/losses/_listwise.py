"""What listwise losses share: cross-entropy, and a positive's share of the scores it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from training.losses._contexts import Compare, Comparison, listwise_term
from training.losses.bce import natural_logit


class ListwiseOptions(BaseModel):
    """How much calibration counts against ranking, and what is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.9, ge=0.0, le=1.0, description="weight of the cross-entropy")
    compare: Compare = Field(default="context", description="rows of a context, or all of the batch")
    average: Literal["contexts", "positives"] = Field(
        default="contexts", description="what counts alike: contexts with both labels, or their positives"
    )


@dataclass(frozen=True)
class ListwiseLoss:
    """α · cross-entropy + (1 − α) · list term. A loss says what its list term normalizes."""

    alpha: float = 0.9
    compare: Compare = "context"
    average: Literal["contexts", "positives"] = "contexts"
    logit_columns: int = 1

    def log_scores(self, sampled: Tensor) -> Tensor:
        """Return logarithms of the scores (B,) that are normalized, of logits (B,) of the rows as sampled."""
        raise NotImplementedError

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """See `training.losses.Loss`; logits may be (B, 1) or (B, 2). Both terms read logit + offset."""
        if len(logits) == 0:
            return logits.sum()
        sampled = natural_logit(logits) + offset
        bce = functional.binary_cross_entropy_with_logits(sampled, labels.to(logits.dtype))
        comparison = Comparison.of(labels, context, self.compare)
        ranking = listwise_term(self.log_scores(sampled), comparison, average=self.average)
        return self.alpha * bce + (1.0 - self.alpha) * ranking
