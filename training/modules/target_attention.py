"""Target attention over a history with feature splitting: the attention of TWIN and TWIN V2.

Source: TWIN, arXiv:2302.02352 (split projections, cross features as a bias per position, two stages that
share their parameters, four heads merged in the search); TWIN V2, arXiv:2407.16357 (`+ ln n`). For head a,
with target q, the medoid's inherent features K_h and cross features K_c (age, strength):

    alpha_a = (K_h W^h_a)(q W^q_a) / sqrt(d_k) + (K_c w^c_a) beta_a + ln n        GSU and ESU
    head_a  = softmax(alpha_a) (K W^v_a) over the kept clusters,  K = [K_h, K_c]  ESU
    out     = [head_1 .. head_A] W^o

Differs or decides where the papers are silent: beta is per head and merged into w^c (their product is
what acts); an empty history gives the zero vector; W^o has no bias, so that this holds; the search merges
heads by rank, head order first, and ties go to whichever the sort puts first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from service.contract.history import AGE_BUCKETS, STRENGTH_BUCKETS
from training.modules.split import HistoryPart, RowLayout, ServedInterest

CROSS_WIDTH = 8
MASKED = -1e9


class TargetAttention(nn.Module):
    """Multi-head target attention; `keep` clusters survive the search, None keeps all (exact attention)."""

    def __init__(
        self, item_width: int, *, heads: int, head_width: int, out_width: int, keep: int | None, weigh_sizes: bool
    ) -> None:
        super().__init__()
        self.heads, self.head_width, self.keep, self.weigh_sizes = heads, head_width, keep, weigh_sizes
        self.out_width = out_width
        inner = heads * head_width
        self.query = nn.Linear(item_width, inner, bias=False)  # W^q
        self.key = nn.Linear(item_width, inner, bias=False)  # W^h
        self.value = nn.Linear(item_width, inner, bias=False)  # inherent rows of W^v
        self.age = nn.Embedding(AGE_BUCKETS, CROSS_WIDTH)
        self.strength = nn.Embedding(STRENGTH_BUCKETS, CROSS_WIDTH)
        self.age_bias = nn.Linear(CROSS_WIDTH, heads, bias=False)  # w^c beta
        self.strength_bias = nn.Linear(CROSS_WIDTH, heads, bias=False)
        self.age_value = nn.Linear(CROSS_WIDTH, inner, bias=False)  # cross rows of W^v
        self.strength_value = nn.Linear(CROSS_WIDTH, inner, bias=False)
        self.output = nn.Linear(inner, out_width, bias=False)  # W^o
        for table in (self.age, self.strength):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return (B, out_width) for targets (B, D): each row attends to its own history."""
        visits, length = part.index.shape
        queries = self.query(target) / math.sqrt(self.head_width)
        padded = queries.new_zeros(visits, layout.width, queries.shape[1])
        padded = padded.index_put((layout.visit, layout.slot), queries)
        keys = self.key(part.items)[part.index].view(visits, length, self.heads, self.head_width)
        values = (
            self.value(part.items)[part.index]
            + self.age_value(self.age.weight)[part.age]
            + self.strength_value(self.strength.weight)[part.strength]
        ).view(visits, length, self.heads, self.head_width)
        bias = (
            self.age_bias(self.age.weight)[part.age] + self.strength_bias(self.strength.weight)[part.strength]
        )  # (V, L, A)
        mixed = attend(
            padded.view(visits, layout.width, self.heads, self.head_width),
            keys,
            values,
            bias + _log_size(part.size, weigh_sizes=self.weigh_sizes)[..., None],
            part.size,
            keep=self.keep,
        )  # (V, P, A * head_width)
        return self.output(mixed[layout.visit, layout.slot])

    def served(self) -> ServedTargetAttention:
        """Item: the query. Request: keys, values and bias. Joint: scores, softmax, mixing, W^o."""
        return ServedTargetAttention(self)


