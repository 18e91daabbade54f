"""The options that every search followed by target attention has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from training.modules.attention_options import AttentionSizes
from training.modules.cross_features import CrossName


class SearchedAttentionOptions(AttentionSizes):
    """Options of `SearchedAttention` and of what it reads."""

    part: Literal["behaviors", "clusters"] = Field(
        default="behaviors", description="clusters are read as if each were one behavior"
    )
    keep: int | None = Field(
        default=100, ge=1, description="behaviors that survive the search; null keeps all that may"
    )
    crossed: tuple[CrossName, ...] = Field(
        default=("age", "strength"), description="what attention reads of a behavior beside its item"
    )
