"""Experts mixed by a gate, as MMoE and PLE do it."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn


class Gates(nn.Module):
    """softmax(x W) over experts, one gate for each place of `stack`; no bias, as in both papers.

    W starts at zero, so that a gate starts by taking as much of every expert.
    """

    def __init__(self, stack: tuple[int, ...], inputs: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*stack, inputs, experts))

    def forward(self, x: Tensor) -> Tensor:
        """Return the shares (*stack, B, E), which sum to 1 over E, for x (*stack, B, inputs) or one that broadcasts."""
        return torch.softmax(torch.matmul(x, self.weight), dim=-1)


def mix(shares: Tensor, *experts: Tensor) -> Tensor:
    """Return the experts' outputs weighted by a gate's shares and summed.

    Shapes:
        shares: (..., B, E), E all experts in the order given; experts: (..., E_i, B, w), or without the leading axes
        where all gates share these experts; returns: (..., B, w).
    """
    outputs = [output for part in experts for output in part.unbind(-3)]
    each = shares.split(1, dim=-1)
    # Not one product and a sum over E: ONNX Runtime's ReduceSum takes several times as long as a few additions.
    total: Tensor = reduce(torch.add, (s * output for s, output in zip(each, outputs, strict=True)))
    return total
