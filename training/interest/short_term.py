"""The short-term module: target attention over the newest behaviors, each by itself.

TWIN (arXiv:2302.02352, section 4.1) puts a module over the 50 most recent behaviors beside the long-term one, and
does not print it. Here it is softmax attention with heads, as in the long-term module.
"""

from __future__ import annotations

from pydantic import Field

from training.modules.attention_options import AttentionOptions
from training.modules.split import ItemLayout
from training.modules.target_attention import TargetAttention

READS = "recents"


class Options(AttentionOptions):
    """Options of the module."""

    heads: int = Field(default=2, ge=1)
    out_width: int = Field(default=32, ge=1)


def build(options: Options, *, item: ItemLayout) -> TargetAttention:
    """Build the module for the embeddings of items."""
    return TargetAttention(item.width, options, keep=None, weigh_sizes=False)
