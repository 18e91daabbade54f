"""RMSProp on the sum of all losses.

Source:
    Lecture 6.5 of Neural Networks for Machine Learning (Tieleman and Hinton, 2012), as torch has it: ε outside
    the root, no correction of the first steps, which are therefore up to 1/√(1 − decay) times the rate.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import Parameter

from training.optim._joint import JointOptimizer, rate_groups


class Options(BaseModel):
    """How fast the second moment forgets."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    decay: float = Field(default=0.9, ge=0, lt=1, description="share of the second moment kept at a step")
    epsilon: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")


def torch_optimizer(options: Options, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return torch's optimizer of these options."""
    return torch.optim.RMSprop(groups, alpha=options.decay, eps=options.epsilon, foreach=True)


def build(
    options: Options,
    *,
    embeddings: list[Parameter],
    dense: list[Parameter],
    embedding_learning_rate: float,
    dense_learning_rate: float,
) -> JointOptimizer:
    """Return the optimizer of these options."""
    groups = rate_groups(embeddings, dense, embedding_learning_rate, dense_learning_rate)
    return JointOptimizer(torch_optimizer(options, groups))
