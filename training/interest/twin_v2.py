"""TWIN V2 (arXiv:2407.16357): target attention over the clusters of a user's whole life cycle.

See `modules/target_attention.py` for the equations. `keep` is the GSU's cut; the paper's is 100. `null`
keeps all clusters (exact attention), which is cheaper up to about two thousand of them and never less
faithful; a model is served with the `keep` it was trained with.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from training.modules.split import ItemLayout
from training.modules.target_attention import TargetAttention

READS = "clusters"


class Options(BaseModel):
    """Options of the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=16, ge=1)
    out_width: int = Field(default=64, ge=1)
    keep: int | None = Field(
        default=None, ge=1, description="clusters that survive the search; null keeps all"
    )
    mass: bool = Field(default=False, description="append each head's soft count of matches")


def build(options: Options, *, item: ItemLayout) -> TargetAttention:
    """Build the module for the embeddings of items."""
    return TargetAttention(
        item.width,
        heads=options.heads,
        head_width=options.head_width,
        out_width=options.out_width,
        keep=options.keep,
        mass=options.mass,
        weigh_sizes=True,
    )
