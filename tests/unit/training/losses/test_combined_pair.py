"""Combined-Pair against its golden vector, its plain form, and its draw of negatives."""

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
    slow_pairs,
    slow_term,
    value_and_gradient,
)
from training.losses._contexts import Compare
from training.losses.bce import BceLoss
from training.losses.combined_pair import CombinedPairLoss, Options

Average = Literal["contexts", "pairs"]


@pytest.mark.parametrize(("compare", "context"), [("batch", APART), ("context", TOGETHER)])
@pytest.mark.parametrize(
    ("alpha", "value", "gradient"),
    [
        (0.0, 0.248974408252, [-0.09471820, 0.06898346, -0.11812773, 0.02926811, 0.11459436]),
        (0.7, 0.364038833998, [-0.08127115, 0.05834684, -0.09846156, 0.02546884, 0.09395636]),
        (1.0, 0.413352159318, [-0.07550813, 0.05378828, -0.09003320, 0.02384058, 0.08511150]),
    ],
)
def test_golden_value_and_gradient(
    compare: Compare, context: Tensor, alpha: float, value: float, gradient: list[float]
) -> None:
    loss = CombinedPairLoss(Options(alpha=alpha, compare=compare))
    got, slope = value_and_gradient(loss, Z, Y, context, NO_OFFSET)
    assert got == pytest.approx(value, abs=1e-12)
    assert slope.tolist() == pytest.approx(gradient, abs=1e-8)


@pytest.mark.parametrize("average", ["contexts", "pairs"])
@settings(deadline=None)
@given(batch=batches())
def test_equals_the_plain_form(average: Average, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    z, labels, context, offset = batch
    leaf = z.clone().requires_grad_()
    slow = slow_term(slow_pairs, leaf, labels, context, average)
    slow.backward()
    loss = CombinedPairLoss(Options(alpha=0.0, average=average))
    value, gradient = value_and_gradient(loss, z, labels, context, offset)
    assert value == pytest.approx(slow.item(), abs=1e-9)  # the offset cancels
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(batch=batches())
def test_over_the_batch_equals_the_plain_form_of_what_cross_entropy_reads(
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    z, labels, context, offset = batch
    expected = slow_term(slow_pairs, z + offset, labels, torch.zeros_like(context), "pairs")
    loss = CombinedPairLoss(Options(alpha=0.0, compare="batch"))
    assert loss(z[:, None], labels, context, offset).item() == pytest.approx(expected.item(), abs=1e-9)


@settings(deadline=None)
@given(batch=batches())
def test_alpha_of_one_is_binary_cross_entropy(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    z, labels, context, offset = batch
    expected = BceLoss()(z[:, None], labels, context, offset)
    torch.testing.assert_close(
        CombinedPairLoss(Options(alpha=1.0))(z[:, None], labels, context, offset), expected
    )


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("pairs_max", [0, 100])
@pytest.mark.parametrize("compare", ["context", "batch"])
def test_one_label_alone_ranks_nothing(compare: Compare, pairs_max: int, label: int) -> None:
    loss = CombinedPairLoss(Options(alpha=0.0, compare=compare, pairs_max=pairs_max))
    value, gradient = value_and_gradient(loss, Z, torch.full((5,), label), TOGETHER, NO_OFFSET)
    assert value == 0.0
    assert gradient.tolist() == [0.0] * 5


def test_logits_far_beyond_exp_stay_finite() -> None:
    value, gradient = value_and_gradient(
        CombinedPairLoss(Options()), torch.tensor([-900.0, 900.0, 0.0]), Y[:3], TOGETHER[:3], NO_OFFSET[:3]
    )
    assert math.isfinite(value)
    assert bool(torch.isfinite(gradient).all())


def many_rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """300 rows, about one in eight positive, in three contexts of unequal size and one without positives."""
    random = torch.Generator().manual_seed(3)
    z = torch.randn(300, generator=random, dtype=torch.float64) * 2
    labels = (torch.rand(300, generator=random) < 0.125).to(torch.int64)
    context = torch.arange(300) % 7 // 2
    labels[context == 3] = 0
    return z, labels, context, torch.zeros(300, dtype=torch.float64)


@pytest.mark.parametrize("average", ["contexts", "pairs"])
@settings(deadline=None)
@given(batch=batches())
def test_a_draw_of_all_negatives_is_exact(
    average: Average, batch: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    exact = CombinedPairLoss(Options(alpha=0.0, average=average))
    drawn = CombinedPairLoss(Options(alpha=0.0, average=average, pairs_max=0, negatives_per_positive=25))
    expected, slope = value_and_gradient(exact, *batch)
    value, gradient = value_and_gradient(drawn, *batch)
    assert value == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, slope, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("compare", ["context", "batch"])
@pytest.mark.parametrize("average", ["contexts", "pairs"])
def test_the_draw_has_the_mean_of_all_pairs(compare: Compare, average: Average) -> None:
    """800 draws of 3 negatives: within five standard errors, in the value and in every row's gradient."""
    rows = many_rows()
    exact = CombinedPairLoss(Options(alpha=0.0, compare=compare, average=average))
    drawn = CombinedPairLoss(
        Options(alpha=0.0, compare=compare, average=average, pairs_max=0, negatives_per_positive=3)
    )
    expected, slope = value_and_gradient(exact, *rows)
    torch.manual_seed(11)
    draws = [value_and_gradient(drawn, *rows) for _ in range(800)]
    values = torch.tensor([value for value, _ in draws], dtype=torch.float64)
    gradients = torch.stack([gradient for _, gradient in draws])
    assert abs(values.mean() - expected) < 5 * values.std() / 800**0.5
    error = (gradients.mean(0) - slope).abs()
    assert bool((error <= 5 * gradients.std(0) / 800**0.5 + 1e-12).all())


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    loss = CombinedPairLoss(Options(alpha=0.0, pairs_max=0, negatives_per_positive=2))
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(value_and_gradient(loss, *many_rows())[0])
    assert values[0] == values[1] != values[2]


def test_strata_keep_a_draw_nearer_to_all_pairs_than_free_choice_would() -> None:
    """The standard error of the mean over 16 negatives each, against that of as many drawn freely."""
    z, labels, _, offset = many_rows()
    context = torch.zeros(300, dtype=torch.int64)
    loss = CombinedPairLoss(Options(alpha=0.0, pairs_max=0, negatives_per_positive=16))
    torch.manual_seed(5)
    values = torch.tensor([value_and_gradient(loss, z, labels, context, offset)[0] for _ in range(200)])
    pairs = slow_pairs(z, labels == 1).view(int(labels.sum()), -1)
    free = (pairs.var(1).mean() / 16 / len(pairs)) ** 0.5
    assert values.std() < free / 3
