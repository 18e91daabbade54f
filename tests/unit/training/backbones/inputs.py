"""Inputs of backbones: 3 domains, 2 tasks, user 4 wide (two features), item 5 (two), candidate 2, interest 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.modules.split import BackboneWidths

DOMAINS_COUNT = 3


def widths(*, tasks_count: int = 2, logit_columns: int = 2) -> BackboneWidths:
    return BackboneWidths(
        user=4,
        item=5,
        candidate=2,
        interest=3,
        user_slices={"user_id": slice(0, 3), "country": slice(3, 4)},
        item_slices={"item_id": slice(0, 3), "category": slice(3, 5)},
        candidate_slices={"placement": slice(0, 2)},
        domains_count=DOMAINS_COUNT,
        tasks_count=tasks_count,
        logit_columns=logit_columns,
    )


def inputs(rows: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return user, item, candidate, interest in float64, and domain, which takes turns."""
    random = torch.Generator().manual_seed(seed)
    user, item, candidate, interest = (
        torch.randn(rows, width, generator=random, dtype=torch.float64) for width in (4, 5, 2, 3)
    )
    return user, item, candidate, interest, torch.arange(rows) % DOMAINS_COUNT


def stirred(module: nn.Module, seed: int = 0, std: float = 0.4) -> nn.Module:
    """Return the module in float64 with every parameter moved, as if it had learned for a while."""
    random = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) * std)
    return module
