"""Focal loss: cross-entropy that turns away from rows already right. Blind to which rows were shown together.

Source:
    Focal Loss for Dense Object Detection, arXiv:1708.02002, and its `enhanced` negatives as in
    Understanding the Ranking Loss for Recommendation with Sparse User Feedback, arXiv:2403.14144.
    Differs: no class weight α_t. No proper scoring rule: its optimum is not the rate, so probabilities need
    calibration afterwards, except at γ = 0, where it is BCE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from training.losses.bce import natural_logit

Negatives = Literal["standard", "enhanced"]


class Options(BaseModel):
    """How sharply rows already right are turned away from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gamma: float = Field(default=2.0, ge=0.0, description="power of the probability of the wrong label")
    negatives: Negatives = Field(
        default="standard",
        description="weight of a negative: p^γ, or p^γ + 1 − mean of p^γ over the batch's negatives",
    )


@dataclass(frozen=True, slots=True)
class FocalLoss:
    """Mean over rows of w · cross-entropy, w = (1 − p)^γ for positives; see `Options` for negatives.

    The weights are not detached: gradients flow through them, also through the mean.
    """

    gamma: float = 2.0
    negatives: Negatives = "standard"
    logit_columns: int = 1

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """See `training.losses.Loss`; logits may be (B, 1) or (B, 2). The context is not read."""
        if len(logits) == 0:
            return logits.sum()
        positive = labels > 0
        sampled = natural_logit(logits) + offset
        wrong = torch.where(positive, -sampled, sampled)  # log-odds of the label that was not observed
        weight = torch.exp(self.gamma * functional.logsigmoid(wrong))
        if self.negatives == "enhanced":
            negative = ~positive
            mean = torch.where(negative, weight, 0.0).sum() / negative.sum().clamp(min=1)
            weight = torch.where(negative, weight + 1.0 - mean, weight)
        return (weight * functional.softplus(wrong)).mean()


def build(options: Options) -> FocalLoss:
    """Return the loss of these options."""
    return FocalLoss(options.gamma, options.negatives)
