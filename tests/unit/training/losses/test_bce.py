"""BCE on one column, on two, and with the offset of sampled negatives."""

from __future__ import annotations

import math

import pytest
import torch

from training.losses.bce import BceLoss

CONTEXT = torch.zeros(2, dtype=torch.int64)


def test_mean_of_the_log_loss() -> None:
    logits = torch.tensor([[0.0], [math.log(3.0)]])
    loss = BceLoss()(logits, torch.tensor([1, 0]), CONTEXT, torch.zeros(2))
    assert loss.item() == pytest.approx((math.log(2.0) + math.log(4.0)) / 2, rel=1e-6)


def test_two_columns_are_their_difference() -> None:
    two = torch.tensor([[0.5, 1.25], [2.0, -1.0]])
    one = two[:, 1:] - two[:, :1]
    labels, offset = torch.tensor([1.0, 0.0]), torch.tensor([0.1, 0.2])
    assert BceLoss()(two, labels, CONTEXT, offset).item() == BceLoss()(one, labels, CONTEXT, offset).item()


def test_natural_logit_is_the_optimum_of_sampled_rows() -> None:
    """One positive in 1 + 99 exposures, a ninth of the negatives kept: the best logit is the natural one."""
    labels = torch.tensor([1.0] + [0.0] * 11)
    offset = torch.full((12,), math.log(9.0))
    logit = torch.full((12, 1), math.log(1 / 99), requires_grad=True)
    BceLoss()(logit, labels, torch.zeros(12, dtype=torch.int64), offset).backward()
    assert logit.grad is not None
    assert logit.grad.sum().item() == pytest.approx(0.0, abs=1e-6)
