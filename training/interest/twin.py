"""TWIN (arXiv:2302.02352): target attention over raw behaviors, the search by the very scores of the attention.

See `modules/target_attention.py` for the equations: split projections, cross features (age, strength) as a
scalar bias per head, heads merged by rank until `keep` distinct behaviors are found. The paper's `keep` is
100; `null` keeps all.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from training.modules.attention_options import AttentionOptions
from training.modules.split import ItemLayout
from training.modules.target_attention import TargetAttention


class Options(AttentionOptions):
    """Options of the module."""

    part: Literal["behaviors", "clusters"] = Field(
        default="behaviors", description="clusters are read as if each were one behavior: without + ln n"
    )
    keep: int | None = Field(
        default=100, ge=1, description="behaviors that survive the search; null keeps all"
    )


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


def build(options: Options, *, item: ItemLayout) -> TargetAttention:
    """Build the module for the embeddings of items."""
    return TargetAttention(item.width, options, keep=options.keep, weigh_sizes=False)
