"""The options that attention has in every interest module that is one."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AttentionSizes(BaseModel):
    """Sizes of multi-head attention, after whatever search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=16, ge=1)
    out_width: int = Field(default=64, ge=1)
    mass: bool = Field(default=False, description="append each head's soft count of matches")


class AttentionOptions(AttentionSizes):
    """Options of `TargetAttention`: sizes, and what it starts from."""

    alike_score: float | None = Field(
        default=None,
        gt=0,
        description="score of an item against itself before training; others are near 0. null: near 0 too",
    )
