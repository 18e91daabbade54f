"""Which tower a row and task meets, for each of the three things a tower can belong to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import stirred, widths
from training.modules.grouped_towers import GroupAxes, GroupedTowers, Groups
from training.modules.split import fold_logit_columns

ALL: tuple[Groups, ...] = ("domains", "tasks", "domains_and_tasks")
DOMAIN = torch.tensor([2, 0, 1, 1, 0])


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def towers(groups: Groups, *, logit_columns: int = 2, hidden: tuple[int, ...] = (3,)) -> GroupedTowers:
    axes = GroupAxes.of(groups, widths(logit_columns=logit_columns))
    made = stirred(GroupedTowers(axes, 4, hidden))
    assert isinstance(made, GroupedTowers)
    return made


def tower_of(groups: Groups, domain: int, task: int) -> tuple[int, int, int]:
    """Return the set, the place in it, and the task's place among the outputs of that tower."""
    return {
        "domains": (domain, 0, task),
        "tasks": (0, task, 0),
        "domains_and_tasks": (domain, task, 0),
    }[groups]


@pytest.mark.parametrize("groups", ALL)
def test_axes(groups: Groups) -> None:
    axes = GroupAxes.of(groups, widths(tasks_count=4))
    expected = {"domains": (3, 1, 4, 3), "tasks": (1, 4, 1, 4), "domains_and_tasks": (3, 4, 1, 12)}
    assert (axes.sets, axes.per_row, axes.tasks_each, axes.count) == expected[groups]


@pytest.mark.parametrize("groups", ALL)
@pytest.mark.parametrize("logit_columns", [1, 2])
@pytest.mark.parametrize("hidden", [(), (3,), (3, 5)])
@pytest.mark.parametrize("one_input", [False, True])
def test_a_row_meets_its_groups_towers(
    groups: Groups, logit_columns: int, hidden: tuple[int, ...], one_input: bool
) -> None:
    made = towers(groups, logit_columns=logit_columns, hidden=hidden)
    x = drawn(5, 1 if one_input else made.axes.per_row, 4)
    out = made(x, DOMAIN)
    assert out.shape == (5, 2, logit_columns)
    for row, domain in enumerate(DOMAIN.tolist()):
        for task in range(2):
            s, a, place = tower_of(groups, domain, task)
            h = x[row, 0 if one_input else a]
            for number, (weight, bias) in enumerate(made.stacked.layers()):
                h = h @ weight[s, a] + bias[s, a, 0]
                h = h.clamp(min=0) if number < len(hidden) else h
            expected = h[place * logit_columns : (place + 1) * logit_columns]
            torch.testing.assert_close(out[row, task], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("groups", ALL)
@pytest.mark.parametrize("logit_columns", [1, 2])
@pytest.mark.parametrize("domain", [0, 1, 2])
def test_a_request_meets_the_same_towers(groups: Groups, logit_columns: int, domain: int) -> None:
    made = towers(groups, logit_columns=logit_columns)
    x = drawn(made.axes.per_row, 7, 4)
    out = made.served()(x, torch.tensor([domain]))
    expected = fold_logit_columns(made(x.transpose(0, 1), torch.full((7,), domain)))
    assert out.shape == (7, 2) and not out.requires_grad
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("groups", ALL)
def test_a_row_and_a_request_pick_the_set_of_their_domain(groups: Groups) -> None:
    axes = GroupAxes.of(groups, widths())
    every = drawn(axes.sets, axes.per_row, 5, 6)
    own = axes.of_rows(every, DOMAIN)
    for row, domain in enumerate(DOMAIN.tolist()):
        s = 0 if groups == "tasks" else domain
        assert torch.equal(own[:, row], every[s, :, row])
        assert torch.equal(axes.of_request(every, torch.tensor([domain])), every[s])


def test_one_domain_needs_no_picking() -> None:
    axes = GroupAxes.of("domains", replace(widths(), domains_count=1))
    assert (axes.sets, axes.per_row, axes.count) == (1, 1, 1)
