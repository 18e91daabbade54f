"""Histories read in groups, rows laid beside them, and the newest of each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.modules.alike_histories import (
    GROUP_VISITS,
    newest,
    over_alike_histories,
    pad_rows,
    take_rows,
)
from training.modules.split import HistoryPart, RowLayout


def histories(lengths: list[int]) -> HistoryPart:
    """Return histories whose ages count from 1, and from 100 in padding."""
    shape = (len(lengths), max(lengths))
    place = torch.arange(shape[1]).expand(shape)
    real = place < torch.tensor(lengths)[:, None]
    age = torch.where(real, place + 1, 100)
    return HistoryPart(torch.zeros(1, 2), torch.zeros_like(age), real.float(), age, age)


LAYOUT = RowLayout(torch.tensor([2, 0, 2, 1, 2]), torch.tensor([0, 0, 2, 0, 1]), 3)


def test_rows_stand_beside_their_history_and_come_back_in_order() -> None:
    rows = torch.arange(10.0).view(5, 2)
    padded = pad_rows(rows, 4, LAYOUT)
    assert padded.shape == (4, 3, 2)
    assert padded[2, :, 0].tolist() == [0.0, 8.0, 4.0]
    assert padded[0, :, 0].tolist() == [2.0, 0.0, 0.0] and not bool(padded[3].any())
    assert torch.equal(take_rows(padded, LAYOUT), rows)


@pytest.mark.parametrize("visits", [1, GROUP_VISITS, GROUP_VISITS + 1, 5 * GROUP_VISITS + 3])
def test_groups_give_each_row_its_own_history_and_read_no_further_than_the_longest(visits: int) -> None:
    random = torch.Generator().manual_seed(visits)
    lengths = torch.randint(0, 90, (visits,), generator=random)
    lengths[0] = 90
    part = histories(lengths.tolist())
    visit = torch.randperm(visits, generator=random).repeat(2)
    layout = RowLayout(visit, torch.arange(2).repeat_interleave(visits), 2)
    seen: list[int] = []

    def read(rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout) -> Tensor:
        seen.append(part.index.numel())
        total = (part.age * part.size).sum(1)
        return torch.stack([rows[0], total[layout.visit]], dim=1)

    out = over_alike_histories(read, (torch.arange(2.0 * visits),), part, layout)
    assert out[:, 0].tolist() == list(range(2 * visits))
    assert out[:, 1].tolist() == [n * (n + 1) / 2 for n in lengths[visit].tolist()]
    assert len(seen) == -(-visits // GROUP_VISITS)
    if visits > 2 * GROUP_VISITS:
        assert sum(seen) < 0.8 * visits * 90  # less than all padded to the longest


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_newest_are_the_last_real_ones_in_order(count: int) -> None:
    lengths = [0, 1, 2, 5, 7]
    part = newest(histories(lengths), count)
    assert part.index.shape == (5, min(count, 7))
    for row, length in enumerate(lengths):
        real = part.age[row][part.size[row] > 0].tolist()
        assert real == list(range(1, length + 1))[-count:]
