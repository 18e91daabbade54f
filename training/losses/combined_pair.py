"""Combined-Pair: cross-entropy of each row, and a logistic loss of each pair of a positive and a negative.

Source:
    Understanding the Ranking Loss for Recommendation with Sparse User Feedback, arXiv:2403.14144 (and
    Li et al., KDD 2015, for Twitter's timeline):
    α · BCE + (1 − α) · (1/(N⁺N⁻)) Σ_P Σ_Q ln(1 + e^−(z_i − z_j)).
    Differs: pairs are formed within a context unless `compare: batch`, which is the paper's, and each context
    counts alike unless `average: pairs`; no weight of positives (β, the paper's device to simulate sparsity);
    without a pair the term is 0, not NaN; above `pairs_max` pairs, all of N⁺ · N⁻, an unbiased draw stands for
    them (`training.losses._pairs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from training.losses._contexts import Compare, Comparison
from training.losses._pairs import pairs_within
from training.losses.bce import natural_logit


class Options(BaseModel):
    """How much calibration counts against ranking, and which pairs are formed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.7, ge=0.0, le=1.0, description="weight of the cross-entropy")
    compare: Compare = Field(default="context", description="pairs of a context, or all of the batch")
    average: Literal["contexts", "pairs"] = Field(
        default="contexts", description="what counts alike: contexts with both labels, or pairs"
    )
    pairs_max: int = Field(
        default=200_000, ge=0, description="most pairs formed one by one; above, negatives are drawn"
    )
    negatives_per_positive: int = Field(
        default=64, ge=1, description="negatives drawn for each positive of a context that has more"
    )


@dataclass(frozen=True, slots=True)
class CombinedPairLoss:
    """α · cross-entropy + (1 − α) · pairwise logistic loss."""

    options: Options
    logit_columns: int = 1

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """See `training.losses.Loss`; logits may be (B, 1) or (B, 2).

        Both terms read logit + offset. One that is the same for a whole context cancels there; over the
        batch it undoes that negatives of different contexts were kept at different rates, so that
        natural-rate logits stay the optimum.
        """
        if len(logits) == 0:
            return logits.sum()
        options = self.options
        sampled = natural_logit(logits) + offset
        bce = functional.binary_cross_entropy_with_logits(sampled, labels.to(logits.dtype))
        comparison = Comparison.of(labels, context, options.compare)
        return options.alpha * bce + (1.0 - options.alpha) * self._pairwise(sampled, comparison)

    def _pairwise(self, scores: Tensor, comparison: Comparison) -> Tensor:
        pairs = pairs_within(
            comparison,
            scores,
            pairs_max=self.options.pairs_max,
            negatives_per_positive=self.options.negatives_per_positive,
        )
        if len(pairs.positive) == 0:
            return scores.sum() * 0.0
        terms = functional.softplus(scores[pairs.negative] - scores[pairs.positive]) * pairs.share
        group = comparison.group[pairs.positive]
        if self.options.average == "pairs":
            pairs_count = (comparison.positives_count * comparison.negatives_count).sum()
            return (terms * comparison.negatives_count[group]).sum() / pairs_count
        return (terms / comparison.positives_count[group]).sum() / comparison.mixed.sum()


def build(options: Options) -> CombinedPairLoss:
    """Return the loss of these options."""
    return CombinedPairLoss(options)
