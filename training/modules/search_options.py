"""The options that every search followed by target attention has."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from training.modules.cross_features import CrossName


class SearchedAttentionOptions(BaseModel):
    """Options of `SearchedAttention` and of what it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["behaviors", "clusters"] = Field(
        default="behaviors", description="clusters are read as if each were one behavior"
    )
    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=16, ge=1)
    out_width: int = Field(default=64, ge=1)
    keep: int | None = Field(
        default=100, ge=1, description="behaviors that survive the search; null keeps all that may"
    )
    crossed: tuple[CrossName, ...] = Field(
        default=("age", "strength"), description="what attention reads of a behavior beside its item"
    )
    mass: bool = Field(default=False, description="append each head's soft count of matches")
