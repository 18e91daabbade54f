"""Two stages with nothing in common but the embeddings: a search (GSU) of any kind, then target attention (ESU).

Source: the ESU of SIM, arXiv:2006.05639, section 3.3. For head a, with target q, and a behavior's item e and
cross features t (its age: SIM's time gap; its strength):

    z      = [e, t]
    score  = (z W^k_a)(q W^q_a) / sqrt(d)        over what the search kept
    head_a = softmax(score) (z W^v_a)
    out    = [head_1 .. head_A] W^o

Differs: strength, which SIM has none of (`crossed: [age]` is SIM's). SIM mixes z itself, and the layer above maps
the heads' mixtures to its own width; here that map is W^v_a W^o_a, of rank d, so that the searches are compared with
attention of one size. Scores are scaled by sqrt(d). Decides: no biases, so that a target for which nothing is kept
gets the zero vector. In contrast to `target_attention.py`, cross features are part of the key, so what they add to a
score depends on the target.

Adds the option `mass` (off as in the papers): each head's ln(1 + sum e^score), a soft count of matches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from training.modules.alike_histories import over_alike_histories, pad_rows, take_rows
from training.modules.cross_features import CrossFeatures, CrossName, CrossProjection
from training.modules.search import RankedSearch, Search
from training.modules.split import HistoryPart, RowLayout, ServedSearchingInterest
from training.modules.target_attention import mix, output_map, scores_by_head


class SearchedAttention(nn.Module):
    """Multi-head target attention over the behaviors that a search keeps."""

    def __init__(
        self,
        item_width: int,
        *,
        search: Search,
        heads: int,
        head_width: int,
        out_width: int,
        crossed: Sequence[CrossName],
        mass: bool,
    ) -> None:
        super().__init__()
        self.search = search
        self.heads, self.head_width, self.mass = heads, head_width, mass
        self.out_width = out_width + heads * mass
        inner = heads * head_width
        self.cross = CrossFeatures(crossed)
        self.query = nn.Linear(item_width, inner, bias=False)  # W^q
        self.key = nn.Linear(item_width, inner, bias=False)  # the item's rows of W^k
        self.value = nn.Linear(item_width, inner, bias=False)  # the item's rows of W^v
        self.cross_key_value = CrossProjection(self.cross, 2 * inner)  # the others of W^k, then of W^v
        self.output = nn.Linear(inner, out_width, bias=False)  # W^o
        self.key.load_state_dict(self.query.state_dict())  # like attracts like from the start

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return (B, out_width) for targets (B, D): each row attends to what it keeps of its own history."""
        keys_values = self.keys_values(part.items)  # once per item
        with torch.no_grad():
            sought, known = self.search.of_targets(target), self.search.of_items(part.items)

        def read(rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout) -> Tensor:
            queries, sought = (pad_rows(row, part.index.shape[0], layout) for row in rows)
            mixed, mass = self.attend(queries, sought, keys_values, known, part)
            out: Tensor = self.output(take_rows(mixed, layout))
            return torch.cat([out, take_rows(mass, layout)], dim=-1) if self.mass else out

        return over_alike_histories(read, (self.queries(target), sought), part, layout)

    def queries(self, target: Tensor) -> Tensor:
        """Return scaled queries of all heads, (B, A * head_width)."""
        queries: Tensor = self.query(target) / math.sqrt(self.head_width)
        return queries

    def keys_values(self, items: Tensor) -> Tensor:
        """Return what items add to the keys of all heads, then to their values, (U, 2 * A * head_width)."""
        return torch.cat([self.key(items), self.value(items)], dim=-1)

    def attend(
        self,
        queries: Tensor,
        sought: Tensor,
        keys_values: Tensor,
        known: Tensor,
        part: HistoryPart,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Search and attend over padded histories; return what the heads mixed (V, P, inner) and masses (V, P, A).

        `keys_values` (U, 2 * A * head_width) and `known` (U, Wi) are those of `part.items`; `kept` (V, P, L) is what
        the search keeps, if that is known.
        """
        by_head = (self.heads, self.head_width)
        valid = part.size > 0
        if kept is None:
            with torch.no_grad():
                kept = self.search.kept(sought, embedding(part.index, known), valid)
        both = self.cross_key_value(embedding(part.index, keys_values), self.cross, part)
        keys, values = both.unflatten(-1, (2, *by_head)).unbind(2)  # (V, L, A, d)
        mixed, mass = mix(
            scores_by_head(queries.unflatten(-1, by_head), keys),
            values,
            kept[:, None],
        )
        return mixed, mass

    def fill_unseen(self, age_seen: Tensor, strength_seen: Tensor) -> None:
        """Give each bucket that training never saw the embedding of the nearest that it saw."""
        self.cross.fill_unseen(age_seen, strength_seen)

    def served(self) -> ServedSearchedAttention:
        """Item: query, key and value, and what the search needs of it. Request: cross features. Joint: the rest."""
        return ServedSearchedAttention(self)


class ServedSearchedAttention(ServedSearchingInterest):
    """A searched attention with all that depends only on an item precomputed."""

    newest_first = True

    def __init__(self, trained: SearchedAttention) -> None:
        super().__init__()
        self.trained = trained
        self.inner = trained.heads * trained.head_width
        self.keep = trained.search.keep if isinstance(trained.search, RankedSearch) else None

    def last_map(self) -> Tensor | None:
        """Return W^o, and the identity for the masses beside it."""
        return output_map(self.trained.output, masses=self.trained.heads * self.trained.mass)

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return scaled queries and what the search needs of a target, (I, A * head_width + Wt)."""
        return torch.cat([self.trained.queries(embedding), self.trained.search.of_targets(embedding)], dim=-1)

    def history_columns(self, embedding: Tensor) -> Tensor:
        """Return keys and values, and what the search needs of a behavior, (I, 2 * A * head_width + Wi)."""
        return torch.cat(
            [self.trained.keys_values(embedding), self.trained.search.of_items(embedding)], dim=-1
        )

    def ranks(self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor) -> Tensor:
        """Return what the search ranks by, (1, N, L)."""
        search = self.trained.search
        assert isinstance(search, RankedSearch)
        ranks = search.ranks(columns[None, :, self.inner :], history[None, :, 2 * self.inner :])
        return torch.where(size > 0, ranks, -torch.inf)

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
        index = torch.arange(history.shape[0])[None]
        part = HistoryPart(history, index, size[None], age[None], strength[None])
        mixed, mass = self.trained.attend(
            columns[None, :, : self.inner],
            columns[None, :, self.inner :],
            history[:, : 2 * self.inner],
            history[:, 2 * self.inner :],
            part,
            None if kept is None else (kept & (size > 0))[None],
        )
        out: Tensor = self.trained.output(mixed[0]) if self.ends_in_map else mixed[0]
        return torch.cat([out, mass[0]], dim=-1) if self.trained.mass else out
