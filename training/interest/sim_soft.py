"""SIM with soft search (arXiv:2006.05639): attention over the behaviors of largest inner product with the target.

    r_i = (W_b e_i) . (W_a e_a)                                                   GSU: the `keep` largest
    U_r = sum_i r_i e_i over the whole history, no softmax                        trains W_a and W_b
    auxiliary loss = BCE of MLP([U_r, e_a]) on the first task's label
    out = target attention over what was kept                                     ESU, `modules/searched_attention.py`

The search is exact; the paper's ALSH index approximates it. The paper sums U_r, so that its scale grows with the
history; `mean` divides by the number of behaviors. The auxiliary loss also trains the embeddings, which both
stages share; its weight is the paper's alpha, 1. It reads the natural-rate logit plus -ln keep_probability, as
the losses of tasks do, and leaves rows out whose label is unknown. Clusters count once per member in U_r.

Ranking is in float64 and rounded, so that training and serving keep the same behaviors. Padding is left out
by a mask: a score of 0 would outrank real ones below 0.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding, linear

from training.data.batch import Batch
from training.modules.alike_histories import over_alike_histories, pad_rows, take_rows
from training.modules.search import RankedSearch, ranked
from training.modules.search_options import SearchedAttentionOptions
from training.modules.searched_attention import SearchedAttention
from training.modules.split import HistoryPart, ItemLayout, RowLayout


class Options(SearchedAttentionOptions):
    """Options of the module."""

    search_width: int = Field(default=16, ge=1, description="rows of W_a and W_b")
    search_hidden: tuple[int, ...] = Field(default=(64,), description="widths of the auxiliary MLP")
    mean: bool = Field(default=False, description="U_r as a mean, not the paper's sum")
    auxiliary_weight: float = Field(default=1.0, gt=0, description="of the search's own loss")


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


class InnerProductSearch(RankedSearch):
    """Keeps the behaviors of the largest (W_b e_i) . (W_a e_a), the newest of equals."""

    def __init__(self, width: int, *, search_width: int, keep: int | None) -> None:
        super().__init__()
        self.keep = keep
        self.target = nn.Linear(width, search_width, bias=False)  # W_a
        self.behavior = nn.Linear(width, search_width, bias=False)  # W_b
        self.behavior.load_state_dict(self.target.state_dict())  # like finds like from the start

    def of_targets(self, target: Tensor) -> Tensor:
        """Return W_a e_a, (B, d), summed in float64."""
        return linear(target.double(), self.target.weight.double()).to(target.dtype)

    def of_items(self, items: Tensor) -> Tensor:
        """Return W_b e_i, (U, d), summed in float64."""
        return linear(items.double(), self.behavior.weight.double()).to(items.dtype)

    def ranks(self, targets: Tensor, items: Tensor) -> Tensor:
        """Return the inner product, rounded."""
        return ranked(torch.matmul(targets.double(), items.double().transpose(1, 2)))


class SoftSearchAttention(SearchedAttention):
    """A searched attention whose search is trained by a click model of its own."""

    def __init__(self, options: Options, *, item: ItemLayout) -> None:
        super().__init__(
            item.width,
            search=InnerProductSearch(item.width, search_width=options.search_width, keep=options.keep),
            heads=options.heads,
            head_width=options.head_width,
            out_width=options.out_width,
            crossed=options.crossed,
            mass=options.mass,
        )
        self.mean, self.auxiliary_weight = options.mean, options.auxiliary_weight
        widths = (2 * item.width, *options.search_hidden)
        blocks = [block for a, b in pairwise(widths) for block in (nn.Linear(a, b), nn.ReLU())]
        self.auxiliary = nn.Sequential(*blocks, nn.Linear(widths[-1], 1))
        self._search_logit: Tensor | None = None

    @property
    def soft(self) -> InnerProductSearch:
        """The search."""
        assert isinstance(self.search, InnerProductSearch)
        return self.search

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return (B, out_width); in training, keep the search's own logits for `auxiliary_loss`."""
        if self.training:
            summed = self.relevant(target, part, layout)
            self._search_logit = self.auxiliary(torch.cat([summed, target], dim=-1))[:, 0]
        return super().forward(target, part, layout)

    def relevant(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return U_r (B, D): behaviors summed by their relevance to each target, zero for an empty history."""
        known = self.soft.behavior(part.items)

        def read(rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout) -> Tensor:
            sought = pad_rows(rows[0], part.index.shape[0], layout)
            relevance = torch.matmul(sought, embedding(part.index, known).transpose(1, 2))  # (V, P, L)
            weight = part.size[:, None]
            if self.mean:
                weight = weight / weight.sum(-1, keepdim=True).clamp(min=1.0)
            return take_rows(torch.matmul(relevance * weight, embedding(part.index, part.items)), layout)

        return over_alike_histories(read, (self.soft.target(target),), part, layout)

    def auxiliary_loss(self, batch: Batch) -> Tensor:
        """Return the weighted loss of the search over the rows of the last training forward; of none, 0."""
        assert self._search_logit is not None, "the auxiliary loss is asked for after a training forward"
        logit, self._search_logit = self._search_logit, None  # a model that holds a graph cannot be copied
        rows = torch.nonzero(~torch.isnan(batch.labels[:, 0]))[:, 0]
        loss = binary_cross_entropy_with_logits(
            logit[rows] + batch.offset[rows], batch.labels[rows, 0], reduction="sum"
        )
        return self.auxiliary_weight * loss / max(1, len(rows))


def build(options: Options, *, item: ItemLayout) -> SoftSearchAttention:
    """Build the module for the embeddings of items."""
    return SoftSearchAttention(options, item=item)
