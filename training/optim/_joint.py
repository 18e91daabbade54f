"""One update from the summed losses, by any of torch's optimizers. Knows nothing of tasks but their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def rate_groups(
    embeddings: list[Parameter],
    dense: list[Parameter],
    embedding_learning_rate: float,
    dense_learning_rate: float,
) -> list[dict[str, Any]]:
    """Return torch's parameter groups of those kinds that there are, each with its learning rate."""
    groups = [
        {"params": embeddings, "lr": embedding_learning_rate},
        {"params": dense, "lr": dense_learning_rate},
    ]
    return [group for group in groups if group["params"]]


class JointOptimizer:
    """Sums the losses, backpropagates once and lets torch update."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._rates: list[float] = [group["lr"] for group in optimizer.param_groups]

    def step(self, losses: Mapping[str, Tensor], *, rate_ratio: float) -> None:
        """See `training.optim.Optimizer`."""
        reaching = [loss for loss in losses.values() if loss.requires_grad]
        if not reaching:
            return
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(reaching).sum().backward()
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * rate_ratio
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
