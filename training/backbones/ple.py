"""PLE: levels of experts, some of which belong to a domain (or task, or pair) and some to all.

    CGC, level l:  S_k = [specific experts of k on h_k, shared experts on h_0]
                   h_k' = softmax(h_k W_k) S_k;   h_0' = softmax(h_0 W_0) [all experts], but at the last level
    h_k = h_0 = x at first;  logits_k = tower_k(h_k) at last

Source: Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020, equations 1 to 6; one level is its CGC.
x is all inputs next to each other; a gate is linear and has no bias, as there. Decides or differs: `groups` says
what a specific expert, its gate and its tower belong to, the paper's tasks or, as multi-domain work takes it,
domains, each of whose towers has all tasks' outputs; the domain is also a feature of x (`domain_width: 0` leaves it
out); all levels have experts of one shape. One level with `shared_experts: 0` is a network of each group's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.modules.concatenated_inputs import ConcatenatedInputs
from training.modules.domain_rows import run_by_domain
from training.modules.expert_gates import Gates, mix
from training.modules.grouped_towers import GroupAxes, GroupedTowers, Groups
from training.modules.split import BackboneWidths, ServedBackbone
from training.modules.split_stacks import SplitStacks
from training.modules.stacked_layers import StackedLayers, after_first, run_layers


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: Groups = Field(
        default="domains", description="what a specific expert, its gate and its tower belong to"
    )
    levels: int = Field(default=2, ge=1)
    specific_experts: int = Field(default=1, ge=1, description="experts of each group at each level")
    shared_experts: int = Field(
        default=1, ge=0, description="experts that all groups share, at each level; 0 at one level only"
    )
    expert_hidden: tuple[int, ...] = Field(default=(64,), min_length=1, description="each expert's layers")
    tower_hidden: tuple[int, ...] = Field(default=(64,), description="each tower's layers before its logits")
    domain_width: int = Field(
        default=16, ge=0, description="width of the domain's embedding among the inputs; 0: none"
    )

    @model_validator(mode="after")
    def _levels_share(self) -> Self:
        if self.levels > 1 and not self.shared_experts:
            raise ValueError("more than one level needs shared_experts: nothing else passes between groups")
        return self


def build(options: Options, *, widths: BackboneWidths) -> Ple:
    """Build the backbone for inputs of given widths."""
    return Ple(options, widths)


class Level(nn.Module):
    """Experts and gates of one level; S sets of A groups, of which a row's domain picks one set."""

    def __init__(self, options: Options, axes: GroupAxes, inputs: int, *, last: bool) -> None:
        super().__init__()
        stack, sizes = (axes.sets, axes.per_row), (inputs, *options.expert_hidden)
        specific, shared = options.specific_experts, options.shared_experts
        self.specific = StackedLayers((*stack, specific), sizes)
        self.gates = Gates(stack, inputs, specific + shared)
        self.shared = StackedLayers((shared,), sizes) if shared else None
        self.shared_gate = Gates((), inputs, axes.count * specific + shared) if shared and not last else None

    def forward(
        self, h: Tensor, h0: Tensor, own: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return h' (S, A, B, w) and h_0' (B, w) of a level that is not the last.

        h is (S, A, B, .), or (1, 1, B, .), and h_0 (B, .). Where `own` is given, which picks a set from values
        (S, A, ...), h' is of that set alone, (A, B, w).
        """
        assert self.shared_gate is not None
        specific, shared = self.specific(h[..., None, :, :]), self.of_all(h0)
        h0 = mix(self.shared_gate(h0), specific.flatten(0, 2), *shared)
        if own is None:
            return mix(self.gates(h), specific, *shared), h0
        shares = torch.softmax(torch.matmul(own(h), own(self.gates.weight)), dim=-1)
        return mix(shares, own(specific), *shared), h0

    def of_all(self, h0: Tensor) -> tuple[Tensor, ...]:
        """Return what the shared experts say, (E0, B, w), if there are any."""
        return () if self.shared is None else (self.shared(h0),)


class Ple(nn.Module):
    """The PLE backbone."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.inputs = ConcatenatedInputs(widths, domain_width=options.domain_width)
        self.axes = GroupAxes.of(options.groups, widths)
        mixed = options.expert_hidden[-1]
        self.levels: list[Level] = nn.ModuleList(  # type: ignore[assignment]
            Level(
                options,
                self.axes,
                mixed if number else self.inputs.width,
                last=number == options.levels - 1,
            )
            for number in range(options.levels)
        )
        self.towers = GroupedTowers(self.axes, mixed, options.tower_hidden)

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        x = self.inputs(user, item, candidate, interest, domain)
        h, h0 = x[None, None], x
        for level in self.levels[:-1]:
            h, h0 = level(h, h0)
        own = h[0] if len(h) == 1 else self.axes.of_rows(h, domain)  # (A, B, .)
        last = self.levels[-1]
        shared = [experts.transpose(0, 1) for experts in last.of_all(h0)]  # (B, E0, w)
        specific = last.specific.layers_by_first_axis()
        gates = last.gates.weight.unbind(0)
        towers = self.towers.stacked.layers_by_first_axis()

        def run_set(m: int, own: Tensor, *shared: Tensor) -> Tensor:
            h = own.transpose(0, 1)
            experts = run_layers(h[:, None], specific[m], last_linear=False)  # (A, Es, rows, w)
            shares = torch.softmax(torch.matmul(h, gates[m]), dim=-1)
            mixed = mix(shares, experts, *(part.transpose(0, 1) for part in shared))
            return self.towers.of_set(mixed.transpose(0, 1), towers[m])

        if self.axes.sets == 1:
            return run_set(0, own.transpose(0, 1), *shared)
        return run_by_domain(run_set, self.axes.sets, domain, own.transpose(0, 1), *shared)

    def served(self) -> ServedPle:
        """Item, user, domain: their shares of level 1. Domain: what is its own at the last level. Joint: the rest."""
        return ServedPle(self)


class ServedPle(ServedBackbone):
    """PLE with the first layers of level 1 split by side.

    At the last level only this domain's experts, gates and towers run, and of the level before it only this domain's
    gates. All experts of a level that is not the last must run, because the shared gate reads them, and so must the
    gates of two levels before the last and above, for they feed those experts.
    """

    linear_in_interest = True

    def __init__(self, trained: Ple) -> None:
        super().__init__()
        self.axes, self.levels = trained.axes, trained.levels
        first = trained.levels[0]
        every: dict[str, tuple[Tensor, Tensor | None]] = {}
        picked: dict[str, tuple[Tensor, Tensor | None]] = {"gates": (first.gates.weight, None)}
        (picked if len(self.levels) == 1 else every)["specific"] = first.specific.layers()[0]
        if len(self.levels) > 2:
            every, picked = {**every, **picked}, {}
        if first.shared is not None:
            every["shared"] = first.shared.layers()[0]
        if first.shared_gate is not None:
            every["shared_gate"] = (first.shared_gate.weight, None)
        self.first = SplitStacks(trained.inputs, every=every, picked=picked)
        self.towers = trained.towers.served()

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the layers that every request runs, (I, Ws)."""
        return self.first.item_columns(embedding)

    def item_columns_by_domain(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the layers of which a request runs its domain's, (M, I, Wd)."""
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
        level, count = self.levels[0], len(self.levels)
        from_all = () if level.shared is None else (level.shared.after_first(first["shared"]),)
        shares = torch.softmax(first["gates"], dim=-1)

        def own(values: Tensor) -> Tensor:
            return self.axes.of_request(values, domain)

        if count == 1:
            rest = self.axes.layers_of_request(level.specific.layers()[1:], domain)
            specific = after_first(first["specific"], rest, last_linear=False)
            out: Tensor = self.towers(mix(shares, specific, *from_all), domain)
            return out
        specific = level.specific.after_first(first["specific"])  # (S, A, Es, N, w)
        h0 = mix(torch.softmax(first["shared_gate"], dim=-1), specific.flatten(0, 2), *from_all)
        h = mix(shares, own(specific) if count == 2 else specific, *from_all)
        for number in range(1, count - 1):
            h, h0 = self.levels[number](h, h0, own if number == count - 2 else None)
        last = self.levels[-1]
        layers = self.axes.layers_of_request(last.specific.layers(), domain)
        shares = torch.softmax(torch.matmul(h, own(last.gates.weight)), dim=-1)
        mixed = mix(shares, run_layers(h[:, None], layers, last_linear=False), *last.of_all(h0))
        logits: Tensor = self.towers(mixed, domain)
        return logits
