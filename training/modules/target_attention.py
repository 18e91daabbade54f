"""Target attention over a history with feature splitting: the attention of TWIN and TWIN V2.

Source: TWIN, arXiv:2302.02352 (split projections, cross features as a bias per position, two stages that
share their parameters, four heads merged in the search); TWIN V2, arXiv:2407.16357 (`+ ln n`). For head a,
with target q, the medoid's inherent features K_h and cross features K_c (age, strength):

    alpha_a = (K_h W^h_a)(q W^q_a) / sqrt(d_k) + (K_c w^c_a) beta_a + ln n        GSU and ESU
    head_a  = softmax(alpha_a) (K W^v_a) over the kept clusters,  K = [K_h, K_c]  ESU
    out     = [head_1 .. head_A] W^o

Differs or decides where the papers are silent: beta is per head and merged into w^c (their product is
what acts); an empty history gives the zero vector; W^o has no bias, so that this holds; the search merges
heads by rank, head order first, ranks scores in steps of 1/1024, and ties go to the earlier cluster.

Adds, as the option `mass` (off as the papers have it): softmax divides out how much of the history matches at
all, so each head's ln(1 + sum n e^alpha), a soft count of matches over the whole life cycle, is appended. And as
the option `alike_score`: embeddings start small, so all scores start near 0, every head averages the whole history,
and what would sharpen them has next to no gradient; with it W^q = W^h start so large that an item scores this much
against itself, on average over items.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, softplus

from service.contract.history import AGE_BUCKETS, STRENGTH_BUCKETS
from training.modules.alike_histories import over_alike_histories, pad_rows, take_rows
from training.modules.attention_options import AttentionOptions
from training.modules.embeddings import INIT_STD
from training.modules.split import HistoryPart, RowLayout, ServedSearchingInterest

CROSS_WIDTH = 8
MASKED = -1e9
TINY = 1e-30
LEAST_EXPONENT = -80.0
"""e^-80 is nothing beside the 1 of the highest score, and torch's exp of what underflows takes ten times as long."""
RANK_STEPS = 1024.0
"""The search ranks scores in steps of 1 / RANK_STEPS: far above rounding errors, far below what matters."""


