"""DIN against its activation unit taken literally, behavior by behavior."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.training.interest.histories import at, built, close, history, item_vectors, one_visit

TARGETS = item_vectors(4, 8)


def slow(made: Any, target: Tensor, part: Any, *, last: int, softmax: bool, crossed: list[str]) -> Tensor:
    """Return one target's output from the concatenation [q, e, q - e, q * e, t], not from its shares."""
    weights, behaviors = [], []
    for i in range(part.index.shape[1])[-last:]:
        item = part.items[part.index[0, i]]
        ids = {"age": part.age[0, i], "strength": part.strength[0, i]}
        cross = [made.cross.tables[name].weight[ids[name]] for name in crossed]
        unit = torch.cat([target, item, target - item, target * item, *cross])
        weights.append(made.rest(made.first(unit)))
        behaviors.append(torch.cat([item, *cross]))
    w = torch.cat(weights)
    return ((torch.softmax(w, 0) if softmax else w)[:, None] * torch.stack(behaviors)).sum(0)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("crossed", [[], ["age", "strength"]])
@pytest.mark.parametrize("hidden", [(7,), (7, 3)])
@pytest.mark.parametrize("activation", ["prelu", "relu", "sigmoid"])
def test_weighs_each_behavior_by_the_activation_unit(
    softmax: bool, crossed: list[str], hidden: tuple[int, ...], activation: str
) -> None:
    made = built("din", softmax=softmax, crossed=crossed, hidden=hidden, activation=activation, last=8)
    part = history(11)
    out = made(TARGETS, part, one_visit(4))
    assert made.out_width == 6 + 8 * len(crossed)
    for row, target in enumerate(TARGETS):
        close(out[row], slow(made, target, part, last=8, softmax=softmax, crossed=crossed))


@pytest.mark.parametrize("last", [1, 3, 11, 50])
def test_reads_the_newest_only(last: int) -> None:
    made, part = built("din", last=last), history(11)
    newest = at(part, torch.arange(11)[-last:])
    close(made(TARGETS, part, one_visit(4)), built("din", last=50)(TARGETS, newest, one_visit(4)))


def test_weights_without_softmax_grow_with_what_matches() -> None:
    """The paper keeps the intensity of an interest: twice the same history gives twice the vector."""
    part = history(5)
    twice = at(part, torch.arange(5).repeat(2))
    plain, normalized = built("din"), built("din", softmax=True)
    close(plain(TARGETS, twice, one_visit(4)), 2 * plain(TARGETS, part, one_visit(4)))
    close(normalized(TARGETS, twice, one_visit(4)), normalized(TARGETS, part, one_visit(4)))
