"""AdaTask: second moments of each task apart, so that a task of large gradients does not starve the others.

Source:
    AdaTask: A Task-aware Adaptive Learning Rate Approach to Multi-task Learning, arXiv:2211.15055,
    Algorithm 2: θ ← θ − η Σ_k m̂_k / (√v̂_k + ε), for Adam, and likewise for AdaGrad and RMSProp.
    Differs: steps are counted per parameter and task, and a task that is absent from a batch, or does not
    reach a parameter, neither moves it nor lets its moments decay; `row_wise` keeps one second moment a row
    of an embedding table and task; the auxiliary loss, which the paper has none of (see `auxiliary`). A domain that
    is absent from a batch has a gradient of 0 in what a backbone stacks for all domains: it decays there as in Adam.

Not divided by the number of tasks K, as in the paper: K tasks that agree step K times as far as Adam would.
Tune the learning rates anew, and compare with the joint optimizer at K times its rates too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import Parameter

from training.optim import AUXILIARY, adagrad, adam, rmsprop
from training.optim._joint import rate_groups
from training.optim._row_wise import RowWise

_RULES: Mapping[str, ModuleType] = {"adam": adam, "adagrad": adagrad, "rmsprop": rmsprop}


class Options(BaseModel):
    """Which rule, and what of it is kept per task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["adam", "adagrad", "rmsprop"] = "adam"
    rule_options: dict[str, Any] = Field(
        default_factory=dict, description="options of the joint optimizer of that name"
    )
    row_wise: bool = Field(
        default=False, description="one second moment a row of an embedding table instead of one a number"
    )
    auxiliary: Literal["all", "own"] = Field(
        default="all",
        description="the auxiliary loss: in equal parts of the tasks that reach a parameter, or as a task of its own",
    )

    @model_validator(mode="after")
    def _rule_knows_its_options(self) -> Self:
        _RULES[self.rule].Options.model_validate(self.rule_options)
        return self


class AdaTask:
    """One optimizer of the rule per task, all over the same parameters.

    One forward pass, a backward pass per loss, then the tasks' updates one after the other; since no rule
    reads the parameters, that is their sum. A parameter that one task reaches (a tower of its own) has the
    one state of the ordinary optimizer. Memory: per task, the rule's state of what the task reaches, and
    during a step its gradients.
    """

    def __init__(
        self,
        options: Options,
        *,
        embeddings: list[Parameter],
        dense: list[Parameter],
        embedding_learning_rate: float,
        dense_learning_rate: float,
    ) -> None:
        self._options = options
        self._embeddings, self._dense = embeddings, dense
        self._parameters = [*embeddings, *dense]
        self._rates = (embedding_learning_rate, dense_learning_rate)
        self._of_task: dict[str, list[torch.optim.Optimizer]] = {}

    def step(self, losses: Mapping[str, Tensor], *, rate_ratio: float) -> None:
        """See `training.optim.Optimizer`."""
        gradients = self._gradients({name: loss for name, loss in losses.items() if loss.requires_grad})
        if self._options.auxiliary == "all" and AUXILIARY in gradients:
            gradients = _spread(gradients)
        for task, of_parameter in gradients.items():
            for parameter, gradient in zip(self._parameters, of_parameter, strict=True):
                parameter.grad = None if gradient is None else _laid_out_as(parameter, gradient)
            for optimizer in self._optimizers(task):
                for group in optimizer.param_groups:
                    group["lr"] = group["full_rate"] * rate_ratio
                optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None

    def _gradients(self, losses: Mapping[str, Tensor]) -> dict[str, list[Tensor | None]]:
        """Return each loss's gradient of each parameter, None where it does not reach it."""
        out: dict[str, list[Tensor | None]] = {}
        for i, (name, loss) in enumerate(losses.items(), start=1):
            gradients = torch.autograd.grad(
                loss, self._parameters, retain_graph=i < len(losses), allow_unused=True
            )
            out[name] = list(gradients)
        return out

    def _optimizers(self, task: str) -> list[torch.optim.Optimizer]:
        """Return the task's optimizers, made when it is first seen."""
        if task not in self._of_task:
            module = _RULES[self._options.rule]
            rule = module.Options.model_validate(self._options.rule_options)
            made: list[torch.optim.Optimizer] = []
            if self._options.row_wise:
                tables = rate_groups(self._embeddings, [], *self._rates)
                made += [RowWise(tables, rule)] if tables else []
                groups = rate_groups([], self._dense, *self._rates)
            else:
                groups = rate_groups(self._embeddings, self._dense, *self._rates)
            made += [module.torch_optimizer(rule, groups)] if groups else []
            for optimizer in made:
                for group in optimizer.param_groups:
                    group["full_rate"] = group["lr"]
            self._of_task[task] = made
        return self._of_task[task]


def _laid_out_as(parameter: Parameter, gradient: Tensor) -> Tensor:
    """Return the gradient in the parameter's memory layout: torch's fused kernels read it so, unchecked."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _spread(gradients: Mapping[str, list[Tensor | None]]) -> dict[str, list[Tensor | None]]:
    """Add the auxiliary gradients, in equal parts, to those of the tasks that reach the parameter.

    Where no task does, they stay under their own name.
    """
    out = {name: list(of_parameter) for name, of_parameter in gradients.items() if name != AUXILIARY}
    left: list[Tensor | None] = []
    for i, auxiliary in enumerate(gradients[AUXILIARY]):
        reached = [own for of_parameter in out.values() if (own := of_parameter[i]) is not None]
        if auxiliary is not None and reached:
            for of_parameter in out.values():
                own = of_parameter[i]
                if own is not None:
                    of_parameter[i] = torch.add(own, auxiliary, alpha=1 / len(reached))
            left.append(None)
        else:
            left.append(auxiliary)
    return {**out, AUXILIARY: left}


def build(
    options: Options,
    *,
    embeddings: list[Parameter],
    dense: list[Parameter],
    embedding_learning_rate: float,
    dense_learning_rate: float,
) -> AdaTask:
    """Return the optimizer of these options."""
    return AdaTask(
        options,
        embeddings=embeddings,
        dense=dense,
        embedding_learning_rate=embedding_learning_rate,
        dense_learning_rate=dense_learning_rate,
    )