class TargetAttention(nn.Module):
    """Multi-head target attention; `keep` clusters survive the search, None keeps all (exact attention)."""

    def __init__(
        self, item_width: int, options: AttentionOptions, *, keep: int | None, weigh_sizes: bool
    ) -> None:
        super().__init__()
        heads = options.heads
        self.heads, self.head_width, self.mass = heads, options.head_width, options.mass
        self.keep, self.weigh_sizes = keep, weigh_sizes
        self.out_width = options.out_width + heads * options.mass
        inner = heads * options.head_width
        self.query = nn.Linear(item_width, inner, bias=False)  # W^q
        self.key = nn.Linear(item_width, inner, bias=False)  # W^h
        self.value = nn.Linear(item_width, inner, bias=False)  # inherent rows of W^v
        self.age = nn.Embedding(AGE_BUCKETS, CROSS_WIDTH)
        self.strength = nn.Embedding(STRENGTH_BUCKETS, CROSS_WIDTH)
        self.age_bias = nn.Linear(CROSS_WIDTH, heads, bias=False)  # w^c beta
        self.strength_bias = nn.Linear(CROSS_WIDTH, heads, bias=False)
        self.age_value = nn.Linear(CROSS_WIDTH, inner, bias=False)  # cross rows of W^v
        self.strength_value = nn.Linear(CROSS_WIDTH, inner, bias=False)
        self.output = nn.Linear(inner, options.out_width, bias=False)  # W^o
        if options.alike_score is not None:
            variance = options.alike_score / (math.sqrt(self.head_width) * item_width * INIT_STD**2)
            nn.init.normal_(self.query.weight, std=math.sqrt(variance))
        self.key.load_state_dict(self.query.state_dict())  # like attracts like from the start
        for table in (self.age, self.strength):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return (B, out_width) for targets (B, D): each row attends to its own history."""
        queries = self.query(target) / math.sqrt(self.head_width)
        keys_values = torch.cat([self.key(part.items), self.value(part.items)], dim=-1)  # once per item

        def read(rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout) -> Tensor:
            return self._attend(rows[0], keys_values, part, layout)

        return over_alike_histories(read, (queries,), part, layout)

    def _attend(self, queries: Tensor, keys_values: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Attend over padded histories; keys and values (U, 2 * A * head_width) are those of `part.items`."""
        visits = part.index.shape[0]  # len() would be a constant of a graph under export
        by_head = (self.heads, self.head_width)
        keys, values = embedding(part.index, keys_values).unflatten(-1, (2, *by_head)).unbind(2)
        cross_values = self._cross(part, self.age_value, self.strength_value).unflatten(-1, by_head)
        mixed, mass = attend(
            pad_rows(queries, visits, layout).unflatten(-1, by_head),
            keys,
            values + cross_values,
            self.bias(part),
            part.size,
            keep=self.keep,
        )  # (V, P, A * head_width), (V, P, A)
        out: Tensor = self.output(take_rows(mixed, layout))
        return torch.cat([out, take_rows(mass, layout)], dim=-1) if self.mass else out

    def bias(self, part: HistoryPart) -> Tensor:
        """Return what each position adds to the scores of all targets, (V, L, A): cross features and ln n."""
        cross = self._cross(part, self.age_bias, self.strength_bias)
        return cross + _log_size(part.size, weigh_sizes=self.weigh_sizes)[..., None]

    def _cross(self, part: HistoryPart, of_age: nn.Linear, of_strength: nn.Linear) -> Tensor:
        """Return the sum of two projections of cross features, (V, L, W), by one look-up in the table of all pairs."""
        pairs = _of_pairs(of_age(self.age.weight), of_strength(self.strength.weight))
        return embedding(part.age * STRENGTH_BUCKETS + part.strength, pairs)

    def crossed(self) -> Tensor:
        """Return what each pair of buckets, age first, adds to scores and to values: (pairs, A + A * head_width)."""
        return torch.cat(
            [
                _of_pairs(self.age_bias(self.age.weight), self.strength_bias(self.strength.weight)),
                _of_pairs(self.age_value(self.age.weight), self.strength_value(self.strength.weight)),
            ],
            dim=-1,
        )

    @torch.no_grad()
    def fill_unseen(self, age_seen: Tensor, strength_seen: Tensor) -> None:
        """Give each bucket that training never saw the embedding of the nearest that it saw.

        Else a history older than the logs would be read by random numbers.

        Shapes:
            age_seen: (AGE_BUCKETS,), strength_seen: (STRENGTH_BUCKETS,), bool.
        """
        for table, seen in ((self.age, age_seen), (self.strength, strength_seen)):
            known = torch.nonzero(seen)[:, 0]
            if len(known):
                distance = (torch.arange(len(seen))[:, None] - known[None, :]).abs()
                table.weight.copy_(table.weight[known[distance.argmin(1)]])

    def served(self) -> ServedTargetAttention:
        """Item: query, key and value. Request: cross features and sizes. Joint: scores, softmax, mixing, W^o."""
        return ServedTargetAttention(self)


