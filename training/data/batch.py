"""What a model is fed: whole requests, grouped by user, with one history per visit. Tensors only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from training.modules.split import RowLayout


@dataclass(frozen=True)
class PartIds:
    """One part of several histories as ids, padded; items are named once and pointed to.

    Axes:
        item_rows: (U,) distinct item rows; index: (V, L) into them; size: (V, L) float, 0 marks padding;
        age, strength: (V, L) bucket ids.
    """

    item_rows: Tensor
    index: Tensor
    size: Tensor
    age: Tensor
    strength: Tensor


@dataclass(frozen=True)
class Batch:
    """B rows of R requests in V visits. A visit is a user at a moment; its requests share its history.

    Axes:
        item: (B,) item rows; candidate_ids: (B, FP); request: (B,) into the request axis;
        user_ids: (R, FU) user and context ids; domain: (R,); layout.visit: (B,) into the visit axis;
        parts: "clusters" and "recents"; labels: (B, T) float, NaN where unknown;
        offset: (B,) -ln keep_probability of the request's negatives.
    """

    item: Tensor
    candidate_ids: Tensor
    request: Tensor
    user_ids: Tensor
    domain: Tensor
    layout: RowLayout
    parts: dict[str, PartIds]
    labels: Tensor
    offset: Tensor
