"""Consistency of a search: how much of what attention itself ranks first the search returns.

TWIN (arXiv:2302.02352, section 5) counts how many of the ESU's true top 100 are among the 100 that the GSU
returns: 94 for TWIN, whose keys are up to 15 minutes old, 40 for SIM hard. Here the truth is a ranking of
exact scores in numpy, heads merged by walking their rankings in turn; it shares no code with the search.

Scores are ranked in steps of 1 / RANK_STEPS, as the search does: closer ones are equal, and the earlier wins.
Knows nothing of how a model is trained or stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.contract.history import AGE_BUCKETS, I64, STRENGTH_BUCKETS
from training.data.encoded import EncodedData
from training.fit import batch_builder
from training.model import CtrModel
from training.modules.split import HistoryPart
from training.modules.target_attention import RANK_STEPS, TargetAttention, kept_by_search, scores_by_head

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Consistency:
    """Shares of the true top that the search returned, over targets."""

    mean: float
    least: float
    whole: float  # share of targets whose true top was returned whole
    targets_count: int
    length_mean: float
    keep_mean: float


def true_top(scores: F64, keep: int) -> Bool:
    """Return what a walk over the heads' rankings, in turn, finds first: exactly `keep`, or all.

    Shapes:
        scores: (A, L), ties to the earlier position; returns (L,).
    """
    heads, length = scores.shape
    order = np.argsort(-scores, axis=1, kind="stable")
    found = np.zeros(length, np.bool_)
    for rank in range(length):
        for head in range(heads):
            if int(found.sum()) == keep:
                return found
            found[order[head, rank]] = True
    return found


def returned_share(returned: Bool, scores: F64, keep: int) -> float:
    """Return the share of the true top `keep` that is among what a search returned, (L,)."""
    top = true_top(np.round(scores * RANK_STEPS), keep)
    return float((returned & top).sum() / top.sum())


def shares_of_search(
    attention: TargetAttention,
    targets: Tensor,
    part: HistoryPart,
    keep: int,
    *,
    cached_keys: Tensor | None = None,
) -> list[float]:
    """Return each target's share for one history without padding.

    Shapes:
        targets: (P, D) embeddings; part: one history (1, L); cached_keys: (U, A * head_width), the keys of
        `part.items` as they were when the search's cache was filled; None for fresh ones.
    """
    by_head = (attention.heads, attention.head_width)
    scale = math.sqrt(attention.head_width)
    with torch.inference_mode():
        keys = attention.key(part.items) if cached_keys is None else cached_keys
        queries = (attention.query(targets) / scale).unflatten(-1, by_head)[None]
        bias = attention.bias(part)
        scores = scores_by_head(queries, keys[part.index].unflatten(-1, by_head))
        returned = kept_by_search(scores + bias.transpose(1, 2)[:, :, None], keep)[0, 0].numpy()
        items, rows = part.items[part.index[0]].double().numpy(), targets.double().numpy()
        offset = bias[0].double().numpy().T  # (A, L)
        key, query = (
            layer.weight.double().numpy().reshape(*by_head, -1) for layer in (attention.key, attention.query)
        )
    inherent = np.einsum("ahd,ld->alh", key, items), np.einsum("ahd,pd->aph", query, rows)
    exact = np.einsum("alh,aph->pal", *inherent) / scale + offset
    return [returned_share(mine, exact[row], keep) for row, mine in enumerate(returned)]


def consistency_on_histories(
    model: CtrModel,
    interest: str,
    data: EncodedData,
    visits: I64,
    *,
    keep_ratio: float = 0.25,
    stale_noise: float = 0.0,
    seed: int = 0,
) -> Consistency:
    """Measure a TWIN or TWIN V2 module of a trained model on real visits, with keep = C * keep_ratio.

    With `stale_noise` the search has keys moved by that share of their spread, as a cache has that was filled before
    the last updates.
    Visits with less than 1 / keep_ratio entries are left out: there is nothing to choose.
    """
    attention = _attention_of(model, interest)
    random, found = torch.Generator().manual_seed(seed), _Found()
    builder = batch_builder(data)
    for visit in visits:
        batch = builder.build(np.array([visit]))
        ids = batch.parts[model.reads[interest]]
        length = int((ids.size > 0).sum())
        keep = int(length * keep_ratio)
        if keep < 1:
            continue
        with torch.inference_mode():
            items, targets = model.embed_items(ids.item_rows), model.embed_items(torch.unique(batch.item))
            keys = moved(attention.key(items), stale_noise, random)
        part = HistoryPart(items, *(x[:, :length] for x in (ids.index, ids.size, ids.age, ids.strength)))
        found.add(shares_of_search(attention, targets, part, keep, cached_keys=keys), length, keep)
    return found.summary()


def consistency_on_long_histories(
    attention: TargetAttention,
    items: Tensor,
    *,
    length: int,
    keep: int,
    histories_count: int = 8,
    targets_count: int = 16,
    stale_noise: float = 0.0,
    seed: int = 0,
) -> Consistency:
    """Measure on histories longer than any at hand: items (I, D), sizes, ages and strengths drawn at random."""
    random, found = torch.Generator().manual_seed(seed), _Found()
    for _ in range(histories_count):
        index = torch.randint(0, len(items), (1, length), generator=random)
        part = HistoryPart(
            items=items,
            index=index,
            size=torch.randint(1, 21, (1, length), generator=random).to(items.dtype),
            age=torch.randint(0, AGE_BUCKETS, (1, length), generator=random),
            strength=torch.randint(0, STRENGTH_BUCKETS, (1, length), generator=random),
        )
        targets = items[torch.randint(0, len(items), (targets_count,), generator=random)]
        with torch.inference_mode():
            keys = moved(attention.key(items), stale_noise, random)
        found.add(shares_of_search(attention, targets, part, keep, cached_keys=keys), length, keep)
    return found.summary()


def moved(keys: Tensor, noise: float, random: torch.Generator) -> Tensor:
    """Return keys moved by normal noise of `noise` times each column's spread: what a stale cache holds."""
    if noise == 0:
        return keys
    spread = keys.std(0, correction=0, keepdim=True)
    return keys + noise * spread * torch.randn(keys.shape, generator=random, dtype=keys.dtype)


class _Found:
    """Shares gathered over histories."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.lengths: list[int] = []
        self.keeps: list[int] = []

    def add(self, shares: list[float], length: int, keep: int) -> None:
        self.shares += shares
        self.lengths.append(length)
        self.keeps.append(keep)

    def summary(self) -> Consistency:
        shares = np.array(self.shares or [math.nan])
        return Consistency(
            mean=float(shares.mean()),
            least=float(shares.min()),
            whole=float((shares == 1).mean()),
            targets_count=len(self.shares),
            length_mean=float(np.mean(self.lengths) if self.lengths else math.nan),
            keep_mean=float(np.mean(self.keeps) if self.keeps else math.nan),
        )


def _attention_of(model: CtrModel, interest: str) -> TargetAttention:
    module = model.interests[interest]
    if not isinstance(module, TargetAttention):
        raise TypeError(f"{interest!r} searches by other scores than its attention's")
    return module
