"""The covariance between experts, as a loss: what one expert's outputs say of another's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pairs = Literal["p_gt_q", "p_ge_q"]
Reduction = Literal["sum", "mean"]


def cross_covariance_loss(
    outputs: Tensor, *, pairs: Pairs = "p_gt_q", reduction: Reduction = "sum"
) -> Tensor:
    """Return the sum over pairs of experts of the absolute entries of their cross-covariance, over width squared.

    0 where all experts are uncorrelated over the rows, which a dead expert is too; the same for experts moved by a
    constant row; |c| times as much in the pairs of an expert scaled by c. Computed in float32 at least, for sums over
    rows overflow half precision. Of one row, or none, it is 0.

    Shapes:
        outputs: (M, B, d), one expert after the other.
        returns: (), of the unit of the outputs squared.

    Source:
        Crocodile, arXiv:2405.12706: L_cov = 1/d^2 sum_{p,q} || (O^p - mean)^T (O^q - mean) ||_1. The paper prints
        p >= q and counts the work of p > q; p = q, each expert's own covariance, draws every expert to a constant,
        so p > q is the default. It sums over the batch, which ties the weight to the batch's size; `mean` divides
        by the rows.
    """
    experts, rows, width = outputs.shape
    with torch.autocast(outputs.device.type, enabled=False):
        x = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        x = x - x.sum(1, keepdim=True) / max(1, rows)
        wide = x.transpose(0, 1).reshape(rows, experts * width)
        entries = (wide.T @ wide).abs()
        by_pair = entries.unflatten(0, (experts, width)).unflatten(-1, (experts, width)).sum((1, 3))  # (M, M)
        total: Tensor = by_pair.tril(-1 if pairs == "p_gt_q" else 0).sum() / (width * width)
        return total / max(1, rows) if reduction == "mean" else total
