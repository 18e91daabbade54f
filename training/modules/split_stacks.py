"""The first layers of experts and gates, all of which read the same input, split by side as one layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.modules.concatenated_inputs import ConcatenatedInputs
from training.modules.split_linear import SplitLinear
from training.modules.stacked_layers import as_columns, from_columns

Stacks = Mapping[str, tuple[Tensor, Tensor | None]]
"""By name, weight (*stack, d, h) and bias (*stack, 1, h), or None, of first layers."""


class SplitStacks(nn.Module):
    """First layers that every request runs, and first layers of which it runs the set of its domain.

    Knows nothing of what the layers are for; a name only finds an output again.
    """

    def __init__(self, inputs: ConcatenatedInputs, *, every: Stacks, picked: Stacks) -> None:
        """Split the layers; the first axis of those `picked` is the domain, or 1 where all domains share the set."""
        super().__init__()
        alone = {name: _first_set(stack) for name, stack in picked.items() if stack[0].shape[0] == 1}
        every = {**every, **alone}
        picked = {name: stack for name, stack in picked.items() if name not in alone}
        self.every_shapes = {name: _shape(weight.shape[:-2], weight) for name, (weight, _) in every.items()}
        self.picked_shapes = {
            name: _shape(weight.shape[1:-2], weight) for name, (weight, _) in picked.items()
        }
        self.every = _wide(inputs, every, keep=0)
        self.picked = _wide(inputs, picked, keep=1)

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the layers of `every`, (I, Ws)."""
        return embedding[:, :0] if self.every is None else self.every.item_columns(embedding)

    def item_columns_by_domain(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the layers of `picked`, (M, I, Wd)."""
        return embedding[None, :, :0] if self.picked is None else self.picked.item_columns(embedding)

    def forward(
        self,
        user: Tensor,
        shared: Tensor,
        by_domain: Tensor,
        candidate: Tensor,
        interest: Tensor,
        domain: Tensor,
    ) -> dict[str, Tensor]:
        """Return each layer's output before any activation, (*stack, N, h), without the domain's axis."""
        joint = torch.cat([candidate, interest], dim=-1)
        out: dict[str, Tensor] = {}
        for split, share, shapes in (
            (self.every, shared, self.every_shapes),
            (self.picked, by_domain, self.picked_shapes),
        ):
            if split is not None:
                wide = split(user, share, joint, domain).split([size for size, _ in shapes.values()], dim=-1)
                for (name, (_, stack)), columns in zip(shapes.items(), wide, strict=True):
                    out[name] = from_columns(columns, stack)
        return out


def _first_set(stack: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    weight, bias = stack
    return weight[0], None if bias is None else bias[0]


def _shape(stack: torch.Size, weight: Tensor) -> tuple[int, tuple[int, ...]]:
    """Return how many columns a stack of layers has side by side, and its axes."""
    return stack.numel() * weight.shape[-1], tuple(stack)


def _wide(inputs: ConcatenatedInputs, stacks: Stacks, *, keep: int) -> SplitLinear | None:
    """Return the layers side by side as one; `keep` leading axes, 0 or 1, stay."""
    if not stacks:
        return None
    weights, biases = [], []
    for weight, bias in stacks.values():
        weights.append(as_columns(weight, keep=keep))
        flat = torch.zeros_like(weight[..., :1, :]) if bias is None else bias
        biases.append(as_columns(flat, keep=keep).squeeze(-2))
    return inputs.split(torch.cat(weights, dim=-1), torch.cat(biases, dim=-1))
