"""Adam on the sum of all losses.

Source:
    Adam: A Method for Stochastic Optimization, arXiv:1412.6980, as torch has it (ε outside the root).
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import Parameter

from training.optim._joint import JointOptimizer, rate_groups


class Options(BaseModel):
    """How fast the moments forget."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    beta1: float = Field(default=0.9, ge=0, lt=1, description="share of the first moment kept at a step")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="share of the second moment kept at a step")
    epsilon: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")


def torch_optimizer(options: Options, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return torch's optimizer of these options."""
    return torch.optim.Adam(groups, betas=(options.beta1, options.beta2), eps=options.epsilon, fused=True)


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
