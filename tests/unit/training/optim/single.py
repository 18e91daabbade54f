"""Optimizers over few numbers, fed gradients by losses that are linear in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from training.optim import Optimizer, build_optimizer

# θ0 = 1, two tasks, η = 0.1
GRADIENTS = ((1.0, 0.01), (0.8, -0.02), (1.2, 0.03))


def built(
    name: str,
    options: Mapping[str, object],
    *,
    embeddings: Sequence[Parameter] = (),
    dense: Sequence[Parameter] = (),
    rate: float = 0.1,
) -> Optimizer:
    """Return an optimizer with one rate for all."""
    return build_optimizer(
        name,
        options,
        embeddings=embeddings,
        dense=dense,
        embedding_learning_rate=rate,
        dense_learning_rate=rate,
    )


def path(name: str, options: Mapping[str, object], steps: Iterable[Sequence[float]]) -> list[float]:
    """Return θ after each step from 1; a step is the tasks' gradients."""
    theta = Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = built(name, options, dense=[theta])
    out = []
    for gradients in steps:
        losses = {f"task{k}": (theta * gradient).sum() for k, gradient in enumerate(gradients)}
        optimizer.step(losses, rate_ratio=1.0)
        out.append(theta.item())
    return out


def linear(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A loss with this gradient."""
    return (parameter * gradient).sum()
