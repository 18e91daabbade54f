"""Modules that state no split are served by their training forward on one request repeated to N rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.modules.split import HistoryPart, RowLayout
from training.modules.unsplit import UnsplitBackbone, UnsplitInterest


class CountsLike(nn.Module):
    """Per row: how much of its history has an embedding like its own; sizes, ages and strengths beside it."""

    out_width = 4

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        out = torch.zeros(len(target), 4)
        for row in range(len(target)):
            visit = int(layout.visit[row])
            for i in range(part.index.shape[1]):
                size = part.size[visit, i]
                out[row, 0] += size * (target[row] @ part.items[part.index[visit, i]])
                out[row, 1] += size
                out[row, 2] += size * part.age[visit, i]
                out[row, 3] += size * part.strength[visit, i]
        return out


class Lists(nn.Module):
    """Logits (B, 2, 2) that name every input: their sums, and the domain."""

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        assert len({len(x) for x in (user, item, candidate, interest, domain)}) == 1
        columns = (user.sum(1), item.sum(1) + candidate.sum(1) * 10, interest.sum(1), domain.float())
        return torch.stack(columns, dim=1).unflatten(1, (2, 2))


def test_interest_sees_one_history_and_every_candidate() -> None:
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    served = UnsplitInterest(CountsLike())
    columns = served.item_columns(torch.tensor([[2.0, 3.0], [0.0, 1.0]]))
    out = served(
        columns,
        served.history_columns(items),
        torch.tensor([1.0, 2.0, 0.0]),
        torch.tensor([5, 1, 9]),
        torch.tensor([0, 2, 9]),
    )
    assert out.tolist() == [[8.0, 3.0, 7.0, 4.0], [2.0, 3.0, 7.0, 4.0]]


def test_backbone_has_its_request_repeated_and_its_columns_folded() -> None:
    served = UnsplitBackbone(Lists())
    item = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    shared = served.item_columns(item)
    assert served.item_columns_by_domain(item).shape == (1, 3, 0)
    out = served(
        torch.tensor([[7.0]]),
        shared,
        item[:, :0],
        torch.tensor([[0.1], [0.2], [0.3]]),
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([2]),
    )
    # (item + 10 candidate) - user, domain - interest
    torch.testing.assert_close(out, torch.tensor([[-3.0, 1.0], [2.0, 0.0], [7.0, -1.0]]))


def test_backbone_of_no_candidates() -> None:
    served = UnsplitBackbone(Lists())
    empty = torch.zeros(0, 2)
    out = served(torch.tensor([[7.0]]), empty, empty[:, :0], empty, empty, torch.tensor([1]))
    assert out.shape == (0, 2)
