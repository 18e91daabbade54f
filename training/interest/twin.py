"""TWIN (arXiv:2302.02352): target attention over raw behaviors, the search by the very scores of the attention.

See `modules/target_attention.py` for the equations: split projections, cross features (age, strength) as a
scalar bias per head, heads merged by rank until `keep` distinct behaviors are found. The paper's `keep` is
100; `null` keeps all.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from training.modules.split import ItemLayout
from training.modules.target_attention import TargetAttention


class Options(BaseModel):
    """Options of the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["behaviors", "clusters"] = Field(
        default="behaviors", description="clusters are read as if each were one behavior: without + ln n"
    )
    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=16, ge=1)
    out_width: int = Field(default=64, ge=1)
    keep: int | None = Field(
        default=100, ge=1, description="behaviors that survive the search; null keeps all"
    )
    mass: bool = Field(default=False, description="append each head's soft count of matches")


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


def build(options: Options, *, item: ItemLayout) -> TargetAttention:
    """Build the module for the embeddings of items."""
    return TargetAttention(
        item.width,
        heads=options.heads,
        head_width=options.head_width,
        out_width=options.out_width,
        keep=options.keep,
        mass=options.mass,
        weigh_sizes=False,
    )
