"""Networks of one shape side by side, such as experts or towers: one batched matmul a layer runs all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.modules.split import fold_logit_columns

Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight (*stack, a, b) and bias (*stack, 1, b) of each layer."""


class StackedLayers(nn.Module):
    """h <- relu(h W + b) layer by layer, of as many networks as `stack`, of any axes, has places.

    A bias starts at 0, a weight as He et al. (arXiv:1502.01852) say, uniform.
    """

    def __init__(self, stack: tuple[int, ...], sizes: Sequence[int], *, last_linear: bool = False) -> None:
        """`sizes` are the widths of the input and of each layer; `last_linear`: no ReLU after the last one."""
        super().__init__()
        self.stack, self.last_linear = stack, last_linear
        self.weights = nn.ParameterList(torch.empty(*stack, a, b) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(*stack, 1, b) for b in sizes[1:])
        for weight in self.weights:
            for one in weight.detach().reshape(-1, *weight.shape[-2:]):
                nn.init.kaiming_uniform_(one.T, nonlinearity="relu")

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return the layers of all networks."""
        return list(zip(self.weights, self.biases, strict=True))

    def layers_by_first_axis(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Return, for each place on the stack's first axis, the layers of the networks there."""
        by_layer = [list(zip(w.unbind(0), b.unbind(0), strict=True)) for w, b in self.layers()]
        return [[layer[place] for layer in by_layer] for place in range(self.stack[0])]

    def forward(self, x: Tensor) -> Tensor:
        """Return (*stack, B, last size) for x (*stack, B, first size), or any x that broadcasts to it."""
        return run_layers(x, self.layers(), last_linear=self.last_linear)

    def after_first(self, h: Tensor) -> Tensor:
        """Return the same from the first layer's output before its ReLU, (*stack, B, second size)."""
        return after_first(h, self.layers()[1:], last_linear=self.last_linear)


class FoldedLayers(nn.Module):
    """Layers that end in logits, for serving: their values copied, a task's two logit columns folded into one."""

    def __init__(self, layers: Layers, *, tasks: int, logit_columns: int) -> None:
        """Copy the layers, of which the last is tasks * logit_columns wide."""
        super().__init__()
        self.depth = len(layers)
        for number, pair in enumerate(layers, start=1):
            for name, value in zip(("weight", "bias"), pair, strict=True):
                if number == self.depth:
                    value = fold_logit_columns(value.unflatten(-1, (tasks, logit_columns)))
                self.register_buffer(f"{name}_{number}", value.detach().clone().contiguous())

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return the layers, the last one `tasks` wide."""
        numbers = range(1, self.depth + 1)
        return [(self.get_buffer(f"weight_{n}"), self.get_buffer(f"bias_{n}")) for n in numbers]


def run_layers(x: Tensor, layers: Layers, *, last_linear: bool) -> Tensor:
    """Run x (*stack, B, a) through layers of weights (*stack, a, b)."""
    for number, (weight, bias) in enumerate(layers, start=1):
        x = torch.matmul(x, weight) + bias
        x = x if last_linear and number == len(layers) else torch.relu(x)
    return x


def after_first(h: Tensor, rest: Layers, *, last_linear: bool) -> Tensor:
    """Run a first layer's output, before its ReLU, through the layers that follow it."""
    if not rest and last_linear:
        return h
    return run_layers(torch.relu(h), rest, last_linear=last_linear)


def as_columns(weight: Tensor, *, keep: int = 0) -> Tensor:
    """Return weights that read one input as one wide layer: (*stack, d, h) -> (*stack[:keep], d, places * h)."""
    return weight.movedim(-2, keep).flatten(keep + 1)


def from_columns(wide: Tensor, stack: tuple[int, ...]) -> Tensor:
    """Return the wide layer's output (N, places * h) by place, (*stack, N, h)."""
    by_place: Tensor = wide.unflatten(-1, (*stack, wide.shape[-1] // math.prod(stack)))
    return by_place.movedim(0, -2)
