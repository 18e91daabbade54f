"""MMoE equals its equations row by row; its gates, and what it becomes where they have nothing to choose."""

from __future__ import annotations

import pytest
import torch

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from tests.unit.training.backbones.plain import GROUPS, groups_of, network, shares, weighted, whole
from training.backbones import shared_bottom
from training.backbones.mmoe import Mmoe, Options, build


def mmoe(groups: str = "domains", *, experts_count: int = 3, **options: object) -> Mmoe:
    torch.manual_seed(1)
    chosen = Options.model_validate(
        {
            "groups": groups,
            "experts_count": experts_count,
            "expert_hidden": (6,),
            "tower_hidden": (4,),
            "domain_width": 2,
            **options,
        }
    )
    made = stirred(build(chosen, widths=widths()))
    assert isinstance(made, Mmoe)
    return made


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("expert_hidden", [(6,), (6, 5)])
@pytest.mark.parametrize("domain_width", [0, 2])
def test_equals_the_equations_row_by_row(
    groups: str, expert_hidden: tuple[int, ...], domain_width: int
) -> None:
    made, sides = mmoe(groups, expert_hidden=expert_hidden, domain_width=domain_width), inputs()
    out = made(*sides)
    assert out.shape == (12, 2, 2)
    for row in range(12):
        x = whole(made.inputs, sides, row)
        experts = [network(x, made.experts, e) for e in range(3)]
        for task in range(2):
            s, a, place = groups_of(groups, int(sides[-1][row]), task)
            share = shares(x, made.gates.weight[s, a])
            expected = network(weighted(share, experts), made.towers.stacked, s, a)
            torch.testing.assert_close(
                out[row, task], expected[place * 2 : place * 2 + 2], atol=1e-12, rtol=0
            )


@pytest.mark.parametrize("groups", GROUPS)
def test_a_gates_shares_sum_to_one(groups: str) -> None:
    made, sides = mmoe(groups), inputs()
    found = made.gates(made.inputs(*sides))
    assert found.shape == (made.axes.sets, made.axes.per_row, 12, 3)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("groups", GROUPS)
def test_one_expert_is_a_shared_bottom(groups: str) -> None:
    made, sides = mmoe(groups, experts_count=1), inputs()
    options = shared_bottom.Options.model_validate(
        {"groups": groups, "bottom_hidden": (6,), "tower_hidden": (4,), "domain_width": 2}
    )
    plain = shared_bottom.build(options, widths=widths()).double()
    plain.inputs.load_state_dict(made.inputs.state_dict())
    plain.towers.load_state_dict(made.towers.state_dict())
    plain.bottom.load_state_dict({name: value[0] for name, value in made.experts.state_dict().items()})
    torch.testing.assert_close(made(*sides), plain(*sides), atol=1e-12, rtol=0)


def test_a_gate_set_on_one_expert_takes_it_alone() -> None:
    """Domain 1's gate is far in favor of expert 2, so that the others may be anything."""
    made = mmoe(domain_width=0)
    user, item, candidate, interest, _ = inputs()
    sides = (user.abs(), item, candidate, interest, torch.ones(12, dtype=torch.int64))
    with torch.no_grad():
        made.gates.weight[1].zero_()
        made.gates.weight[1, 0, :4, 2] = 1e4  # the user's columns, which are all positive here
    before = made(*sides)
    with torch.no_grad():
        for parameter in made.experts.parameters():
            parameter[:2] += 1
    torch.testing.assert_close(made(*sides), before, atol=1e-12, rtol=0)


def test_gates_start_equal_and_still_learn() -> None:
    torch.manual_seed(0)
    made = build(Options(), widths=widths()).double()
    made(*inputs()).square().sum().backward()
    assert not bool(made.gates.weight.any())
    assert made.gates.weight.grad is not None
    assert bool(made.gates.weight.grad.flatten(1).any(1).all())
