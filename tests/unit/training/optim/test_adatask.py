"""AdaTask against golden paths, torch's own optimizers, and a plain reference of absent tasks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from tests.unit.training.optim.single import GRADIENTS, built, linear, path
from training.optim import AUXILIARY

RULES = ["adam", "adagrad", "rmsprop"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("adam", [0.80000010, 0.73779785, 0.60405975]),
        ("rmsprop", [0.36754548, 0.44940048, -0.03539623]),
        ("adagrad", [0.80000010, 0.82697327, 0.67841858]),
    ],
)
def test_golden_path_of_two_tasks(rule: str, expected: list[float]) -> None:
    assert path("adatask", {"rule": rule}, GRADIENTS) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("rule", RULES)
def test_one_task_is_torchs_own_optimizer(rule: str) -> None:
    options = {"epsilon": 1e-3}
    alone = path("adatask", {"rule": rule, "rule_options": options}, [(g,) for g, _ in GRADIENTS])
    theta = Parameter(torch.ones(1, dtype=torch.float64))
    reference: torch.optim.Optimizer = {
        "adam": torch.optim.Adam([theta], lr=0.1, eps=1e-3),
        "adagrad": torch.optim.Adagrad([theta], lr=0.1, eps=1e-3),
        "rmsprop": torch.optim.RMSprop([theta], lr=0.1, alpha=0.9, eps=1e-3),
    }[rule]
    expected = []
    for gradient, _ in GRADIENTS:
        theta.grad = torch.full((1,), gradient, dtype=torch.float64)
        reference.step()
        expected.append(theta.item())
    assert alone == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tasks_count", [2, 5])
def test_tasks_that_agree_step_as_many_times_as_far(rule: str, tasks_count: int) -> None:
    joint = path(rule, {}, [(g,) for g, _ in GRADIENTS])
    apart = path("adatask", {"rule": rule}, [(g / tasks_count,) * tasks_count for g, _ in GRADIENTS])
    assert [1 - x for x in apart] == pytest.approx([tasks_count * (1 - x) for x in joint], rel=1e-6)


def adam_by_hand(rows: Sequence[Sequence[float | None]]) -> float:
    """θ from 1 at rate 0.1, a state and a counter per task, None where the task is absent."""
    theta = 1.0
    state = [(0, 0.0, 0.0) for _ in rows[0]]
    for gradients in rows:
        for k, g in enumerate(gradients):
            if g is None:
                continue
            t, m, v = state[k]
            state[k] = (t + 1, 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g)
            t, m, v = state[k]
            theta -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
    return theta


def run_absent(rows: Sequence[Sequence[float | None]], **options: object) -> float:
    theta = Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = built("adatask", options, dense=[theta])
    for gradients in rows:
        losses = {f"task{k}": (theta * g).sum() for k, g in enumerate(gradients) if g is not None}
        optimizer.step(losses, rate_ratio=1.0)
    return theta.item()


def test_an_absent_task_neither_moves_nor_forgets() -> None:
    rows = [(1.0, None), (0.5, 2.0), (None, None), (-0.3, None), (None, -1.0), (0.1, 0.2)]
    assert run_absent(rows) == pytest.approx(adam_by_hand(rows), abs=1e-9)
    before = run_absent(rows[:2])
    assert run_absent(rows[:3]) == before  # nobody there: not even momentum moves it


@pytest.mark.parametrize("rule", RULES)
def test_the_step_at_which_a_task_first_comes_does_not_matter(rule: str) -> None:
    late: list[list[float | None]] = [[1.0, None], [0.8, None], [1.2, 0.5], [0.9, -0.1]]
    alone: list[list[float | None]] = [[0.5], [-0.1]]
    without: list[list[float | None]] = [[row[0]] for row in late]
    total = run_absent(late, rule=rule) - 1
    assert total == pytest.approx(
        run_absent(without, rule=rule) - 1 + run_absent(alone, rule=rule) - 1, abs=1e-12
    )


def test_a_parameter_that_a_task_does_not_reach_is_moved_by_the_others_alone() -> None:
    shared, tower = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    other = Parameter(torch.ones(2))
    optimizer = built("adatask", {}, dense=[shared, tower])
    reference = torch.optim.Adam([other], lr=0.1)
    for scale in (1.0, -0.5, 0.25):
        gradient = torch.tensor([1.0, -2.0]) * scale
        losses = {
            "click": linear(shared, gradient),
            "buy": linear(shared, gradient) + linear(tower, gradient),
        }
        optimizer.step(losses, rate_ratio=1.0)
        other.grad = gradient.clone()
        reference.step()
    torch.testing.assert_close(tower, other)


def test_stacked_towers_whose_other_half_has_zero_gradients_stay_apart() -> None:
    """One tensor (T, 2) of both tasks' towers: each task's gradient is zero in the other's half."""
    stacked = Parameter(torch.ones(2, 2))
    alone = [Parameter(torch.ones(2)), Parameter(torch.ones(2))]
    together = built("adatask", {}, dense=[stacked])
    apart = built("adatask", {}, dense=alone)
    for scale in (1.0, -0.5, 2.0):
        gradient = torch.tensor([0.3, -1.0]) * scale
        together.step(
            {"click": linear(stacked[0], gradient), "buy": linear(stacked[1], 5 * gradient)}, rate_ratio=1.0
        )
        apart.step(
            {"click": linear(alone[0], gradient), "buy": linear(alone[1], 5 * gradient)}, rate_ratio=1.0
        )
    torch.testing.assert_close(stacked, torch.stack([*alone]))


