"""How a life cycle is compressed: the options of clustering and of snapshots."""

from __future__ import annotations

from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, field_validator


class SnapshotOptions(BaseModel):
    """Options of TWIN-V2 clusters and of the tail kept beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_cluster_size: int = Field(default=20, ge=1, description="behaviors in a cluster at most")
    strength_edges: tuple[float, ...] = Field(
        default=(0.2, 0.4, 0.6, 0.8),
        description="no cluster has behaviors of both sides of an edge; the edge itself belongs above",
    )
    split_exponent: float = Field(
        default=0.3, gt=0.0, lt=1.0, description="n behaviors are split in ⌊n^exponent⌋ parts, at least 2"
    )
    kmeans_iterations: int = Field(default=10, ge=1)
    tail_count: int = Field(default=50, ge=0, description="newest behaviors kept as they are")
    counted_items_max: int = Field(
        default=2048,
        ge=0,
        description="items whose count and last time are kept, those met last; 28 bytes each",
    )
    seed: int = Field(default=0, ge=0)

    @field_validator("strength_edges")
    @classmethod
    def _edges_rise(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(b <= a for a, b in pairwise(edges)):
            raise ValueError(f"strength edges must rise, got {edges}")
        return edges
