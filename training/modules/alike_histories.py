"""Reading many histories of very different lengths: those alike are padded together, the others not.

Knows nothing of what is read out of a history, and nothing of the order of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.modules.split import HistoryPart, RowLayout

GROUP_VISITS = 16
"""Histories padded together in training. Their lengths differ by orders of magnitude, so that padding a whole
batch to its longest would be most of the work."""

Read = Callable[[tuple[Tensor, ...], HistoryPart, RowLayout], Tensor]


def over_alike_histories(
    read: Read, rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout
) -> Tensor:
    """Return what `read(rows, part, layout) -> (B, W)` returns for the whole batch, group by group.

    `read` must treat each row and its history alone. The items of `part` are handed on as they are, so what is
    computed from them once per batch stays so. A graph under export and a small batch are one group.

    Shapes:
        rows: tensors (B, ...), one entry a row of the batch.
    """
    if torch.compiler.is_exporting() or len(part.index) <= GROUP_VISITS:
        return read(rows, part, layout)
    outputs, places = [], []
    for group in _groups_alike(part, layout):
        mine = HistoryPart(
            part.items,
            *(ids[group.visits, : group.length] for ids in (part.index, part.size, part.age, part.strength)),
        )
        outputs.append(read(tuple(row.index_select(0, group.rows) for row in rows), mine, group.layout))
        places.append(group.rows)
    together = torch.cat(outputs)
    return torch.empty_like(together).index_copy(0, torch.cat(places), together)


def pad_rows(rows: Tensor, visits_count: int, layout: RowLayout) -> Tensor:
    """Lay rows beside their histories, zero where a history has fewer rows: (B, W) -> (V, P, W)."""
    padded = rows.new_zeros(visits_count * layout.width, rows.shape[1])
    return padded.index_copy(0, _place(layout), rows).view(visits_count, layout.width, rows.shape[1])


def take_rows(padded: Tensor, layout: RowLayout) -> Tensor:
    """Undo `pad_rows`: (V, P, W) -> (B, W)."""
    return padded.flatten(0, 1).index_select(0, _place(layout))


def newest(part: HistoryPart, count: int) -> HistoryPart:
    """Return the newest `count` behaviors of each history, oldest first; shorter histories are padded in front.

    The part must be ordered from old to new with its padding last. Only in a graph under export, whose histories
    have no fixed length, the result has `count` columns where there are fewer.
    """
    if not torch.compiler.is_exporting():
        count = min(count, part.index.shape[1])
    lengths = (part.size > 0).sum(1, keepdim=True)
    position = lengths - count + torch.arange(count, device=lengths.device)[None, :]  # (V, count)
    real = position.clamp(min=0)
    size = torch.where(position >= 0, part.size.gather(1, real), 0.0)
    index, age, strength = (ids.gather(1, real) for ids in (part.index, part.age, part.strength))
    return HistoryPart(part.items, index, size, age, strength)


def _place(layout: RowLayout) -> Tensor:
    """Return where each row stands among all padded rows, (B,)."""
    return layout.visit * layout.width + layout.slot


@dataclass(frozen=True)
class _Group:
    """Some visits of alike length, the rows that read them, and where those rows stand among themselves."""

    visits: Tensor
    length: int
    rows: Tensor
    layout: RowLayout


def _groups_alike(part: HistoryPart, layout: RowLayout) -> Iterator[_Group]:
    """Yield all visits in groups of GROUP_VISITS, alike in length of history and number of rows."""
    visits_count = len(part.index)
    lengths = (part.size > 0).sum(1)
    rows_counts = torch.bincount(layout.visit, minlength=visits_count)
    alike = torch.argsort(torch.div(lengths, 32, rounding_mode="floor") * (layout.width + 1) + rows_counts)
    rank = torch.empty_like(alike).scatter(0, alike, torch.arange(visits_count))
    row_order = torch.argsort(rank[layout.visit], stable=True)
    ends = torch.cumsum(rows_counts[alike], 0).tolist()
    for start in range(0, visits_count, GROUP_VISITS):
        stop = min(start + GROUP_VISITS, visits_count)
        visits = alike[start:stop]
        rows = row_order[ends[start - 1] if start else 0 : ends[stop - 1]]
        width = int(rows_counts[visits].max())
        inner = RowLayout(rank[layout.visit[rows]] - start, layout.slot[rows], width)
        yield _Group(visits, max(1, int(lengths[visits].max())), rows, inner)
