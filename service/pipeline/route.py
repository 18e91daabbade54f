"""Route: the domain and the user to a model, by the experiment layer that covers the domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.errors import InvalidRequest, Violation
from service.experiments.assignment import arm_of
from service.models.live import LiveModel, Serving

DOMAIN_HEADER: Final = "X-Domain"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `tasks` are columns of the model's probabilities; `arms` maps layers to arms."""

    model: LiveModel
    domain: str
    tasks: tuple[tuple[str, int], ...]
    arms: Mapping[str, str]


def route(serving: Serving, *, domain: str | None, user_id: str, tasks: Sequence[str] | None) -> Route:
    """Return the model that scores a user's request in a domain.

    Raises:
        InvalidRequest: there is no domain, or nothing scores it, or the model lacks a task that is asked for.
    """
    domain = check_domain(serving, domain)
    layer = serving.plan.layer_of(domain)
    if layer is None:
        model, arms = serving.default_model, {}
    else:
        arm = arm_of(layer, user_id)
        model, arms = serving.models[arm.model], {layer.name: arm.name}
    if domain not in model.domains:
        raise _no_such_domain(model.domains)
    return Route(model, domain, _columns(model, tasks), arms)


def check_domain(serving: Serving, domain: str | None) -> str:
    """Return the domain.

    Raises:
        InvalidRequest: there is none, or no model knows it.
    """
    if not domain:
        raise InvalidRequest([Violation(f"header.{DOMAIN_HEADER}", "missing: name the domain to score for")])
    if not any(domain in model.domains for model in serving.models.values()):
        raise _no_such_domain(serving.default_model.domains)
    return domain


def _no_such_domain(known: Iterable[str]) -> InvalidRequest:
    reason = f"no such domain; there are {', '.join(known)}"
    return InvalidRequest([Violation(f"header.{DOMAIN_HEADER}", reason)])


def _columns(model: LiveModel, tasks: Sequence[str] | None) -> tuple[tuple[str, int], ...]:
    if tasks is None:
        return tuple((task, column) for column, task in enumerate(model.tasks))
    if unknown := [i for i, task in enumerate(tasks) if task not in model.tasks]:
        known = ", ".join(model.tasks)
        raise InvalidRequest(
            [Violation(f"body.tasks[{i}]", f"no such task; there are {known}") for i in unknown]
        )
    return tuple((task, model.tasks.index(task)) for task in dict.fromkeys(tasks))
