"""Mean pooling: the average item of a history, whatever the target; the control that every attention must beat.

    out = sum_i n_i z_i / sum_i n_i,   z = [e, t]

n_i is 1 for a behavior and the number of members for a cluster. By default z is the item alone, as in the
papers that have average pooling as a baseline; the cross features t (age, strength) are an option. An empty
history is the zero vector.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import embedding

from training.modules.alike_histories import over_alike_histories
from training.modules.cross_features import CrossFeatures, CrossName
from training.modules.split import HistoryPart, ItemLayout, RowLayout, ServedInterest


class Options(BaseModel):
    """Options of the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["clusters", "recents", "behaviors"] = "clusters"
    crossed: tuple[CrossName, ...] = Field(
        default=(), description="what is averaged of a behavior beside its item"
    )


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


class MeanPooling(nn.Module):
    """The mean of a history's items, each as often as its size says."""

    def __init__(self, options: Options, *, item: ItemLayout) -> None:
        super().__init__()
        self.cross = CrossFeatures(options.crossed)
        self.out_width = item.width + self.cross.width

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return (B, out_width): once per history, handed to each of its rows."""

        def read(rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout) -> Tensor:
            return self.mean(part).index_select(0, layout.visit)

        return over_alike_histories(read, (), part, layout)

    def mean(self, part: HistoryPart) -> Tensor:
        """Return (V, out_width)."""
        share = part.size / part.size.sum(-1, keepdim=True).clamp(min=1.0)
        behaviors = self.cross.beside(embedding(part.index, part.items), part)
        return torch.matmul(share[:, None], behaviors)[:, 0]

    def fill_unseen(self, age_seen: Tensor, strength_seen: Tensor) -> None:
        """Give each bucket that training never saw the embedding of the nearest that it saw."""
        self.cross.fill_unseen(age_seen, strength_seen)

    def served(self) -> ServedMeanPooling:
        """Item: nothing. Request: the mean. Joint: nothing."""
        return ServedMeanPooling(self)


class ServedMeanPooling(ServedInterest):
    """The mean once per request."""

    def __init__(self, trained: MeanPooling) -> None:
        super().__init__()
        self.trained = trained

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return nothing, (I, 0)."""
        return embedding[:, :0]

    def forward(
        self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor
    ) -> Tensor:
        """Return (N, out_width), the same for all candidates."""
        index = torch.arange(history.shape[0])[None]
        part = HistoryPart(history, index, size[None], age[None], strength[None])
        return self.trained.mean(part).expand(columns.shape[0], -1)


def build(options: Options, *, item: ItemLayout) -> MeanPooling:
    """Build the module for the embeddings of items."""
    return MeanPooling(options, item=item)
