"""Ages and strengths as embeddings beside an item, and as shares of a projection."""

from __future__ import annotations

import pytest
import torch

from training.modules.cross_features import CROSS_WIDTH, CrossFeatures, CrossName, CrossProjection
from training.modules.split import HistoryPart

PART = HistoryPart(
    items=torch.zeros(1, 3),
    index=torch.zeros(2, 4, dtype=torch.int64),
    size=torch.ones(2, 4),
    age=torch.arange(8).view(2, 4),
    strength=torch.arange(8, 16).view(2, 4),
)
ITEMS = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("names", [(), ("age",), ("strength",), ("age", "strength")])
def test_a_projection_of_both_is_the_sum_of_its_shares(names: tuple[CrossName, ...]) -> None:
    made = CrossFeatures(names)
    beside = made.beside(ITEMS, PART)
    assert made.width == CROSS_WIDTH * len(names) and beside.shape == (2, 4, 3 + made.width)
    projection = CrossProjection(made, 5)
    item_rows = torch.randn(5, 3)
    whole = torch.cat([item_rows, *(projection.linears[name].weight for name in names)], dim=1)  # type: ignore[list-item]
    torch.testing.assert_close(projection(ITEMS @ item_rows.T, made, PART), beside @ whole.T)


def test_buckets_that_training_never_saw_take_after_the_nearest_that_it_saw() -> None:
    made = CrossFeatures(("age", "strength"))
    age, strength = (made.tables[name].weight for name in ("age", "strength"))
    before = age.detach().clone(), strength.detach().clone()  # type: ignore[operator]
    seen = torch.zeros(len(age), dtype=torch.bool)  # type: ignore[arg-type]
    seen[[3, 7]] = True
    made.fill_unseen(seen, torch.zeros(len(strength), dtype=torch.bool))  # type: ignore[arg-type]
    assert torch.equal(age[:6], before[0][[3]].expand(6, -1))  # type: ignore[index]  # 5 is as near to 3: the lower
    assert torch.equal(age[6:], before[0][[7]].expand(len(seen) - 6, -1))  # type: ignore[index]
    assert torch.equal(strength, before[1])  # type: ignore[arg-type]  # none seen: they stay


def test_tables_that_are_not_there_are_not_filled() -> None:
    CrossFeatures(()).fill_unseen(torch.ones(40, dtype=torch.bool), torch.ones(20, dtype=torch.bool))
