"""Optimizers, by name: the file name is the name in the config.

An optimizer file holds `Options` (a frozen pydantic model) and `build`, which returns the optimizer. It takes
the losses of all tasks apart, so that it may treat them apart. Knows nothing of models and of schedules: the
caller says at each step by how much the learning rates have fallen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter

from training.plugins import load_plugin

AUXILIARY = "auxiliary"  # the loss that is no task's: what modules add for themselves


class Optimizer(Protocol):
    """Updates the parameters that it was built with."""

    def step(self, losses: Mapping[str, Tensor], *, rate_ratio: float) -> None:
        """Backpropagate the losses once, update the parameters, and leave no gradients.

        `losses` are weighted scalars of one forward pass, by task; their sum is what is minimized. A task
        without a known label in the batch is absent from it. What modules add for themselves stands
        under `AUXILIARY`. Losses that reach no parameter are ignored.

        `rate_ratio` multiplies both learning rates in this step.
        """


def build_optimizer(
    name: str,
    options: Mapping[str, object],
    *,
    embeddings: Sequence[Parameter],
    dense: Sequence[Parameter],
    embedding_learning_rate: float,
    dense_learning_rate: float,
) -> Optimizer:
    """Return an optimizer by its name.

    Raises:
        ConfigError: there is no such file in this folder.
        pydantic.ValidationError: an option is unknown or out of range.
    """
    plugin = load_plugin(__name__, name)
    optimizer: Optimizer = plugin.build(
        plugin.Options.model_validate(options),
        embeddings=list(embeddings),
        dense=list(dense),
        embedding_learning_rate=embedding_learning_rate,
        dense_learning_rate=dense_learning_rate,
    )
    return optimizer
