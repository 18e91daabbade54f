"""The covariance between experts: golden values, what it does not see, and precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.modules.cross_covariance import Pairs, Reduction, cross_covariance_loss

FIRST = [[1.0, 2.0], [0.0, 1.0], [2.0, 0.0]]
SECOND = [[0.5, -1.0], [1.0, 0.0], [0.0, 2.0]]


def experts(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def drawn(count: int = 3, rows: int = 7, width: int = 4) -> Tensor:
    return torch.randn(count, rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_loops(outputs: Tensor, *, with_itself: bool) -> float:
    """Return the loss from pairs of numbers, one after the other."""
    total, (count, rows, width) = 0.0, outputs.shape
    x = (outputs - outputs.mean(1, keepdim=True)).tolist()
    for p in range(count):
        for q in range(p + with_itself):
            for i in range(width):
                for j in range(width):
                    total += abs(sum(x[p][b][i] * x[q][b][j] for b in range(rows)))
    return total / width**2


@pytest.mark.parametrize(("pairs", "expected"), [("p_gt_q", 1.625), ("p_ge_q", 4.9166667)])
def test_golden(pairs: Pairs, expected: float) -> None:
    loss = cross_covariance_loss(experts(FIRST, SECOND), pairs=pairs)
    assert loss.item() == pytest.approx(expected, abs=1e-7)


def test_the_mean_is_the_sum_over_the_rows() -> None:
    assert cross_covariance_loss(experts(FIRST, SECOND), reduction="mean").item() == pytest.approx(1.625 / 3)


@pytest.mark.parametrize("pairs", ["p_gt_q", "p_ge_q"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_equals_pairs_of_numbers(pairs: Pairs, count: int) -> None:
    outputs = drawn(count)
    expected = by_loops(outputs, with_itself=pairs == "p_ge_q")
    assert cross_covariance_loss(outputs, pairs=pairs).item() == pytest.approx(expected, abs=1e-12)


def test_experts_centred_and_orthogonal_cost_nothing() -> None:
    outputs = experts([[1.0], [-1.0], [1.0], [-1.0]], [[1.0], [1.0], [-1.0], [-1.0]])
    assert cross_covariance_loss(outputs).item() == 0.0
    assert cross_covariance_loss(outputs, pairs="p_ge_q").item() == 8.0  # 4 each: their own variance


def test_a_constant_row_added_to_an_expert_changes_nothing() -> None:
    outputs, row = drawn(), torch.tensor([3.0, -1.0, 0.5, 10.0], dtype=torch.float64)
    moved = torch.stack([outputs[0], outputs[1] + row, outputs[2]])
    for pairs in ("p_gt_q", "p_ge_q"):
        torch.testing.assert_close(
            cross_covariance_loss(moved, pairs=pairs), cross_covariance_loss(outputs, pairs=pairs)
        )


def test_scaling_an_expert_scales_its_pairs() -> None:
    a, b, c = drawn()
    between = [cross_covariance_loss(torch.stack(pair)).item() for pair in ((a, b), (a, c), (b, c))]
    scaled = cross_covariance_loss(torch.stack([a, -3 * b, c])).item()
    assert scaled == pytest.approx(3 * between[0] + between[1] + 3 * between[2])


def test_the_order_of_experts_and_of_rows_is_of_no_matter() -> None:
    outputs = drawn()
    expected = cross_covariance_loss(outputs)
    torch.testing.assert_close(cross_covariance_loss(outputs[[2, 0, 1]]), expected)
    torch.testing.assert_close(cross_covariance_loss(outputs[:, [3, 6, 0, 1, 5, 2, 4]]), expected)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("rows", [0, 1])
def test_one_row_or_none_covaries_with_nothing(rows: int, reduction: Reduction) -> None:
    outputs = drawn(rows=rows).requires_grad_()
    loss = cross_covariance_loss(outputs, reduction=reduction)
    loss.backward()
    assert loss.item() == 0.0
    assert outputs.grad is not None and not bool(outputs.grad.any())


def test_one_expert_has_no_pairs() -> None:
    assert cross_covariance_loss(drawn(1)).item() == 0.0


def test_a_dead_expert_costs_nothing_and_learns_nothing() -> None:
    """Why the spread of an expert's outputs is to be watched: this loss alone would leave it dead."""
    outputs = drawn(2)
    outputs[1] = 0.7
    outputs.requires_grad_()
    loss = cross_covariance_loss(outputs)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert outputs.grad is not None and float(outputs.grad[0].abs().max()) < 1e-12


def test_half_precision_does_not_overflow() -> None:
    """A product of 300 and 300 is beyond float16, a sum of 64 of them all the more."""
    outputs = torch.where(torch.arange(64) % 2 == 0, 300.0, -300.0)[None, :, None].expand(2, -1, 1)
    loss = cross_covariance_loss(outputs.half())
    assert loss.dtype == torch.float32 and loss.item() == 64 * 300.0 * 300.0


def test_automatic_mixed_precision_does_not_reach_in() -> None:
    outputs = drawn().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cross_covariance_loss(outputs)
    assert torch.equal(inside, cross_covariance_loss(outputs))


def test_a_step_against_the_gradient_decorrelates() -> None:
    outputs = drawn(2)
    outputs[1] = outputs[0] + 0.1 * outputs[1]
    outputs.requires_grad_()
    before = cross_covariance_loss(outputs)
    (slope,) = torch.autograd.grad(before, outputs)
    assert cross_covariance_loss(outputs - 1e-3 * slope).item() < before.item()
