"""Embedding tables of a side's features, concatenated. Knows nothing of values: ids come in, vectors go out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

INIT_STD = 0.05


class FeatureEmbeddings(nn.Module):
    """One table per feature; id 0 is the unknown value and is learned like any other."""

    def __init__(self, ids_counts: Mapping[str, int], widths: Mapping[str, int]) -> None:
        """`ids_counts` and `widths` are keyed by feature, in the order of the id tensor's columns."""
        super().__init__()
        self.names = tuple(ids_counts)
        self.tables = nn.ModuleList(nn.Embedding(ids_counts[name], widths[name]) for name in self.names)
        for table in self.tables:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=INIT_STD)
        self.slices: dict[str, slice] = {}
        start = 0
        for name in self.names:
            self.slices[name] = slice(start, start + widths[name])
            start += widths[name]
        self.width = start

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids (..., F) to (..., width)."""
        if not self.names:
            return torch.zeros(*ids.shape[:-1], 0)
        return torch.cat([table(ids[..., i]) for i, table in enumerate(self.tables)], dim=-1)
