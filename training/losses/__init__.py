"""Losses of one task, by name: the file name is the name in the config.

A loss file holds `Options` (a frozen pydantic model) and `build(options)`, which returns the loss. Knows
nothing of models, of several tasks or of which rows' labels are known: the caller leaves the others out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from training.plugins import load_plugin


class Loss(Protocol):
    """The loss of one task over the rows whose label is known."""

    @property
    def logit_columns(self) -> int:
        """Columns that the task's tower must have: 1 for a logit, 2 for (non-click, click)."""

    def __call__(self, logits: Tensor, labels: Tensor, context: Tensor, offset: Tensor) -> Tensor:
        """Return the mean loss; of no rows, a 0 that still reaches the logits.

        Shapes:
            logits: (B, logit_columns).
            labels: (B,) 0 or 1, of any type.
            context: (B,) integer ids; rows of equal id were shown together and are compared.
            offset: (B,) added to the natural-rate logit so that it is compared with the rate of the sampled
                rows: −ln keep_probability of the row's request, the same in all of it, unless the task is `direct`.
            returns: () scalar.
        """


def build_loss(name: str, options: Mapping[str, object]) -> Loss:
    """Return a loss by its name.

    Raises:
        ConfigError: there is no such file in this folder.
        pydantic.ValidationError: an option is unknown or out of range.
    """
    plugin = load_plugin(__name__, name)
    loss: Loss = plugin.build(plugin.Options.model_validate(options))
    return loss
