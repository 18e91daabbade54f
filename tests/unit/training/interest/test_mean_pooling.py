"""The mean of a history against a loop."""

from __future__ import annotations

import torch

from tests.unit.training.interest.histories import built, close, history, item_vectors, one_visit

TARGETS = item_vectors(3, 8)


def test_each_item_counts_as_often_as_its_size_says() -> None:
    made, part = built("mean_pooling", crossed=["age"]), history(7, sizes=True)
    total = torch.zeros(14).double()
    for i in range(7):
        age = made.cross.tables["age"].weight[part.age[0, i]]  # type: ignore[union-attr,index]
        for _ in range(int(part.size[0, i])):
            total = total + torch.cat([part.items[i], age])
    expected = total / part.size.sum()
    close(made(TARGETS, part, one_visit(3)), expected.expand(3, -1))


def test_the_target_does_not_matter() -> None:
    made, part = built("mean_pooling"), history(7)
    close(made(TARGETS * 3 + 1, part, one_visit(3)), made(TARGETS, part, one_visit(3)), atol=0)
    close(made(TARGETS, part, one_visit(3))[0], part.items.mean(0))
