"""The served form of modules that state no split: the training forward, the request repeated to N rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.modules.split import HistoryPart, RowLayout, ServedBackbone, ServedInterest, fold_logit_columns


class UnsplitInterest(ServedInterest):
    """An interest module as it is trained; the item's embedding is what is stored."""

    def __init__(self, interest: nn.Module) -> None:
        super().__init__()
        self.interest = interest

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's embedding."""
        return embedding

    def forward(
        self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor
    ) -> Tensor:
        """Run the training forward on one history and N rows."""
        index = torch.arange(history.shape[0])[None]
        part = HistoryPart(history, index, size[None], age[None], strength[None])
        slot = torch.arange(columns.shape[0])
        out: Tensor = self.interest(columns, part, RowLayout(torch.zeros_like(slot), slot, columns.shape[0]))
        return out


class UnsplitBackbone(ServedBackbone):
    """A backbone as it is trained; the item's embedding is what is stored."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's embedding."""
        return embedding

    def forward(
        self,
        user: Tensor,
        shared: Tensor,
        by_domain: Tensor,
        candidate: Tensor,
        interest: Tensor,
        domain: Tensor,
    ) -> Tensor:
        """Run the training forward on N rows."""
        rows = shared.shape[0]
        logits = self.backbone(user.expand(rows, -1), shared, candidate, interest, domain.expand(rows))
        return fold_logit_columns(logits)
