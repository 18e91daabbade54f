"""AdaGrad on the sum of all losses.

Source:
    Adaptive Subgradient Methods for Online Learning and Stochastic Optimization (Duchi et al., JMLR 2011),
    the diagonal form, as torch has it (ε outside the root).
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import Parameter

from training.optim._joint import JointOptimizer, rate_groups


class Options(BaseModel):
    """Where the sums of squares begin."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    initial_sum: float = Field(default=0.0, ge=0, description="sum of squared gradients before the first")
    epsilon: float = Field(default=1e-8, gt=0, description="added to the root of the sum")


def torch_optimizer(options: Options, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return torch's optimizer of these options."""
    return torch.optim.Adagrad(
        groups, initial_accumulator_value=options.initial_sum, eps=options.epsilon, fused=True
    )


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
