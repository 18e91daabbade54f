"""Gate NU: a small network whose output scales something else, dimension by dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GateNU(nn.Module):
    """δ = γ · σ(last(ReLU(first(x)))), each in (0, γ); 1 everywhere at the start.

    The first layer is linear in its input before the ReLU, so an export may split it by input columns:
    `first.weight` is (hidden, input). Stopping the gradient into x is the caller's business.

    Source:
        PEPNet, arXiv:2302.01115. Differs: the last layer starts at zero, so that a model starts as the one
        without gates.
    """

    def __init__(self, input_width: int, hidden_width: int, output_width: int, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.first = nn.Linear(input_width, hidden_width)
        self.last = nn.Linear(hidden_width, output_width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate.

        Shapes:
            x: (..., input_width).
            returns: (..., output_width).
        """
        return self.after_first(self.first(x))

    def after_first(self, h: Tensor) -> Tensor:
        """Return the gate from the first layer's output (..., hidden_width), for a caller that splits it."""
        return self.gamma * torch.sigmoid(self.last(torch.relu(h)))
