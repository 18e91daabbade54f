"""The ranking terms in their plain O(B²) form, one formula after the other, and the golden rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training.losses import Loss

Z = torch.tensor([0.5, -1.0, 0.2, -2.0, -0.3], dtype=torch.float64)
Y = torch.tensor([1, 0, 1, 0, 0])
APART = torch.arange(5)  # contexts of one row each
TOGETHER = torch.full((5,), 8)
NO_OFFSET = torch.zeros(5, dtype=torch.float64)


def value_and_gradient(
    loss: Loss, z: Tensor, labels: Tensor, context: Tensor, offset: Tensor
) -> tuple[float, Tensor]:
    """Return the loss of one column of logits and its gradient, (B,)."""
    logits = z[:, None].clone().requires_grad_()
    value = loss(logits, labels, context, offset)
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad[:, 0]


def slow_pairs(z: Tensor, positive: Tensor) -> Tensor:
    """Every pair's logistic loss, (N⁺ · N⁻,)."""
    return functional.softplus(z[~positive][None, :] - z[positive][:, None]).reshape(-1)


def slow_list(z: Tensor, positive: Tensor) -> Tensor:
    """−ln of the softmax of every positive, (N⁺,)."""
    return -torch.log(torch.exp(z[positive]) / torch.exp(z).sum())


def slow_rcr(z: Tensor, positive: Tensor) -> Tensor:
    """−ln of the normalized sigmoid of every positive, (N⁺,)."""
    return -torch.log(torch.sigmoid(z[positive]) / torch.sigmoid(z).sum())


def slow_term(
    terms: Callable[[Tensor, Tensor], Tensor], z: Tensor, labels: Tensor, context: Tensor, average: str
) -> Tensor:
    """Loop over the contexts with both labels; mean of their means, or of all their terms."""
    per_context = []
    for one in context.unique():
        rows = context == one
        if len(labels[rows].unique()) == 2:
            per_context.append(terms(z[rows], labels[rows] == 1))
    if not per_context:
        return z.sum() * 0.0
    if average == "contexts":
        return torch.stack([t.mean() for t in per_context]).mean()
    return torch.cat(per_context).mean()


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, contexts and offsets; an offset is one number a context, as sampling makes it."""
    rows = draw(st.integers(1, 25))
    z = draw(st.lists(st.floats(-15, 15), min_size=rows, max_size=rows))
    labels = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    context = torch.tensor(draw(st.lists(st.sampled_from([-5, 0, 3, 2**62]), min_size=rows, max_size=rows)))
    offset = torch.where(context == 3, draw(st.floats(0, 6)), draw(st.floats(0, 6)))
    return torch.tensor(z, dtype=torch.float64), torch.tensor(labels), context, offset.to(torch.float64)
