"""Groups of rows that are compared."""

from __future__ import annotations

import math

import pytest
import torch

from training.losses._contexts import Comparison, segment_logsumexp

LABELS = torch.tensor([1, 0, 0, 1, 1])
CONTEXT = torch.tensor([2**62, -5, 2**62, 9, 9])


def test_groups_of_contexts_count_their_labels() -> None:
    groups = Comparison.of(LABELS, CONTEXT, "context")
    assert groups.group.tolist() == [2, 0, 2, 1, 1]
    assert groups.positives_count.tolist() == [0, 2, 1]
    assert groups.negatives_count.tolist() == [1, 0, 1]
    assert groups.mixed.tolist() == [False, False, True]


def test_the_batch_is_one_group() -> None:
    groups = Comparison.of(LABELS, CONTEXT, "batch")
    assert groups.group.tolist() == [0] * 5
    assert (groups.positives_count.tolist(), groups.negatives_count.tolist()) == ([3], [2])
    assert groups.mixed.tolist() == [True]


def test_segment_logsumexp_of_an_empty_segment_is_minus_infinity() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    result = segment_logsumexp(values, torch.tensor([2, 2]), 3)
    assert result.tolist()[:2] == [-math.inf, -math.inf]
    assert result[2].item() == pytest.approx(math.log(math.e + math.e**2))
    result[2].backward()
    assert values.grad is not None and bool(torch.isfinite(values.grad).all())
