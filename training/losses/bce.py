"""Binary cross-entropy of one logit: calibrated, and blind to which rows were shown together."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional


class Options(BaseModel):
    """BCE has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class BceLoss:
    """Mean binary cross-entropy. Two columns (non-click, click) are read as their difference."""

    logit_columns: int = 1

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """See `training.losses.Loss`; logits may be (B, 1) or (B, 2). The context is not read."""
        if len(logits) == 0:
            return logits.sum()
        return functional.binary_cross_entropy_with_logits(
            natural_logit(logits) + offset, labels.to(logits.dtype)
        )


def natural_logit(logits: Tensor) -> Tensor:
    """Return the logit that is served: column 1 minus column 0, or the only column.

    Shapes:
        logits: (B, 1) or (B, 2).
        returns: (B,).
    """
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def build(options: Options) -> BceLoss:
    """Return the loss of these options."""
    return BceLoss()
