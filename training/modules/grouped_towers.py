"""Towers that belong to domains, to tasks, or to both: what they are, in training and served.

MMoE and PLE were made for tasks; a recommender of several domains may take a domain for a task (every domain its
own tower, as a scenario has in the literature), a task for one, or each pair. A group is what a tower belongs to,
and with it a gate and, in PLE, experts. A row is of one domain and has all tasks, so that its groups are:

    groups               sets, picked by domain   groups of a row   tasks of a group
    domains              M                        1                 T
    tasks                1                        T                 1
    domains_and_tasks    M                        T                 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from training.modules.domain_rows import run_by_domain
from training.modules.split import BackboneWidths
from training.modules.stacked_layers import FoldedLayers, Layers, StackedLayers, run_layers

Groups = Literal["domains", "tasks", "domains_and_tasks"]


@dataclass(frozen=True)
class GroupAxes:
    """The axes of grouped parameters: S sets of which a row's domain picks one, and A groups of a row."""

    sets: int
    per_row: int
    tasks_each: int
    logit_columns: int

    @classmethod
    def of(cls, groups: Groups, widths: BackboneWidths) -> Self:
        """Return the axes for the outputs of a backbone."""
        return cls(
            sets=1 if groups == "tasks" else widths.domains_count,
            per_row=1 if groups == "domains" else widths.tasks_count,
            tasks_each=widths.tasks_count if groups == "domains" else 1,
            logit_columns=widths.logit_columns,
        )

    @property
    def count(self) -> int:
        """Return how many groups there are."""
        return self.sets * self.per_row

    def of_rows(self, every: Tensor, domain: Tensor) -> Tensor:
        """Return each row's own set, (A, B, w), of values (S, A, B, w) that all sets have for all rows."""
        if self.sets == 1:
            return every[0]
        rows = torch.arange(domain.shape[0], device=domain.device)
        return every.permute(2, 0, 1, 3)[rows, domain].transpose(0, 1)

    def of_request(self, every: Tensor, domain: Tensor) -> Tensor:
        """Return a request's own set, (A, ...), of values (S, A, ...); domain (1,)."""
        return every[0] if self.sets == 1 else every[domain][0]

    def layers_of_request(self, layers: Layers, domain: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the same of layers."""
        return [(self.of_request(weight, domain), self.of_request(bias, domain)) for weight, bias in layers]

    def logits(self, out: Tensor) -> Tensor:
        """Return the outputs of a row's towers, (A, B, tasks_each * columns), as (B, T, columns)."""
        by_row: Tensor = out.transpose(0, 1).unflatten(-1, (self.tasks_each, self.logit_columns))
        return by_row.flatten(1, 2)


class GroupedTowers(nn.Module):
    """One network per group, from what the group's gate mixed, or from one bottom that all share, to logits."""

    def __init__(self, axes: GroupAxes, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.axes = axes
        sizes = (inputs, *hidden, axes.tasks_each * axes.logit_columns)
        self.stacked = StackedLayers((axes.sets, axes.per_row), sizes, last_linear=True)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """Return logits (B, T, columns) for x (B, A, w), or (B, 1, w) that a row's towers share."""
        by_set = self.stacked.layers_by_first_axis()
        if self.axes.sets == 1:
            return self.of_set(x, by_set[0])
        return run_by_domain(lambda m, rows: self.of_set(rows, by_set[m]), self.axes.sets, domain, x)

    def of_set(self, x: Tensor, layers: Layers) -> Tensor:
        """Return the same for rows that all read one set, whose layers are given."""
        return self.axes.logits(run_layers(x.transpose(0, 1), layers, last_linear=True))

    def served(self) -> ServedTowers:
        """Return towers of which a request runs its own domain's only."""
        return ServedTowers(self)


class ServedTowers(nn.Module):
    """Towers picked once per request, their logit columns folded into one."""

    def __init__(self, trained: GroupedTowers) -> None:
        super().__init__()
        axes = self.axes = trained.axes
        self.folded = FoldedLayers(
            trained.stacked.layers(), tasks=axes.tasks_each, logit_columns=axes.logit_columns
        )

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """Return natural-rate logits (N, T) for x (A, N, w), or (1, N, w) that the towers share; domain (1,)."""
        layers = self.axes.layers_of_request(self.folded.layers(), domain)
        return run_layers(x, layers, last_linear=True).transpose(0, 1).flatten(1)
