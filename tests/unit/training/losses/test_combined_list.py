"""Combined-List against its golden vector, its plain form, and what the offset must do."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.unit.training.losses.reference import (
    APART,
    NO_OFFSET,
    TOGETHER,
    Y,
    Z,
    batches,
    slow_list,
    slow_term,
    value_and_gradient,
)
from training.losses._contexts import Compare
from training.losses.bce import BceLoss
from training.losses.combined_list import CombinedListLoss


@pytest.mark.parametrize(("compare", "context"), [("batch", APART), ("context", TOGETHER)])
def test_golden_value_and_gradient(compare: Compare, context: Tensor) -> None:
    value, gradient = value_and_gradient(CombinedListLoss(0.0, compare), Z, Y, context, NO_OFFSET)
    assert value == pytest.approx(1.064433946543, abs=1e-12)
    expected = [-0.09925660, 0.08941794, -0.20312198, 0.03289502, 0.18006562]
    assert gradient.tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("average", ["contexts", "positives"])
@settings(deadline=None)
@given(batch=batches())
def test_equals_the_plain_form(
    average: Literal["contexts", "positives"], batch: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    z, labels, context, offset = batch
    leaf = z.clone().requires_grad_()
    slow = slow_term(slow_list, leaf, labels, context, average)
    slow.backward()
    value, gradient = value_and_gradient(
        CombinedListLoss(0.0, "context", average), z, labels, context, offset
    )
    assert value == pytest.approx(slow.item(), abs=1e-9)  # the offset cancels
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(batch=batches())
def test_alpha_of_one_is_binary_cross_entropy(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    z, labels, context, offset = batch
    expected = BceLoss()(z[:, None], labels, context, offset)
    torch.testing.assert_close(CombinedListLoss(1.0)(z[:, None], labels, context, offset), expected)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("compare", ["context", "batch"])
def test_one_label_alone_ranks_nothing(compare: Compare, label: int) -> None:
    value, gradient = value_and_gradient(
        CombinedListLoss(0.0, compare), Z, torch.full((5,), label), TOGETHER, NO_OFFSET
    )
    assert value == 0.0
    assert gradient.tolist() == [0.0] * 5


def test_logits_far_beyond_exp_stay_finite() -> None:
    value, gradient = value_and_gradient(
        CombinedListLoss(0.5), torch.tensor([900.0, -900.0, 0.0]), Y[:3], TOGETHER[:3], NO_OFFSET[:3]
    )
    assert math.isfinite(value)
    assert bool(torch.isfinite(gradient).all())


def test_over_the_batch_natural_logits_are_the_optimum_of_sampled_rows() -> None:
    """Two contexts with odds 1/10 and 1/40; a quarter and an eighth of the negatives kept."""
    natural = torch.tensor([math.log(1 / 10), math.log(1 / 40)], dtype=torch.float64)
    kept = torch.tensor([1 / 4, 1 / 8], dtype=torch.float64)
    # One positive among two rows, one of each context: the softmax must be the chance of which it is.
    odds = torch.exp(natural) / kept
    chance = odds / odds.sum()
    gradient = torch.zeros(2, dtype=torch.float64)
    for which in (0, 1):
        labels = torch.tensor([which == 0, which == 1])
        loss = CombinedListLoss(0.0, "batch")
        gradient += chance[which] * value_and_gradient(loss, natural, labels, APART[:2], -torch.log(kept))[1]
    assert gradient.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
