"""What every loss must do; a new file in training/losses is tested because it exists."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from training.losses import Loss, build_loss
from training.plugins import load_plugin, plugin_names


def variants() -> list[tuple[str, dict[str, object]]]:
    """Return every loss as it comes, and with each other value of each of its switches."""
    found: list[tuple[str, dict[str, object]]] = []
    for name in plugin_names("training.losses"):
        found.append((name, {}))
        for option, field in load_plugin("training.losses", name).Options.model_fields.items():
            values = (True, False) if field.annotation is bool else get_args(field.annotation)
            found += [(name, {option: value}) for value in values if value != field.default]
    return found


@pytest.fixture(params=variants(), ids=str)
def loss(request: pytest.FixtureRequest) -> Loss:
    name, options = request.param
    return build_loss(name, options)


def batch(loss: Loss, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    return (
        torch.randn(rows, loss.logit_columns, generator=random).requires_grad_(),
        torch.randint(0, 2, (rows,), generator=random).to(torch.float32),
        torch.randint(0, 4, (rows,), generator=random),
        torch.rand(rows, generator=random) * 3,
    )


def check_finite(loss: Loss, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> None:
    value = loss(logits, labels, context, offset)
    assert value.shape == ()
    value.backward()
    assert bool(torch.isfinite(value))
    assert logits.grad is not None and logits.grad.shape == logits.shape
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("rows", [0, 1, 2, 33])
@pytest.mark.parametrize("kind", ["mixed", "negative", "positive"])
def test_finite_with_a_gradient(loss: Loss, rows: int, kind: str) -> None:
    logits, labels, context, offset = batch(loss, rows)
    labels = {"mixed": labels, "negative": labels * 0, "positive": labels * 0 + 1}[kind]
    check_finite(loss, logits, labels, context, offset)


def test_no_rows_give_zero(loss: Loss) -> None:
    assert loss(*batch(loss, 0)).item() == 0.0


def test_order_of_rows_does_not_matter(loss: Loss) -> None:
    rows = batch(loss, 40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = [column[order] for column in rows]
    torch.testing.assert_close(loss(*shuffled), loss(*rows))


def test_every_row_gets_a_gradient(loss: Loss) -> None:
    logits, labels, context, offset = batch(loss, 40)
    loss(logits, labels, context, offset).backward()
    assert logits.grad is not None
    assert bool((logits.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize("rows", [1, 40])
def test_of_two_columns_only_the_difference_counts_where_one_would_do(loss: Loss, rows: int) -> None:
    """Another task may need two columns; then every task's tower has two."""
    if loss.logit_columns == 2:
        pytest.skip("this loss reads both columns")
    logits, labels, context, offset = batch(loss, rows)
    torch.manual_seed(1)
    one = loss(logits, labels, context, offset)
    torch.manual_seed(1)
    torch.testing.assert_close(loss(torch.cat([-logits, 0 * logits], dim=1), labels, context, offset), one)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float64])
def test_type_of_the_labels_does_not_matter(loss: Loss, dtype: torch.dtype) -> None:
    logits, labels, context, offset = batch(loss, 20)
    torch.testing.assert_close(
        loss(logits, labels.to(dtype), context, offset), loss(logits, labels, context, offset)
    )


def test_raising_a_positive_lowers_the_loss(loss: Loss) -> None:
    logits, labels, context, offset = batch(loss, 40)
    before = loss(logits, labels, context, offset).item()
    raised = logits.detach().clone()
    raised[labels == 1, -1] += 0.1
    assert loss(raised, labels, context, offset).item() < before
