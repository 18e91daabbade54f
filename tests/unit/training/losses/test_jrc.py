"""JRC against its golden vectors, a plain O(B²) reference, and what the method promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training.losses.bce import natural_logit
from training.losses.jrc import JrcLoss, mixed_context_share, ranking_terms

F = torch.tensor([[0.2, -0.3], [1.0, 0.5], [-0.4, 0.1], [0.0, 0.8], [0.3, 0.3]], dtype=torch.float64)
Y = torch.tensor([0, 1, 0, 1, 0])
Z = torch.tensor([7, 7, 7, 9, 9])
NO_OFFSET = torch.zeros(5, dtype=torch.float64)


def slow_ranking_terms(logits: Tensor, labels: Tensor, context: Tensor, same_label: bool) -> Tensor:
    terms = []
    for i, (y, z) in enumerate(zip(labels.tolist(), context.tolist(), strict=True)):
        rivals = [
            j for j in range(len(logits)) if context[j] == z and (same_label or j == i or labels[j] != y)
        ]
        terms.append(torch.logsumexp(logits[rivals, y], 0) - logits[i, y])
    return torch.stack(terms)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    rows = draw(st.integers(1, 25))
    logit = st.floats(-30, 30, allow_nan=False)
    logits = draw(st.lists(st.tuples(logit, logit), min_size=rows, max_size=rows))
    labels = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    context = draw(st.lists(st.sampled_from([-5, 0, 3, 2**62]), min_size=rows, max_size=rows))
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels), torch.tensor(context)


def test_golden_ranking_terms() -> None:
    expected = [1.32822886, 0.75125051, 1.92822886, 0.47407698, 0.55435524]
    assert ranking_terms(F, Y, Z).tolist() == pytest.approx(expected, abs=1e-8)


def test_golden_mean_without_competition_within_a_label() -> None:
    terms = ranking_terms(F, Y, Z, same_label_competition=False)
    assert terms.mean().item() == pytest.approx(0.91424016, abs=1e-8)


@pytest.mark.parametrize(
    ("alpha", "same_label", "expected"),
    [
        (0.0, True, 1.00722809),
        (0.25, True, 0.92974501),
        (0.5, True, 0.85226193),
        (1.0, True, 0.69729576),
        (0.5, False, 0.80576796),
    ],
)
def test_golden_loss(alpha: float, same_label: bool, expected: float) -> None:
    loss = JrcLoss(alpha, same_label)
    assert loss(F, Y, Z, NO_OFFSET).item() == pytest.approx(expected, abs=1e-8)


def test_golden_gradient() -> None:
    logits = F.clone().requires_grad_()
    JrcLoss(0.5)(logits, Y, Z, NO_OFFSET).backward()
    expected = [
        [-0.08476485, 0.05895234],
        [0.18017561, -0.11506831],
        [-0.13316483, 0.09387004],
        [0.0735583, -0.06875662],
        [-0.09255575, 0.08775407],
    ]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize("same_label", [True, False])
@settings(deadline=None)
@given(batch=batches())
def test_linear_form_equals_the_quadratic_one(same_label: bool, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, context = batch
    fast_input, slow_input = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    fast = ranking_terms(fast_input, labels, context, same_label_competition=same_label)
    slow = slow_ranking_terms(slow_input, labels, context, same_label)
    torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-9)
    fast.mean().backward()
    slow.mean().backward()
    torch.testing.assert_close(fast_input.grad, slow_input.grad, atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(batch=batches())
def test_alpha_of_one_is_binary_cross_entropy(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, context = batch
    offset = torch.linspace(0.0, 3.0, len(logits), dtype=torch.float64)
    expected = functional.binary_cross_entropy_with_logits(
        logits[:, 1] - logits[:, 0] + offset, labels.to(torch.float64)
    )
    torch.testing.assert_close(JrcLoss(1.0)(logits, labels, context, offset), expected)


@pytest.mark.parametrize("same_label", [True, False])
@settings(deadline=None)
@given(batch=batches(), shift=st.floats(-5, 5))
def test_ranking_ignores_a_constant_per_context_and_column(
    same_label: bool, batch: tuple[Tensor, Tensor, Tensor], shift: float
) -> None:
    logits, labels, context = batch
    moved = logits.clone()
    moved[context == 3] += torch.tensor([shift, -2 * shift], dtype=torch.float64)
    torch.testing.assert_close(
        ranking_terms(moved, labels, context, same_label_competition=same_label),
        ranking_terms(logits, labels, context, same_label_competition=same_label),
    )


def test_an_offset_of_whole_contexts_moves_calibration_only() -> None:
    offset = torch.full((5,), math.log(50.0), dtype=torch.float64)
    torch.testing.assert_close(JrcLoss(0.0)(F, Y, Z, offset), JrcLoss(0.0)(F, Y, Z, NO_OFFSET))
    shifted = F + torch.tensor([0.0, math.log(50.0)], dtype=torch.float64)
    torch.testing.assert_close(JrcLoss(1.0)(F, Y, Z, offset), JrcLoss(1.0)(shifted, Y, Z, NO_OFFSET))


@pytest.mark.parametrize("same_label", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rows_of_offsets_of_their_own_are_compared_as_they_were_sampled(
    alpha: float, same_label: bool
) -> None:
    """The loss of natural logits and offsets is that of the logits as sampled, in both of its terms."""
    offset = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    as_sampled = torch.stack([F[:, 0] - offset, F[:, 1]], dim=1)
    loss = JrcLoss(alpha, same_label)
    torch.testing.assert_close(loss(F, Y, Z, offset), loss(as_sampled, Y, Z, NO_OFFSET))


def test_golden_probabilities_and_calibration_terms() -> None:
    logit = natural_logit(F)
    expected = [0.37754067, 0.37754067, 0.62245933, 0.68997448, 0.5]
    assert torch.sigmoid(logit).tolist() == pytest.approx(expected, abs=1e-8)
    terms = [JrcLoss(1.0)(F[[i]], Y[[i]], Z[[i]], NO_OFFSET[[i]]).item() for i in range(5)]
    assert terms == pytest.approx([0.47407698, 0.97407698, 0.97407698, 0.37110067, 0.69314718], abs=1e-8)


@pytest.mark.parametrize("same_label", [True, False])
def test_contexts_of_one_row_rank_nothing(same_label: bool) -> None:
    terms = ranking_terms(F, Y, torch.arange(5), same_label_competition=same_label)
    assert terms.tolist() == pytest.approx([0.0] * 5, abs=1e-15)


def test_a_mixed_context_has_the_floor_of_its_label_counts() -> None:
    labels = torch.tensor([1, 1, 0, 0, 0])
    sure = torch.stack([(1 - labels) * 50.0, labels * 50.0], dim=1)
    terms = ranking_terms(sure, labels, torch.zeros(5, dtype=torch.int64))
    assert terms.sum().item() == pytest.approx(2 * math.log(2) + 3 * math.log(3), abs=1e-5)


def test_only_negatives_reach_the_floor_and_no_lower() -> None:
    terms = ranking_terms(torch.zeros(5, 2), torch.zeros(5), torch.zeros(5, dtype=torch.int64))
    assert terms.tolist() == pytest.approx([math.log(5)] * 5)
    apart = ranking_terms(
        torch.zeros(5, 2), torch.zeros(5), torch.zeros(5, dtype=torch.int64), same_label_competition=False
    )
    assert apart.tolist() == [0.0] * 5


@settings(deadline=None)
@given(batch=batches())
def test_splitting_a_context_never_raises_the_ranking_term(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, context = batch
    split = context.clone()
    split[::2] = 11
    whole = ranking_terms(logits, labels, torch.zeros_like(context))
    parts = ranking_terms(logits, labels, torch.where(split == 11, 11, 0))
    assert bool((parts <= whole + 1e-9).all())


@settings(deadline=None)
@given(batch=batches())
def test_ranking_gradient_sums_to_zero_per_context_and_column(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, context = batch
    leaf = logits.clone().requires_grad_()
    ranking_terms(leaf, labels, context).mean().backward()
    assert leaf.grad is not None
    for z in context.unique():
        assert leaf.grad[context == z].sum(0).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("same_label", [True, False])
def test_logits_far_beyond_exp_stay_finite(same_label: bool) -> None:
    logits = torch.tensor([[900.0, -900.0], [-900.0, 900.0], [0.0, 0.0]], requires_grad=True)
    loss = JrcLoss(0.5, same_label)(
        logits, torch.tensor([1, 0, 1]), torch.zeros(3, dtype=torch.int64), torch.zeros(3)
    )
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("same_label", [True, False])
@settings(deadline=None)
@given(batch=batches())
def test_over_the_batch_all_rows_are_one_context(
    same_label: bool, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, labels, context = batch
    offset = torch.zeros(len(logits), dtype=torch.float64)
    whole = JrcLoss(0.3, same_label)(logits, labels, torch.zeros_like(context), offset)
    over_batch = JrcLoss(0.3, same_label, "batch")(logits, labels, context, offset)
    torch.testing.assert_close(over_batch, whole)


GOLDEN = torch.tensor([[0.0, 0.5], [0.3, -1.0], [-0.4, 0.2], [0.1, -2.0], [0.2, -0.3]], dtype=torch.float64)
GOLDEN_LABELS = torch.tensor([1, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ("alpha", "expected"), [(1.0, 0.348433979172), (0.0, 1.311667202321), (0.4, 0.926373913061)]
)
def test_golden_loss_over_the_batch(alpha: float, expected: float) -> None:
    loss = JrcLoss(alpha, compare="batch")
    value = loss(GOLDEN, GOLDEN_LABELS, torch.arange(5), NO_OFFSET)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_golden_gradient_over_the_batch() -> None:
    logits = GOLDEN.clone().requires_grad_()
    JrcLoss(0.0, compare="batch")(logits, GOLDEN_LABELS, torch.arange(5), NO_OFFSET).backward()
    expected = [
        [0.11221765, -0.03970264],
        [-0.04852202, 0.03576718],
        [0.07522174, -0.08124879],
        [-0.07598032, 0.01315801],
        [-0.06293705, 0.07202625],
    ]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)


def test_over_the_batch_negatives_compete_as_sampled() -> None:
    """Two exposures, 1/4 and 1/8 of whose negatives are kept: column 0 must be the share of kept ones."""
    kept = torch.tensor([1 / 4, 1 / 8], dtype=torch.float64)
    natural = torch.log(torch.tensor([0.7, 0.3], dtype=torch.float64))  # shares of negatives before sampling
    share = kept * torch.exp(natural) / (kept * torch.exp(natural)).sum()
    logits = torch.stack([natural, natural * 0], dim=1).requires_grad_()
    # Labels are 0: the term of row i weighs as often as row i is seen.
    sampled = torch.stack([logits[:, 0] + torch.log(kept), logits[:, 1]], dim=1)
    terms = ranking_terms(sampled, torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    (terms * share).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    loss = JrcLoss(0.0, compare="batch")(logits, torch.zeros(2), torch.arange(2), -torch.log(kept))
    torch.testing.assert_close(loss, terms.mean())


@settings(max_examples=50, deadline=None)
@given(batch=batches())
def test_mixed_context_share_counts_rows(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    _, labels, context = batch
    mixed = [len(labels[context == z].unique()) == 2 for z in context]
    assert mixed_context_share(labels, context) == pytest.approx(sum(mixed) / len(mixed))


def test_mixed_context_share_of_no_rows_is_zero() -> None:
    assert mixed_context_share(torch.zeros(0), torch.zeros(0, dtype=torch.int64)) == 0.0
