"""The short-term module: target attention over the newest behaviors, each by itself.

TWIN (arXiv:2302.02352, section 4.1) puts a module over the 50 most recent behaviors beside the long-term one, and
does not print it. Here it is softmax attention with heads, as in the long-term module.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from training.modules.split import ItemLayout
from training.modules.target_attention import TargetAttention

READS = "recents"


class Options(BaseModel):
    """Options of the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: int = Field(default=2, ge=1)
    head_width: int = Field(default=16, ge=1)
    out_width: int = Field(default=32, ge=1)
    mass: bool = Field(default=False, description="append each head's soft count of matches")


def build(options: Options, *, item: ItemLayout) -> TargetAttention:
    """Build the module for the embeddings of items."""
    return TargetAttention(
        item.width,
        heads=options.heads,
        head_width=options.head_width,
        out_width=options.out_width,
        keep=None,
        mass=options.mass,
        weigh_sizes=False,
    )
