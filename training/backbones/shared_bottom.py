"""Shared bottom: one network for all, then one tower per domain (or task, or pair).

    h = relu(h W + b) layer by layer from all inputs;  logits = tower_p(h)

The hard parameter sharing that MMoE (Ma et al., KDD 2018, section 3.1, equation 1) and STAR (arXiv:2101.11427) are
compared with. Decides what they leave open: `groups` says what a tower belongs to; the domain is also a feature of
the bottom (`domain_width: 0` leaves it out); every layer but a tower's last has a ReLU.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.modules.concatenated_inputs import ConcatenatedInputs
from training.modules.grouped_towers import GroupAxes, GroupedTowers, Groups
from training.modules.split import BackboneWidths, ServedBackbone
from training.modules.stacked_layers import StackedLayers, after_first


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: Groups = Field(default="domains", description="what a tower belongs to")
    bottom_hidden: tuple[int, ...] = Field(default=(128,), min_length=1, description="the bottom's layers")
    tower_hidden: tuple[int, ...] = Field(default=(64,), description="each tower's layers before its logits")
    domain_width: int = Field(
        default=16, ge=0, description="width of the domain's embedding among the inputs; 0: none"
    )


def build(options: Options, *, widths: BackboneWidths) -> SharedBottom:
    """Build the backbone for inputs of given widths."""
    return SharedBottom(options, widths)


class SharedBottom(nn.Module):
    """The shared-bottom backbone."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.inputs = ConcatenatedInputs(widths, domain_width=options.domain_width)
        self.bottom = StackedLayers((), (self.inputs.width, *options.bottom_hidden))
        axes = GroupAxes.of(options.groups, widths)
        self.towers = GroupedTowers(axes, options.bottom_hidden[-1], options.tower_hidden)

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        h = self.bottom(self.inputs(user, item, candidate, interest, domain))
        out: Tensor = self.towers(h[:, None], domain)
        return out

    def served(self) -> ServedSharedBottom:
        """Item, user and domain: their shares of the first layer. Domain: its towers. Joint: the rest."""
        return ServedSharedBottom(self)


class ServedSharedBottom(ServedBackbone):
    """Shared bottom with its first layer split by side, and only the towers that a request's domain has."""

    linear_in_interest = True

    def __init__(self, trained: SharedBottom) -> None:
        super().__init__()
        self.bottom = trained.bottom
        weight, bias = trained.bottom.layers()[0]
        self.first = trained.inputs.split(weight, bias[0])
        self.towers = trained.towers.served()

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the bottom's first layer, (I, h)."""
        return self.first.item_columns(embedding)

    def forward(
        self,
        user: Tensor,
        shared: Tensor,
        by_domain: Tensor,
        candidate: Tensor,
        interest: Tensor,
        domain: Tensor,
    ) -> Tensor:
        """Return natural-rate logits (N, T)."""
        first = self.first(user, shared, torch.cat([candidate, interest], dim=-1), domain)
        h = after_first(first, self.bottom.layers()[1:], last_linear=False)
        out: Tensor = self.towers(h[None], domain)
        return out
