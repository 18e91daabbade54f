"""The input of a backbone that reads everything at once: domain embedding, user, item, candidate, interest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.modules.split import BackboneWidths
from training.modules.split_linear import SplitLinear


class ConcatenatedInputs(nn.Module):
    """Put a row's sides next to each other, after an embedding of its domain unless that is 0 wide."""

    def __init__(self, widths: BackboneWidths, *, domain_width: int) -> None:
        super().__init__()
        self.widths = widths
        self.domain = nn.Embedding(widths.domains_count, domain_width) if domain_width else None
        self.width = domain_width + widths.user + widths.item + widths.candidate + widths.interest

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return (B, width)."""
        sides = [user, item, candidate, interest]
        return torch.cat(sides if self.domain is None else [self.domain(domain), *sides], dim=-1)

    def split(self, weight: Tensor, bias: Tensor | None) -> SplitLinear:
        """Return the served form of a layer, weight (width, h) or (M, width, h), on this input."""
        embedding = None if self.domain is None else self.domain.weight
        return SplitLinear(weight, bias, self.widths, domain_embedding=embedding)
