"""Embedding tables of a side's features, concatenated. Knows nothing of values: ids come in, vectors go out.

Neighbouring features of equal width lie in one table, one after the other, so that forty small features are one
look-up and not forty.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import torch
from torch import Tensor, nn

INIT_STD = 0.05


class FeatureEmbeddings(nn.Module):
    """Every feature's own rows; id 0 is the unknown value and is learned like any other."""

    offsets: Tensor

    def __init__(self, ids_counts: Mapping[str, int], widths: Mapping[str, int]) -> None:
        """`ids_counts` and `widths` are keyed by feature, in the order of the id tensor's columns."""
        super().__init__()
        self.names = tuple(ids_counts)
        self.columns_count = len(self.names)
        self.slices: dict[str, slice] = {}
        self.tables = nn.ModuleList()
        self._columns: list[slice] = []
        self._rows: dict[str, tuple[int, slice]] = {}
        offsets: list[int] = []
        start = 0
        for width, names in groupby(self.names, key=lambda name: widths[name]):
            first, rows_count = len(offsets), 0
            for name in names:
                self._rows[name] = (len(self.tables), slice(rows_count, rows_count + ids_counts[name]))
                offsets.append(rows_count)
                rows_count += ids_counts[name]
                self.slices[name] = slice(start, start + width)
                start += width
            self._columns.append(slice(first, len(offsets)))
            table = nn.Embedding(rows_count, width)
            nn.init.normal_(table.weight, std=INIT_STD)
            self.tables.append(table)
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.int64), persistent=False)
        self.width = start

    def table_of(self, name: str) -> Tensor:
        """Return the rows of one feature, (ids, width)."""
        number, rows = self._rows[name]
        table = self.tables[number]
        assert isinstance(table, nn.Embedding)
        return table.weight[rows]

    def without_values_of(self, name: str) -> FeatureEmbeddings:
        """Return the same embeddings, but that of one feature the unknown value only is left."""
        widths = {own: where.stop - where.start for own, where in self.slices.items()}
        kept = {own: self.table_of(own)[: 1 if own == name else None] for own in self.names}
        made = FeatureEmbeddings({own: len(rows) for own, rows in kept.items()}, widths)
        with torch.no_grad():
            for own, rows in kept.items():
                made.table_of(own).copy_(rows)
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids (..., F) to (..., width)."""
        if not self.names:
            return torch.zeros(*ids.shape[:-1], 0)
        rows = ids + self.offsets
        parts = [
            table(rows[..., columns]).flatten(-2)
            for table, columns in zip(self.tables, self._columns, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