class ServedTargetAttention(ServedSearchingInterest):
    """Target attention with queries, keys and values of items precomputed, and cross features folded to a table.

    What a cluster adds to all scores is one more column of its keys, which a 1 in every query meets; so that scores
    are one product, and what follows one softmax and another product. `mass` needs the sum that softmax divides by:
    the highest score and its share tell it, however far apart the scores are.
    """

    crossed: Tensor

    def __init__(self, trained: TargetAttention) -> None:
        super().__init__()
        self.heads, self.head_width = trained.heads, trained.head_width
        self.keep, self.weigh_sizes, self.mass = trained.keep, trained.weigh_sizes, trained.mass
        self.query, self.key, self.value = trained.query, trained.key, trained.value
        self.output = trained.output
        with torch.no_grad():
            self.register_buffer("crossed", trained.crossed())

    def last_map(self) -> Tensor | None:
        """Return W^o, and the identity for the masses beside it."""
        return output_map(self.output, masses=self.heads * self.mass)

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return scaled queries, each with a 1 behind it, (I, A * (head_width + 1))."""
        queries = self.query(embedding) / math.sqrt(self.head_width)
        by_head = queries.unflatten(-1, (self.heads, self.head_width))
        return torch.cat([by_head, torch.ones_like(by_head[..., :1])], dim=-1).flatten(-2)

    def history_columns(self, embedding: Tensor) -> Tensor:
        """Return keys, then values without their cross features, (I, 2 * A * head_width)."""
        return torch.cat([self.key(embedding), self.value(embedding)], dim=-1)

    def ranks(self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor) -> Tensor:
        """Return the scores of each head in steps of 1 / RANK_STEPS, (A, N, L)."""
        bias = embedding(age * STRENGTH_BUCKETS + strength, self.crossed[:, : self.heads])
        return torch.round(self._scores(columns, history, size, bias) * RANK_STEPS)

    def forward(
        self,
        columns: Tensor,
        history: Tensor,
        size: Tensor,
        age: Tensor,
        strength: Tensor,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Return (N, out_width)."""
        assert (kept is None) == (self.keep is None), "a search is done before, and then attended to"
        crossed = embedding(age * STRENGTH_BUCKETS + strength, self.crossed)  # (L, A + A * head_width)
        scores = self._scores(columns, history, size, crossed[:, : self.heads])
        if kept is not None:
            scores = scores + (kept.to(scores.dtype) - 1.0) * -MASKED
        # Padding has no share, unless there is nothing else; then its value must be 0.
        held = (size > 0).to(size.dtype).amax(0)
        values = (history[:, history.shape[1] // 2 :] + crossed[:, self.heads :]) * held
        shares = torch.softmax(scores, dim=-1)
        by_head = values.unflatten(-1, (self.heads, self.head_width))
        mixed = torch.matmul(shares, by_head.transpose(0, 1)).transpose(0, 1).flatten(1)
        mass = softplus(scores.amax(-1) - torch.log(shares.amax(-1))).transpose(0, 1)
        out: Tensor = self.output(mixed) if self.ends_in_map else mixed
        return torch.cat([out, mass], dim=-1) if self.mass else out

    def _scores(self, columns: Tensor, history: Tensor, size: Tensor, bias: Tensor) -> Tensor:
        """Return the scores of all heads, (A, N, L), MASKED for padding; `bias` is that of cross features, (L, A)."""
        held = (size > 0).to(size.dtype)
        of_size = _log_size(size, weigh_sizes=self.weigh_sizes) + (held - 1.0) * -MASKED
        keys = history[:, : history.shape[1] // 2].unflatten(-1, (self.heads, self.head_width))
        keys = torch.cat([keys, (bias + of_size[:, None])[..., None]], dim=-1)  # (L, A, head_width + 1)
        queries = columns.unflatten(-1, (self.heads, self.head_width + 1)).transpose(0, 1)  # (A, N, .)
        return torch.matmul(queries, keys.permute(1, 2, 0))


def output_map(output: nn.Linear, *, masses: int) -> Tensor | None:
    """Return W^o (mixed, out) and the identity for the masses beside it; None where it makes less of more."""
    if output.in_features > output.out_features:
        return None
    matrix: Tensor = torch.block_diag(output.weight.detach().T, torch.eye(masses))
    return matrix


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, size: Tensor, *, keep: int | None
) -> tuple[Tensor, Tensor]:
    """Search (GSU) and attend (ESU); return what the heads mixed and their masses, zero for an empty history.

    Shapes:
        queries: (V, P, A, d) already scaled; keys, values: (V, L, A, d); bias: (V, L, A);
        size: (V, L), 0 marks padding; returns (V, P, A * d) and ln(1 + sum n e^alpha) as (V, P, A).
    """
    scores = scores_by_head(queries, keys) + bias.transpose(1, 2)[:, :, None, :]
    allowed = (size > 0)[:, None, None, :]
    if keep is not None and (torch.compiler.is_exporting() or keep < scores.shape[-1]):
        allowed = allowed & kept_by_search(torch.where(allowed, scores, MASKED), keep)
    return mix(scores, values, allowed)


def scores_by_head(queries: Tensor, keys: Tensor) -> Tensor:
    """Return inner products (V, A, P, L) of queries (V, P, A, d) and keys (V, L, A, d)."""
    return torch.matmul(queries.transpose(1, 2), keys.permute(0, 2, 3, 1))


def mix(scores: Tensor, values: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the heads mix by softmax over the allowed positions, and their masses; zero where none is.

    Shapes:
        scores: (V, A, P, L); values: (V, L, A, d); allowed: bool, broadcast to scores;
        returns (V, P, A * d) and ln(1 + sum e^score) as (V, P, A).
    """
    scores = torch.where(allowed, scores, MASKED)
    highest = scores.amax(-1, keepdim=True)
    below = scores - highest
    if not torch.compiler.is_exporting():
        below = below.clamp(min=LEAST_EXPONENT)
    parts = torch.exp(below) * allowed
    total = parts.sum(-1, keepdim=True)
    mixed = torch.matmul(parts, values.transpose(1, 2)) / total.clamp(min=TINY)  # (V, A, P, d)
    floor = highest.clamp(min=0.0)
    mass = torch.log(torch.exp(-floor) + total * torch.exp(highest - floor)) + floor
    return mixed.transpose(1, 2).flatten(2), mass[..., 0].transpose(1, 2)


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
    top = _best(scores, keep)  # (V, A, P, keep), in order of rank
    step = torch.arange(keep, device=scores.device) * heads
    step = (step[None, :] + torch.arange(heads, device=scores.device)[:, None]).float()  # (A, keep)
    never = float(heads * keep)
    met = torch.full_like(scores, never, dtype=step.dtype)  # in float32 whatever the scores are: exact
    met = met.scatter(-1, top, step[None, :, None, :].expand(top.shape)).amin(1)
    last = (-met).topk(keep, dim=-1).values[..., -1:]  # steps are distinct but for `never`
    kept = (-met >= last) & (met < never)
    return kept[:, None, :, : scores.shape[-1] - keep]


def _best(scores: Tensor, keep: int) -> Tensor:
    """Return the indices of the `keep` highest, ties to the earlier one.

    Equal clusters (one item bought thrice, long ago) must stand in one order in all heads: with three heads or
    more, it decides how many others the heads agree on. ONNX's TopK promises that order, torch's topk does not; so the
    place is part of the key. Rounding first makes ties of what differs only by the order of summation.
    """
    length = scores.shape[-1]
    earlier_first = torch.arange(length, 0, -1, device=scores.device, dtype=torch.float64)
    whole = torch.round(scores * RANK_STEPS).double()  # whole numbers, so that no two of the keys are equal
    return (whole * (length + 1) + earlier_first).topk(keep, dim=-1).indices


def _of_pairs(of_age: Tensor, of_strength: Tensor) -> Tensor:
    """Return the sums of all pairs of rows, (ages, W) and (strengths, W) to (ages * strengths, W)."""
    return (of_age[:, None] + of_strength[None]).flatten(0, 1)


def _log_size(size: Tensor, *, weigh_sizes: bool) -> Tensor:
    """Return ln n, 0 for padding, which the mask handles."""
    return torch.log(size.clamp(min=1.0)) if weigh_sizes else torch.zeros_like(size)
