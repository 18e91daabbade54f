"""RCR against its golden vector, its plain form, and the optimum that it shares with cross-entropy."""

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
    slow_rcr,
    slow_term,
    value_and_gradient,
)
from training.losses._contexts import Compare
from training.losses.bce import BceLoss
from training.losses.rcr import RcrLoss


@pytest.mark.parametrize(("compare", "context"), [("batch", APART), ("context", TOGETHER)])
def test_golden_value_and_gradient(compare: Compare, context: Tensor) -> None:
    value, gradient = value_and_gradient(RcrLoss(0.0, compare), Z, Y, context, NO_OFFSET)
    assert value == pytest.approx(1.222228052872, abs=1e-12)
    expected = [-0.07043988, 0.09899920, -0.10045200, 0.05286699, 0.12309109]
    assert gradient.tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("average", ["contexts", "positives"])
@settings(deadline=None)
@given(batch=batches())
def test_equals_the_plain_form(
    average: Literal["contexts", "positives"], batch: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    z, labels, context, offset = batch
    leaf = z.clone().requires_grad_()
    slow = slow_term(slow_rcr, leaf + offset, labels, context, average)
    slow.backward()
    value, gradient = value_and_gradient(RcrLoss(0.0, "context", average), z, labels, context, offset)
    assert value == pytest.approx(slow.item(), abs=1e-9)
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(batch=batches())
def test_alpha_of_one_is_binary_cross_entropy(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    z, labels, context, offset = batch
    expected = BceLoss()(z[:, None], labels, context, offset)
    torch.testing.assert_close(RcrLoss(1.0)(z[:, None], labels, context, offset), expected)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("compare", ["context", "batch"])
def test_one_label_alone_ranks_nothing(compare: Compare, label: int) -> None:
    value, gradient = value_and_gradient(
        RcrLoss(0.0, compare), Z, torch.full((5,), label), TOGETHER, NO_OFFSET
    )
    assert value == 0.0
    assert gradient.tolist() == [0.0] * 5


def test_logits_far_beyond_exp_stay_finite() -> None:
    value, gradient = value_and_gradient(
        RcrLoss(0.5), torch.tensor([-900.0, -900.0, -950.0]), Y[:3], TOGETHER[:3], NO_OFFSET[:3]
    )
    assert math.isfinite(value)
    assert bool(torch.isfinite(gradient).all())


def test_optimum_is_that_of_cross_entropy_also_on_sampled_rows() -> None:
    """Two kinds of rows in one context: 1 of 4 and 2 of 4 of the kept ones are positives."""
    rate = torch.tensor([1 / 4, 2 / 4], dtype=torch.float64)
    offset = torch.full((8,), math.log(9.0), dtype=torch.float64)
    z = (torch.logit(rate) - math.log(9.0)).repeat_interleave(4)
    labels = torch.tensor([1, 0, 0, 0, 1, 1, 0, 0])
    for alpha in (0.0, 1.0):
        _, gradient = value_and_gradient(RcrLoss(alpha), z, labels, torch.zeros(8, dtype=torch.int64), offset)
        assert gradient.view(2, 4).sum(1).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