def test_one_forward_pass_serves_every_task() -> None:
    """Dropout is drawn once: the tasks' gradients are of the same masked network."""
    torch.manual_seed(0)
    weight = Parameter(torch.ones(1000))
    optimizer = built("adatask", {"rule": "adagrad"}, dense=[weight])
    hidden = nn.functional.dropout(weight, 0.5)
    optimizer.step({"click": hidden.sum(), "buy": (hidden * 3).sum()}, rate_ratio=1.0)
    moved = 1 - weight.detach()
    kept = hidden.detach() > 0
    torch.testing.assert_close(moved, torch.where(kept, 0.2, 0.0))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("transposed", [True, False])
def test_gradients_of_another_memory_layout_are_read_right(rule: str, transposed: bool) -> None:
    """Autograd hands out transposed and broadcast gradients; fused kernels read memory as it lies."""
    weight = Parameter(torch.zeros(64, 33))
    gradient = torch.arange(64.0 * 33).view(33, 64).t() - 500 if transposed else torch.ones(64, 33)
    optimizer = built("adatask", {"rule": rule}, dense=[weight])
    reference = built(rule, {}, dense=[other := Parameter(torch.zeros(64, 33))])
    for _ in range(2):
        loss = (weight.t() * gradient.t().contiguous()).sum() if transposed else weight.sum()
        optimizer.step({"click": loss}, rate_ratio=1.0)
        reference.step({"click": linear(other, gradient.contiguous())}, rate_ratio=1.0)
    torch.testing.assert_close(weight, other)


def two_tasks(theta: Tensor) -> dict[str, Tensor]:
    return {"click": linear(theta, torch.tensor([1.0])), "buy": linear(theta, torch.tensor([4.0]))}


def test_the_auxiliary_loss_is_divided_among_the_tasks() -> None:
    theta, other = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer, reference = built("adatask", {}, dense=[theta]), built("adatask", {}, dense=[other])
    for scale in (6.0, -10.0, 1.0):
        auxiliary = torch.tensor([scale])
        optimizer.step({**two_tasks(theta), AUXILIARY: linear(theta, auxiliary)}, rate_ratio=1.0)
        halves = {name: loss + linear(other, auxiliary / 2) for name, loss in two_tasks(other).items()}
        reference.step(halves, rate_ratio=1.0)
    torch.testing.assert_close(theta, other)


def test_the_auxiliary_loss_goes_to_the_tasks_that_are_there() -> None:
    theta, other = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer, reference = built("adatask", {}, dense=[theta]), built("adatask", {}, dense=[other])
    for scale in (6.0, -10.0):
        auxiliary = torch.tensor([scale])
        click = two_tasks(theta)["click"]
        optimizer.step({"click": click, AUXILIARY: linear(theta, auxiliary)}, rate_ratio=1.0)
        reference.step({"click": two_tasks(other)["click"] + linear(other, auxiliary)}, rate_ratio=1.0)
    torch.testing.assert_close(theta, other)


def test_what_only_the_auxiliary_loss_reaches_has_one_ordinary_state() -> None:
    theta, head, other = (Parameter(torch.ones(1)) for _ in range(3))
    optimizer, reference = built("adatask", {}, dense=[theta, head]), built("adam", {}, dense=[other])
    for scale in (6.0, -10.0):
        auxiliary = torch.tensor([scale])
        optimizer.step({**two_tasks(theta), AUXILIARY: linear(head, auxiliary)}, rate_ratio=1.0)
        reference.step({"all": linear(other, auxiliary)}, rate_ratio=1.0)
    torch.testing.assert_close(head, other)


def test_the_auxiliary_loss_may_be_a_task_of_its_own() -> None:
    theta, other = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer = built("adatask", {"auxiliary": "own"}, dense=[theta])
    reference = built("adatask", {}, dense=[other])
    for scale in (6.0, -10.0):
        auxiliary = torch.tensor([scale])
        optimizer.step({**two_tasks(theta), AUXILIARY: linear(theta, auxiliary)}, rate_ratio=1.0)
        reference.step({**two_tasks(other), "third": linear(other, auxiliary)}, rate_ratio=1.0)
    torch.testing.assert_close(theta, other)
