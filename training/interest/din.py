"""DIN (KDD 2018, arXiv:1706.06978): a small network weighs each recent behavior against the target.

    w_j = MLP([q, e_j, q - e_j, q * e_j, t_j])          the activation unit, one output
    out = sum_j w_j [e_j, t_j]

over the newest `last` behaviors. The paper does not normalize the weights, so that their sum tells how strong the
interest is; `softmax` normalizes them. Cross features t (age, strength) are off as in the paper. The difference
q - e_j is that of the authors' code. The paper's Dice activation normalizes by statistics of the batch; the
activations offered have none, so that a score depends on its own row only: PReLU is the paper's other choice,
sigmoid that of the authors' code.

The unit's first layer is linear in its input, so the shares of q and of e_j are computed once per target and per
behavior, and only that of q * e_j per pair.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import embedding

from training.modules.alike_histories import newest, over_alike_histories, pad_rows, take_rows
from training.modules.cross_features import CrossFeatures, CrossName
from training.modules.split import HistoryPart, ItemLayout, RowLayout, ServedInterest
from training.modules.target_attention import MASKED, TINY

ACTIVATIONS: dict[str, type[nn.Module]] = {"prelu": nn.PReLU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class Options(BaseModel):
    """Options of the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["recents", "behaviors"] = "recents"
    last: int = Field(default=50, ge=1, description="newest behaviors that are read")
    hidden: tuple[int, ...] = Field(default=(36,), min_length=1, description="widths of the activation unit")
    activation: Literal["prelu", "relu", "sigmoid"] = "prelu"
    softmax: bool = Field(default=False, description="normalize the weights; the paper does not")
    crossed: tuple[CrossName, ...] = Field(
        default=(), description="what is read of a behavior beside its item"
    )


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


class ActivatedSum(nn.Module):
    """DIN's module. The unit's first layer has h outputs."""

    def __init__(self, options: Options, *, item: ItemLayout) -> None:
        super().__init__()
        self.width, self.last, self.softmax = item.width, options.last, options.softmax
        self.cross = CrossFeatures(options.crossed)
        self.out_width = item.width + self.cross.width
        activation = ACTIVATIONS[options.activation]
        self.first = nn.Linear(4 * item.width + self.cross.width, options.hidden[0])
        blocks = [block for a, b in pairwise(options.hidden) for block in (nn.Linear(a, b), activation())]
        self.rest = nn.Sequential(activation(), *blocks, nn.Linear(options.hidden[-1], 1))

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return (B, out_width) for targets (B, D)."""

        def read(rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout) -> Tensor:
            padded, share = (pad_rows(row, part.index.shape[0], layout) for row in rows)
            return take_rows(self.weigh(padded, share, newest(part, self.last)), layout)

        return over_alike_histories(read, (target, self.target_share(target)), part, layout)

    def target_share(self, target: Tensor) -> Tensor:
        """Return the share of q, and of q in q - e_j, in the first layer, with its bias: (B, h)."""
        weight = self.first.weight
        share = weight[:, : self.width] + weight[:, 2 * self.width : 3 * self.width]
        return torch.addmm(self.first.bias, target, share.T)

    def weigh(self, target: Tensor, target_share: Tensor, part: HistoryPart) -> Tensor:
        """Return the weighted sums, (V, P, D) -> (V, P, out_width); `target_share` is (V, P, h)."""
        weight, width = self.first.weight, self.width
        items = embedding(part.index, part.items)
        behaviors = self.cross.beside(items, part)  # (V, L, D + cross)
        share = torch.cat(
            [weight[:, width : 2 * width] - weight[:, 2 * width : 3 * width], weight[:, 4 * width :]], dim=1
        )
        product = target[:, :, None] * weight[:, 3 * width : 4 * width]  # (V, P, h, D): q in q * e_j
        first = torch.matmul(product.flatten(1, 2), items.transpose(1, 2)).unflatten(1, (-1, len(weight)))
        first = first + target_share[..., None] + torch.matmul(behaviors, share.T).transpose(1, 2)[:, None]
        weights: Tensor = self.rest(first.transpose(2, 3))[..., 0]  # (V, P, L)
        valid = (part.size > 0)[:, None]
        if self.softmax:
            weights = torch.where(valid, weights, MASKED)
            weights = torch.exp(weights - weights.amax(-1, keepdim=True)) * valid
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=TINY)
        return torch.matmul(weights * valid, behaviors)

    def fill_unseen(self, age_seen: Tensor, strength_seen: Tensor) -> None:
        """Give each bucket that training never saw the embedding of the nearest that it saw."""
        self.cross.fill_unseen(age_seen, strength_seen)

    def served(self) -> ServedActivatedSum:
        """Item: its embedding and its share of the first layer. Request: the behaviors' shares. Joint: the rest."""
        return ServedActivatedSum(self)


class ServedActivatedSum(ServedInterest):
    """DIN with the target's share of the first layer precomputed."""

    def __init__(self, trained: ActivatedSum) -> None:
        super().__init__()
        self.trained = trained

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return embeddings and their shares of the first layer, (I, D + h)."""
        return torch.cat([embedding, self.trained.target_share(embedding)], dim=-1)

    def forward(
        self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor
    ) -> Tensor:
        """Return (N, out_width)."""
        index = torch.arange(history.shape[0])[None]
        part = newest(HistoryPart(history, index, size[None], age[None], strength[None]), self.trained.last)
        width = self.trained.width
        return self.trained.weigh(columns[None, :, :width], columns[None, :, width:], part)[0]


def build(options: Options, *, item: ItemLayout) -> ActivatedSum:
    """Build the module for the embeddings of items."""
    return ActivatedSum(options, item=item)