class ServedTargetAttention(ServedInterest):
    """Target attention with the query precomputed per item, and cross features folded to look-up tables."""

    age_bias: Tensor
    strength_bias: Tensor
    age_value: Tensor
    strength_value: Tensor

    def __init__(self, trained: TargetAttention) -> None:
        super().__init__()
        self.heads, self.head_width = trained.heads, trained.head_width
        self.keep, self.weigh_sizes = trained.keep, trained.weigh_sizes
        self.query, self.key, self.value = trained.query, trained.key, trained.value
        self.output = trained.output
        with torch.no_grad():
            age, strength = trained.age.weight, trained.strength.weight
            self.register_buffer("age_bias", trained.age_bias(age).clone())
            self.register_buffer("strength_bias", trained.strength_bias(strength).clone())
            self.register_buffer("age_value", trained.age_value(age).clone())
            self.register_buffer("strength_value", trained.strength_value(strength).clone())

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return scaled queries (I, A * head_width)."""
        return self.query(embedding) / math.sqrt(self.head_width)

    def forward(self, columns: Tensor, items: Tensor, size: Tensor, age: Tensor, strength: Tensor) -> Tensor:
        """Return (N, out_width)."""
        heads = (1, -1, self.heads, self.head_width)
        values = self.value(items) + self.age_value[age] + self.strength_value[strength]
        bias = self.age_bias[age] + self.strength_bias[strength]  # (L, A)
        mixed = attend(
            columns.view(heads),
            self.key(items).view(heads),
            values.view(heads),
            (bias + _log_size(size, weigh_sizes=self.weigh_sizes)[:, None])[None],
            size[None],
            keep=self.keep,
        )
        return self.output(mixed[0])


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, size: Tensor, *, keep: int | None) -> Tensor:
    """Search (GSU) and attend (ESU).

    Shapes:
        queries: (V, P, A, d) already scaled; keys, values: (V, L, A, d); bias: (V, L, A);
        size: (V, L), 0 marks padding; returns (V, P, A * d), zero where a history is empty.
    """
    scores = torch.matmul(queries.transpose(1, 2), keys.permute(0, 2, 3, 1))  # (V, A, P, L)
    scores = scores + bias.transpose(1, 2)[:, :, None, :]
    valid = (size > 0)[:, None, None, :]
    scores = torch.where(valid, scores, scores.new_full((), MASKED))
    if keep is not None:
        scores = torch.where(kept_by_search(scores, keep), scores, scores.new_full((), MASKED))
    weights = torch.softmax(scores, dim=-1) * valid  # an empty history has no valid column: zeros
    mixed = torch.matmul(weights, values.transpose(1, 2))  # (V, A, P, d)
    return mixed.transpose(1, 2).flatten(2)


def kept_by_search(scores: Tensor, keep: int) -> Tensor:
    """Return which clusters each target keeps: the heads' rankings merged until `keep` distinct ones are found.

    Walking the heads' ranked lists in turn, a cluster is met at step A * rank_a + a of its best head; the
    `keep` smallest steps win. Every cluster is kept where there are no more than `keep`.

    Shapes:
        scores: (V, A, P, L); returns (V, 1, P, L) bool.
    """
    scores = scores.detach()
    heads = scores.shape[1]
    padding = scores.new_full((*scores.shape[:-1], keep), 2 * MASKED)  # so that keep columns always exist
    scores = torch.cat([scores, padding], dim=-1)
    top = scores.topk(keep, dim=-1).indices  # (V, A, P, keep), in order of rank
    step = torch.arange(keep, device=scores.device) * heads
    step = (step[None, :] + torch.arange(heads, device=scores.device)[:, None]).float()  # (A, keep)
    never = float(heads * keep)
    met = torch.full_like(scores, never).scatter(-1, top, step[None, :, None, :].expand(top.shape)).amin(1)
    last = (-met).topk(keep, dim=-1).values[..., -1:]  # steps are distinct but for `never`
    kept = (-met >= last) & (met < never)
    return kept[:, None, :, : scores.shape[-1] - keep]


def _log_size(size: Tensor, *, weigh_sizes: bool) -> Tensor:
    """Return ln n, 0 for padding, which the mask handles."""
    return torch.log(size.clamp(min=1.0)) if weigh_sizes else torch.zeros_like(size)
