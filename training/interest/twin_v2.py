"""TWIN V2 (arXiv:2407.16357): target attention over the clusters of a user's whole life cycle.

See `modules/target_attention.py` for the equations. `keep` is the GSU's cut; the paper's is 100. `null`
keeps all clusters (exact attention), which is cheaper up to about two thousand of them and never less
faithful; a model is served with the `keep` it was trained with.
"""

from __future__ import annotations

from pydantic import Field

from training.modules.attention_options import AttentionOptions
from training.modules.split import ItemLayout
from training.modules.target_attention import TargetAttention

READS = "clusters"


class Options(AttentionOptions):
    """Options of the module."""

    keep: int | None = Field(
        default=None, ge=1, description="clusters that survive the search; null keeps all"
    )


def build(options: Options, *, item: ItemLayout) -> TargetAttention:
    """Build the module for the embeddings of items."""
    return TargetAttention(item.width, options, keep=options.keep, weigh_sizes=True)
