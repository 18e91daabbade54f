"""SIM's soft search against a loop over behaviors, and the loss that trains it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.training.interest.histories import (
    at,
    built,
    changed,
    close,
    history,
    item_vectors,
    one_visit,
    ragged,
)
from tests.unit.training.interest.slow_attention import attention_over
from training.data.batch import Batch
from training.modules.split import RowLayout

TARGETS = item_vectors(6, 8)


def relevance(made: Any, target: Tensor, items: Tensor) -> Tensor:
    """Return r_i of each item."""
    return torch.stack([(made.soft.behavior.weight @ e) @ (made.soft.target.weight @ target) for e in items])


def batch(labels: list[float], offset: list[float] | None = None) -> Batch:
    """Return a batch of which only the first task's labels and the offsets are read."""
    rows = torch.arange(len(labels))
    return Batch(
        item=rows,
        candidate_ids=rows[:, None],
        request=rows,
        user_ids=rows[:, None],
        domain=rows,
        layout=one_visit(len(labels)),
        parts={},
        labels=torch.tensor([[y, 1.0] for y in labels]).double(),
        offset=torch.tensor(offset or [0.0] * len(labels)).double(),
    )


@pytest.mark.parametrize("keep", [1, 5, 12, 13, None])
def test_attends_to_the_largest_inner_products(keep: int | None) -> None:
    made, part = built("sim_soft", keep=keep), history(13)
    out = made(TARGETS, part, one_visit(6))
    for row, target in enumerate(TARGETS):
        best = relevance(made, target, part.items).argsort(descending=True)[:keep].tolist()
        close(out[row], attention_over(made, target.numpy(), part, best))  # type: ignore[arg-type]


def test_padding_never_outranks_behaviors_whose_scores_are_negative() -> None:
    made, part = built("sim_soft", keep=3), history(9)
    target = -part.items[:5].mean(0, keepdim=True)
    with torch.no_grad():
        made.soft.behavior.weight.copy_(made.soft.target.weight)  # type: ignore[union-attr]
    scores = relevance(made, target[0], part.items[:5])
    items = torch.cat([part.items[:5][scores < 0], torch.zeros(9, 6).double()])
    count = int((scores < 0).sum())
    assert count >= 2
    padded = changed(
        part, items=items, size=torch.where(torch.arange(9) < count, part.size, 0.0), index=part.index
    )
    kept = relevance(made, target[0], items[:count]).argsort(descending=True)[:3].tolist()
    close(
        made(target, padded, one_visit(1))[0],
        attention_over(made, target[0].numpy(), padded, kept),  # type: ignore[arg-type]
    )


def test_of_equal_behaviors_the_newest_are_kept() -> None:
    made, part = built("sim_soft", keep=2), at(history(3), torch.tensor([0, 0, 0, 0, 0]))
    part = changed(part, age=torch.tensor([[39, 30, 20, 10, 0]]))
    close(
        made(TARGETS[:1], part, one_visit(1))[0],
        attention_over(made, TARGETS[0].numpy(), part, [3, 4]),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("mean", [False, True])
def test_the_search_sums_behaviors_by_relevance_without_softmax(mean: bool) -> None:
    made, lengths = built("sim_soft", mean=mean), [0, 5, 1, 9] * 6
    part = ragged(lengths)
    out = made.relevant(  # type: ignore[operator]
        item_vectors(24, 2), part, RowLayout(torch.arange(24), torch.zeros(24, dtype=torch.int64), 1)
    )
    for row, length in enumerate(lengths):
        items = part.items[part.index[row, :length]]
        r = relevance(made, item_vectors(24, 2)[row], items) if length else torch.zeros(0).double()
        close(out[row], (r[:, None] * items).sum(0) / (max(1, length) if mean else 1))


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_auxiliary_loss_is_the_mean_cross_entropy_of_its_own_click_model(weight: float) -> None:
    made, part = built("sim_soft", auxiliary_weight=weight).train(), history(13)
    made(TARGETS, part, one_visit(6))
    labels, offset = [0.0, 1.0, float("nan"), 0.0, 1.0, 0.0], [0.0, 0.5, 0.5, 0.25, 0.0, 1.5]
    loss = made.auxiliary_loss(batch(labels, offset))  # type: ignore[operator]
    summed = made.relevant(TARGETS, part, one_visit(6))  # type: ignore[operator]
    logits = made.auxiliary(torch.cat([summed, TARGETS], dim=1))[:, 0].tolist()  # type: ignore[operator]
    expected = [
        math.log1p(math.exp(-(2 * y - 1) * (logit + o)))
        for y, logit, o in zip(labels, logits, offset, strict=True)
        if not math.isnan(y)
    ]
    close(loss, weight * sum(expected) / 5)


def test_only_the_auxiliary_loss_trains_the_search() -> None:
    made, part = built("sim_soft").train(), history(13)
    made(TARGETS, part, one_visit(6)).sum().backward()
    searched = {n for n, p in made.named_parameters() if n.startswith(("search", "auxiliary"))}
    still = {n for n, p in made.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert still == searched
    made(TARGETS, part, one_visit(6))
    made.auxiliary_loss(batch([0.0, 1.0] * 3)).backward()  # type: ignore[operator]
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.parameters())


def test_a_batch_without_known_labels_has_no_loss_and_no_nan() -> None:
    made = built("sim_soft").train()
    made(TARGETS, history(13), one_visit(6))
    loss = made.auxiliary_loss(batch([float("nan")] * 6))  # type: ignore[operator]
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not bool(p.grad.any()) for p in made.parameters())


def test_after_its_loss_a_model_holds_no_graph_and_can_be_copied() -> None:
    made = built("sim_soft").train()
    made(TARGETS, history(13), one_visit(6))
    made.auxiliary_loss(batch([0.0] * 6))  # type: ignore[operator]
    copy.deepcopy(made)
    made.eval()(TARGETS, history(13), one_visit(6))
    copy.deepcopy(made)
