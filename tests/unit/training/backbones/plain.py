"""The slow references' common steps: one row, one network at a time, from the same parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from training.modules.concatenated_inputs import ConcatenatedInputs
from training.modules.stacked_layers import StackedLayers

GROUPS = ("domains", "tasks", "domains_and_tasks")


def groups_of(groups: str, domain: int, task: int) -> tuple[int, int, int]:
    """Return the set and the place in it of what belongs to a row's domain and task, and the task's place in that."""
    return {"domains": (domain, 0, task), "tasks": (0, task, 0), "domains_and_tasks": (domain, task, 0)}[
        groups
    ]


def whole(made: ConcatenatedInputs, sides: tuple[Tensor, ...], row: int) -> Tensor:
    """Return one row's input, (d,)."""
    *parts, domain = sides
    own = [] if made.domain is None else [made.domain.weight[domain[row]]]
    return torch.cat([*own, *(part[row] for part in parts)])


def network(x: Tensor, layers: StackedLayers, *place: int) -> Tensor:
    """Return what one of stacked networks makes of one row, (d,) -> (h,)."""
    depth = len(layers.weights)
    for number, (weight, bias) in enumerate(layers.layers(), start=1):
        x = x @ weight[place] + bias[place][0]
        if number < depth or not layers.last_linear:
            x = x.clamp(min=0)
    return x


def shares(x: Tensor, weight: Tensor) -> Tensor:
    """Return a gate's shares for one row, (d,) -> (E,)."""
    powers = (x @ weight).exp()
    return powers / powers.sum()


def weighted(share: Tensor, experts: list[Tensor]) -> Tensor:
    """Return the experts' outputs, each times its share, summed."""
    assert len(share) == len(experts)
    return torch.stack([share[e] * expert for e, expert in enumerate(experts)]).sum(0)
