"""MMoE: experts that all share, and a gate per domain (or task, or pair) that says how much of each it takes.

    f_e = expert_e(x);  g_k = softmax(x W_k) over the experts;  logits_k = tower_k(sum_e g_ke f_e)

Source: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018,
equations 6 to 8. x is all inputs next to each other; a gate is linear in x and has no bias, as there. Decides or
differs: `groups` says what a gate and its tower belong to, the paper's tasks or, as multi-domain work takes it,
domains, each of whose towers has all tasks' outputs; the domain is also a feature of x (`domain_width: 0` leaves it
out); a gate has no dropout and no batch normalization, which some public code puts before its softmax.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.modules.concatenated_inputs import ConcatenatedInputs
from training.modules.expert_gates import Gates, mix
from training.modules.grouped_towers import GroupAxes, GroupedTowers, Groups
from training.modules.split import BackboneWidths, ServedBackbone
from training.modules.split_stacks import SplitStacks
from training.modules.stacked_layers import StackedLayers


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: Groups = Field(default="domains", description="what a gate and its tower belong to")
    experts_count: int = Field(default=3, ge=1)
    expert_hidden: tuple[int, ...] = Field(default=(64,), min_length=1, description="each expert's layers")
    tower_hidden: tuple[int, ...] = Field(default=(64,), description="each tower's layers before its logits")
    domain_width: int = Field(
        default=16, ge=0, description="width of the domain's embedding among the inputs; 0: none"
    )


def build(options: Options, *, widths: BackboneWidths) -> Mmoe:
    """Build the backbone for inputs of given widths."""
    return Mmoe(options, widths)


class Mmoe(nn.Module):
    """The MMoE backbone."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.inputs = ConcatenatedInputs(widths, domain_width=options.domain_width)
        self.axes = GroupAxes.of(options.groups, widths)
        self.experts = StackedLayers((options.experts_count,), (self.inputs.width, *options.expert_hidden))
        self.gates = Gates((self.axes.sets, self.axes.per_row), self.inputs.width, options.experts_count)
        self.towers = GroupedTowers(self.axes, options.expert_hidden[-1], options.tower_hidden)

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        x = self.inputs(user, item, candidate, interest, domain)
        shares = self.axes.of_rows(self.gates(x), domain)  # (A, B, E)
        out: Tensor = self.towers(mix(shares, self.experts(x)).transpose(0, 1), domain)
        return out

    def served(self) -> ServedMmoe:
        """Item, user, domain: their shares of all first layers. Domain: its gates and towers. Joint: the rest."""
        return ServedMmoe(self)


class ServedMmoe(ServedBackbone):
    """MMoE with the first layers of experts and gates split by side, and only this domain's gates and towers."""

    linear_in_interest = True

    def __init__(self, trained: Mmoe) -> None:
        super().__init__()
        self.experts = trained.experts
        self.first = SplitStacks(
            trained.inputs,
            every={"experts": trained.experts.layers()[0]},
            picked={"gates": (trained.gates.weight, None)},
        )
        self.towers = trained.towers.served()

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the experts' first layers, and of gates that are not a domain's, (I, Ws)."""
        return self.first.item_columns(embedding)

    def item_columns_by_domain(self, embedding: Tensor) -> Tensor:
        """Return the item's share of each domain's gates, (M, I, Wd)."""
        return self.first.item_columns_by_domain(embedding)

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
        first = self.first(user, shared, by_domain, candidate, interest, domain)
        shares = torch.softmax(first["gates"], dim=-1)  # (A, N, E)
        out: Tensor = self.towers(mix(shares, self.experts.after_first(first["experts"])), domain)
        return out
