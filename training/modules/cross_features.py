"""Cross features of a behavior: what it has beside its item, its age and its strength, as embeddings.

Knows nothing of items and nothing of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from service.contract.history import AGE_BUCKETS, STRENGTH_BUCKETS
from training.modules.split import HistoryPart

CROSS_WIDTH = 8
CrossName = Literal["age", "strength"]
_BUCKETS: dict[str, int] = {"age": AGE_BUCKETS, "strength": STRENGTH_BUCKETS}


class CrossFeatures(nn.Module):
    """A table per cross feature; none at all is allowed, and then the width is 0."""

    def __init__(self, names: Sequence[CrossName]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(_BUCKETS[name], CROSS_WIDTH) for name in names})
        for table in self._tables().values():
            nn.init.normal_(table.weight, std=0.1)
        self.width = CROSS_WIDTH * len(self.tables)

    def beside(self, items: Tensor, part: HistoryPart) -> Tensor:
        """Return items (V, L, D) with their cross features appended, (V, L, D + width)."""
        ids = {"age": part.age, "strength": part.strength}
        return torch.cat([items, *(table(ids[name]) for name, table in self._tables().items())], dim=-1)

    @torch.no_grad()
    def fill_unseen(self, age_seen: Tensor, strength_seen: Tensor) -> None:
        """Give each bucket that training never saw the embedding of the nearest that it saw.

        Else a history older than the logs would be read by random numbers.

        Shapes:
            age_seen: (AGE_BUCKETS,), strength_seen: (STRENGTH_BUCKETS,), bool.
        """
        all_seen = {"age": age_seen, "strength": strength_seen}
        for name, table in self._tables().items():
            seen = all_seen[name]
            known = torch.nonzero(seen)[:, 0]
            if len(known):
                distance = (torch.arange(len(seen))[:, None] - known[None, :]).abs()
                table.weight.copy_(table.weight[known[distance.argmin(1)]])

    def _tables(self) -> dict[str, nn.Embedding]:
        return {name: table for name, table in self.tables.items() if isinstance(table, nn.Embedding)}


class CrossProjection(nn.Module):
    """The rows of a projection that read cross features: tables are projected, not behaviors."""

    def __init__(self, cross: CrossFeatures, width: int) -> None:
        super().__init__()
        self.linears = nn.ModuleDict(
            {name: nn.Linear(CROSS_WIDTH, width, bias=False) for name in cross.tables}
        )

    def forward(self, projected: Tensor, cross: CrossFeatures, part: HistoryPart) -> Tensor:
        """Return `projected` (V, L, width), what items project to, plus what cross features do."""
        tables = {name: linear(cross.tables[name].weight) for name, linear in self.linears.items()}
        if (
            len(tables) == 2
        ):  # one look-up of sums: the table of all pairs is shorter than a batch's histories
            pairs = (tables["age"][:, None] + tables["strength"][None]).flatten(0, 1)
            return projected + embedding(part.age * STRENGTH_BUCKETS + part.strength, pairs)
        for name, table in tables.items():
            projected = projected + embedding(part.age if name == "age" else part.strength, table)
        return projected
