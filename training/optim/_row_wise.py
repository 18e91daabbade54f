"""Adam, AdaGrad and RMSProp with one second moment a row of a table instead of one a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from training.optim import adagrad, adam, rmsprop

RuleOptions = adam.Options | adagrad.Options | rmsprop.Options


class RowWise(torch.optim.Optimizer):
    """A rule whose second moment is of a row's mean squared gradient. First moments stay one a number.

    A table of V rows of width D keeps V second moments instead of V · D. At width 1, and where the gradients
    of a row are alike, it is the rule itself. Gradients are dense; a row without one decays as torch's do.

    Source:
        The row-wise AdaGrad of PyTorch-BigGraph, arXiv:1903.12287, and the same mean for the other two rules.
    """

    def __init__(self, groups: list[dict[str, Any]], rule: RuleOptions) -> None:
        super().__init__(groups, {"lr": 0.0})
        self._rule = rule

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad, group["lr"])

    def _update(self, table: Tensor, gradient: Tensor, rate: float) -> None:
        rule, state = self._rule, self.state[table]
        square = torch.linalg.vector_norm(gradient, dim=1, keepdim=True).square_().div_(table.shape[1])
        if not state:
            state["step"] = 0
            state["square"] = torch.full_like(square, getattr(rule, "initial_sum", 0.0))  # (V, 1)
            if isinstance(rule, adam.Options):
                state["moment"] = torch.zeros_like(table)
        state["step"] += 1
        if isinstance(rule, adam.Options):
            moment = state["moment"].lerp_(gradient, 1 - rule.beta1)
            second = state["square"].lerp_(square, 1 - rule.beta2)
            root = (second / (1 - rule.beta2 ** state["step"])).sqrt_().add_(rule.epsilon)
            table.addcdiv_(moment, root, value=-rate / (1 - rule.beta1 ** state["step"]))
        elif isinstance(rule, adagrad.Options):
            root = state["square"].add_(square).sqrt().add_(rule.epsilon)
            table.addcdiv_(gradient, root, value=-rate)
        else:
            root = state["square"].lerp_(square, 1 - rule.decay).sqrt().add_(rule.epsilon)
            table.addcdiv_(gradient, root, value=-rate)
