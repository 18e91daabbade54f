from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from training.modules.joint_logits import joined_probabilities, joint_columns, offset_through, with_offset
from training.modules.split import fold_logit_columns

VALUES = (-30.0, -8.0, -1.0, 0.0, 0.5, 3.0, 12.0)
PAIRS = torch.tensor(list(itertools.product(VALUES, VALUES)), dtype=torch.float64)


def logit(p: torch.Tensor) -> torch.Tensor:
    return torch.log(p) - torch.log1p(-p)


@pytest.mark.parametrize("no", [None, 0.0, -2.0, 5.0])
def test_both_have_the_product_of_the_probabilities(no: float | None) -> None:
    a, b = PAIRS.T
    first = a[:, None] if no is None else torch.stack([torch.full_like(a, no), a + no], dim=1)
    found = fold_logit_columns(joint_columns(first, b))
    product = torch.sigmoid(a) * torch.sigmoid(b)
    torch.testing.assert_close(torch.sigmoid(found), product, rtol=1e-12, atol=0)
    inside = product < 0.999
    torch.testing.assert_close(found[inside], logit(product[inside]), rtol=1e-9, atol=1e-12)


def test_shares_add_up_to_what_they_were() -> None:
    first = torch.randn(50, 2, dtype=torch.float64) * 4
    both = joint_columns(first, torch.randn(50, dtype=torch.float64) * 4)
    torch.testing.assert_close(both.exp().sum(1), first.exp().sum(1))


@pytest.mark.parametrize("columns", [1, 2])
def test_far_out_nothing_is_lost_and_gradients_are_finite(columns: int) -> None:
    far = torch.tensor(list(itertools.product((-500.0, 0.0, 500.0), repeat=2)))
    first = far[:, :1].repeat(1, columns)
    if columns == 2:
        first[:, 0] = 0.0
    first.requires_grad_()
    second = far[:, 1].clone().requires_grad_()
    out = fold_logit_columns(joint_columns(first, second))
    half = np.log(2)
    expected = [-1000, -500 - half, -500, -500 - half, -np.log(3), 0, -500, 0, 500 - half]
    torch.testing.assert_close(out.detach(), torch.tensor(expected, dtype=out.dtype), rtol=1e-6, atol=1e-6)
    out.sum().backward()
    assert first.grad is not None and second.grad is not None
    assert bool(torch.isfinite(first.grad).all()) and bool(torch.isfinite(second.grad).all())


def test_an_offset_moves_the_logit_by_itself_whatever_the_columns() -> None:
    offset = torch.tensor([0.0, 1.5, 4.0])
    one, two = torch.randn(3, 1), torch.randn(3, 2)
    torch.testing.assert_close(with_offset(one, offset), one + offset[:, None])
    moved = with_offset(two, offset)
    torch.testing.assert_close(fold_logit_columns(moved), fold_logit_columns(two) + offset)
    assert torch.equal(moved[:, 1], two[:, 1])


@pytest.mark.parametrize("keep", [1.0, 0.3, 0.01])
@pytest.mark.parametrize(("click", "task"), [(0.2, 0.05), (0.01, 0.009), (0.6, 0.6), (0.02, 1e-6)])
def test_the_offset_of_a_task_sampled_through_clicks_is_that_of_the_rows_kept(
    keep: float, click: float, task: float
) -> None:
    kept = click + keep * (1 - click)  # of all rows
    p, q = torch.tensor([task], dtype=torch.float64), torch.tensor([click], dtype=torch.float64)
    offset = offset_through(logit(p), logit(q), -torch.log(torch.tensor([keep], dtype=torch.float64)))
    torch.testing.assert_close(torch.sigmoid(logit(p) + offset), p / kept, rtol=1e-9, atol=0)


def test_a_task_likelier_than_its_condition_has_the_conditions_offset() -> None:
    own, sampled = torch.tensor([3.0, 500.0]), torch.tensor([-4.0, -500.0])
    offset = offset_through(own, sampled, torch.tensor([2.0, 5.0]))
    torch.testing.assert_close(offset, torch.tensor([2.0, 5.0]), rtol=1e-4, atol=0)


def test_joined_probabilities_never_exceed_the_conditions() -> None:
    alone = torch.rand(1000, 4)
    p = joined_probabilities(alone, [None, 0, 1, 0], [False, True, False, False])
    torch.testing.assert_close(p[:, 1], torch.minimum(alone[:, 0], alone[:, 1]))
    torch.testing.assert_close(p[:, 2], p[:, 1] * alone[:, 2])
    assert bool((p[:, 1] <= p[:, 0]).all()) and bool((p[:, 2] <= p[:, 1]).all())
