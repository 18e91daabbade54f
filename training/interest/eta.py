"""ETA (arXiv:2108.04468, arXiv:2209.12212): attention over the behaviors nearest to the target by Hamming distance.

    h(e) = sign(e R),  R (D, bits) random and fixed                               SimHash
    GSU: the `keep` behaviors of least Hamming distance between h(e_i) and h(e_target)
    ESU: target attention over these, `modules/searched_attention.py`

Codes are computed from the embeddings as they are at each forward, without a gradient. R is drawn once and saved
with the model: one drawn anew per forward would score the same request differently each time. Of behaviors of
equal distance, many where bits are few, the newest are kept; the papers leave this open. Codes are equal to the
bit in training and serving (`modules/exact_projection.py`).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from training.modules.exact_projection import SimHash
from training.modules.search import RankedSearch
from training.modules.search_options import SearchedAttentionOptions
from training.modules.searched_attention import SearchedAttention
from training.modules.split import ItemLayout


class Options(SearchedAttentionOptions):
    """Options of the module."""

    keep: int | None = Field(
        default=48, ge=1, description="behaviors that survive the search; null keeps all"
    )
    bits: int = Field(default=64, ge=1, le=1024, description="width of a code")


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


class HammingSearch(RankedSearch):
    """Keeps the behaviors whose codes differ from the target's in the fewest bits, the newest of equals."""

    def __init__(self, width: int, *, bits: int, keep: int | None) -> None:
        super().__init__()
        self.keep = keep
        self.hash = SimHash(width, bits)

    def of_targets(self, target: Tensor) -> Tensor:
        """Return codes (B, bits)."""
        codes: Tensor = self.hash(target)
        return codes

    def of_items(self, items: Tensor) -> Tensor:
        """Return codes (U, bits)."""
        return self.of_targets(items)

    def ranks(self, targets: Tensor, items: Tensor) -> Tensor:
        """Return the agreement: bits - 2 * Hamming distance, a whole number."""
        return torch.matmul(targets, items.transpose(1, 2)).double()


def build(options: Options, *, item: ItemLayout) -> SearchedAttention:
    """Build the module for the embeddings of items."""
    return SearchedAttention(
        item.width,
        search=HammingSearch(item.width, bits=options.bits, keep=options.keep),
        heads=options.heads,
        head_width=options.head_width,
        out_width=options.out_width,
        crossed=options.crossed,
        mass=options.mass,
    )
