"""PLE equals its equations row by row, at one level (CGC) and more, and what it is without shared experts."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from tests.unit.training.backbones.plain import GROUPS, groups_of, network, shares, weighted, whole
from training.backbones.ple import Options, Ple, build


def ple(groups: str = "domains", **options: object) -> Ple:
    torch.manual_seed(1)
    chosen = Options.model_validate(
        {"groups": groups, "expert_hidden": (5,), "tower_hidden": (4,), "domain_width": 2, **options}
    )
    made = stirred(build(chosen, widths=widths()), std=0.3)
    assert isinstance(made, Ple)
    return made


def mixed(made: Ple, x: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return h_k of every group at last for one row x (d,), by the equations as they are printed."""
    places = [(s, a) for s in range(made.axes.sets) for a in range(made.axes.per_row)]
    h, h0 = dict.fromkeys(places, x), x
    for number, level in enumerate(made.levels, start=1):
        per_group = level.specific.stack[-1]
        own = {k: [network(h[k], level.specific, *k, e) for e in range(per_group)] for k in places}
        count = 0 if level.shared is None else level.shared.stack[0]
        common = [network(h0, level.shared, e) for e in range(count)] if level.shared is not None else []
        h = {k: weighted(shares(h[k], level.gates.weight[k]), [*own[k], *common]) for k in places}
        if number < len(made.levels):
            assert level.shared_gate is not None
            every = [expert for k in places for expert in own[k]] + common
            h0 = weighted(shares(h0, level.shared_gate.weight), every)
    return h


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("specific_experts", "shared_experts"), [(1, 1), (2, 1), (1, 3)])
def test_equals_the_equations_row_by_row(
    groups: str, levels: int, specific_experts: int, shared_experts: int
) -> None:
    sides = inputs()
    made = ple(
        groups,
        levels=levels,
        specific_experts=specific_experts,
        shared_experts=shared_experts,
        expert_hidden=(6, 5) if levels == 2 else (5,),
        domain_width=0 if levels == 3 else 2,
    )
    out = made(*sides)
    assert out.shape == (12, 2, 2)
    for row in range(12):
        h = mixed(made, whole(made.inputs, sides, row))
        for task in range(2):
            s, a, place = groups_of(groups, int(sides[-1][row]), task)
            expected = network(h[s, a], made.towers.stacked, s, a)[place * 2 : place * 2 + 2]
            torch.testing.assert_close(out[row, task], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("groups", GROUPS)
def test_one_level_without_shared_experts_is_a_network_of_each_groups_own(groups: str) -> None:
    """With one expert its gate has nothing to choose; towers on experts are then networks that share no layer."""
    made, sides = ple(groups, levels=1, shared_experts=0, domain_width=0), inputs()
    out = made(*sides)
    for row in range(12):
        x = torch.cat([side[row] for side in sides[:-1]])
        for task in range(2):
            s, a, place = groups_of(groups, int(sides[-1][row]), task)
            h = network(x, made.levels[0].specific, s, a, 0)
            expected = network(h, made.towers.stacked, s, a)[place * 2 : place * 2 + 2]
            torch.testing.assert_close(out[row, task], expected, atol=1e-12, rtol=0)
    out[:, 0].sum().backward()
    task_1 = {"tasks": (0, 1), "domains_and_tasks": (slice(None), 1)}
    if groups in task_1:
        for parameter in made.levels[0].specific.parameters():
            assert parameter.grad is not None and not bool(parameter.grad[task_1[groups]].any())


def test_equal_specific_experts_and_gates_make_domains_alike() -> None:
    made = ple(domain_width=0)
    with torch.no_grad():
        own = [p for level in made.levels for p in (*level.specific.parameters(), level.gates.weight)]
        for parameter in (*own, *made.towers.parameters()):
            parameter.copy_(parameter[:1].clone().expand_as(parameter))
    user, item, candidate, interest, _ = inputs()
    first, *others = (made(user, item, candidate, interest, torch.full((12,), m)) for m in range(3))
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-12, rtol=0)


def test_the_last_level_has_no_shared_gate_and_all_others_do() -> None:
    made = ple(levels=3, specific_experts=2, shared_experts=3)
    experts = [level.shared_gate.weight.shape[-1] for level in made.levels[:-1] if level.shared_gate]
    assert experts == [3 * 2 + 3] * 2 and made.levels[-1].shared_gate is None


def test_levels_without_shared_experts_are_refused() -> None:
    with pytest.raises(ValidationError, match="shared_experts"):
        Options(levels=2, shared_experts=0)
