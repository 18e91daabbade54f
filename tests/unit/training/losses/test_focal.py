"""Focal loss against its golden vectors and its plain form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.unit.training.losses.reference import APART, NO_OFFSET, Y, Z, batches, value_and_gradient
from training.losses.bce import BceLoss
from training.losses.focal import FocalLoss, Negatives


def slow(z: Tensor, labels: Tensor, gamma: float, negatives: Negatives) -> Tensor:
    p = torch.sigmoid(z)
    below = p[labels == 0] ** gamma
    if negatives == "enhanced" and len(below):
        below = below + 1 - below.mean()
    positives = -((1 - p[labels == 1]) ** gamma) * torch.log(p[labels == 1])
    return (positives.sum() - (below * torch.log(1 - p[labels == 0])).sum()) / len(z)


@pytest.mark.parametrize(
    ("negatives", "value", "gradient"),
    [
        ("standard", 0.062728177455, [-0.02758740, 0.01051623, -0.04490388, 0.00097419, 0.03848169]),
        ("enhanced", 0.243891965013, [-0.02758740, 0.05249409, -0.04490388, 0.02102825, 0.10220502]),
    ],
)
def test_golden_value_and_gradient(negatives: Negatives, value: float, gradient: list[float]) -> None:
    got, slope = value_and_gradient(FocalLoss(2.0, negatives), Z, Y, APART, NO_OFFSET)
    assert got == pytest.approx(value, abs=1e-12)
    assert slope.tolist() == pytest.approx(gradient, abs=1e-8)


@pytest.mark.parametrize("negatives", ["standard", "enhanced"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
@settings(deadline=None)
@given(batch=batches())
def test_equals_the_plain_form(
    gamma: float, negatives: Negatives, batch: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    z, labels, context, offset = batch
    leaf = z.clone().requires_grad_()
    expected = slow(leaf + offset, labels, gamma, negatives)
    expected.backward()
    value, gradient = value_and_gradient(FocalLoss(gamma, negatives), z, labels, context, offset)
    assert value == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("negatives", ["standard", "enhanced"])
@settings(deadline=None)
@given(batch=batches())
def test_gamma_of_zero_is_binary_cross_entropy(
    negatives: Negatives, batch: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    z, labels, context, offset = batch
    expected = BceLoss()(z[:, None], labels, context, offset)
    torch.testing.assert_close(FocalLoss(0.0, negatives)(z[:, None], labels, context, offset), expected)


def test_rows_already_right_count_less_the_larger_gamma_is() -> None:
    losses = [FocalLoss(gamma)(Z[:, None], Y, APART, NO_OFFSET).item() for gamma in (0.0, 1.0, 2.0, 5.0)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("negatives", ["standard", "enhanced"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_logits_far_beyond_exp_stay_finite(gamma: float, negatives: Negatives) -> None:
    z = torch.tensor([900.0, -900.0, -900.0, 900.0, 0.0])
    value, gradient = value_and_gradient(FocalLoss(gamma, negatives), z, Y, APART, NO_OFFSET)
    assert math.isfinite(value)
    assert bool(torch.isfinite(gradient).all())
