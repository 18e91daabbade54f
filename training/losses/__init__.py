"""Losses of one task, by name: the file name is the name in the config.

A loss file holds `Options` (a frozen pydantic model) and `build(options)`, which returns the loss. Knows
nothing of models, of several tasks or of which rows' labels are known: the caller leaves the others out.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class UnknownLossError(ValueError):
    """A config names a loss that is not there."""


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
            offset: (B,) −ln keep_probability of the row's request; added to the natural-rate logit so
                that it is compared with the rate of the sampled rows.
            returns: () scalar.
        """


def loss_names() -> tuple[str, ...]:
    """Return the names that a config may use, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def build_loss(config: Mapping[str, object]) -> Loss:
    """Return the loss that `config["name"]` names, with the other entries as its options.

    Raises:
        UnknownLossError: there is no such file in this folder.
        pydantic.ValidationError: an option is unknown or out of range.
    """
    name = config.get("name")
    if name not in loss_names():
        raise UnknownLossError(f"loss {name!r}: expected one of {', '.join(loss_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    options = module.Options.model_validate({key: value for key, value in config.items() if key != "name"})
    loss: Loss = module.build(options)
    return loss
