"""One second moment a row: where it equals the rule itself, and what it does where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.unit.training.optim.single import built, linear
from training.optim import adagrad, adam, rmsprop
from training.optim._row_wise import RowWise, RuleOptions

RULES = ["adam", "adagrad", "rmsprop"]


def moved(options: dict[str, object], start: Tensor, steps: list[dict[str, Tensor]]) -> Tensor:
    table = Parameter(start.clone())
    optimizer = built("adatask", options, embeddings=[table])
    for gradients in steps:
        losses = {task: linear(table, gradient) for task, gradient in gradients.items()}
        optimizer.step(losses, rate_ratio=1.0)
    return table.detach()


def steps(width: int, *, alike: bool) -> list[dict[str, Tensor]]:
    """Gradients of two tasks over 6 rows; row 5 never has any, row 4 only once."""
    random = torch.Generator().manual_seed(2)
    out = []
    for step in range(4):
        gradients = {}
        for task in ("click", "buy"):
            gradient = torch.randn(6, 1 if alike else width, generator=random, dtype=torch.float64)
            gradient[5] = 0
            gradient[4] *= step == 1
            gradients[task] = gradient.expand(6, width)
        out.append(gradients)
    return out


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("width", [1, 3])
def test_rows_of_like_gradients_move_as_under_the_rule_itself(rule: str, width: int) -> None:
    start = torch.ones(6, width, dtype=torch.float64)
    fed = steps(width, alike=True)
    row_wise = moved({"rule": rule, "row_wise": True}, start, fed)
    torch.testing.assert_close(row_wise, moved({"rule": rule}, start, fed))
    assert row_wise[5].tolist() == [1.0] * width


@pytest.mark.parametrize("rule", RULES)
def test_equals_a_loop_over_rows(rule: str) -> None:
    """Each row, one after the other, with numbers of its own."""
    fed = steps(3, alike=False)
    got = moved({"rule": rule, "row_wise": True}, torch.ones(6, 3, dtype=torch.float64), fed)
    for row in range(6):
        theta = torch.ones(3, dtype=torch.float64)
        for task in ("click", "buy"):
            moment, square = torch.zeros(3, dtype=torch.float64), 0.0
            for t, gradients in enumerate(fed, start=1):
                g = gradients[task][row]
                mean = float((g**2).sum()) / 3
                if rule == "adam":
                    moment = 0.9 * moment + 0.1 * g
                    square = 0.999 * square + 0.001 * mean
                    root = (square / (1 - 0.999**t)) ** 0.5 + 1e-8
                    theta = theta - 0.1 * moment / (1 - 0.9**t) / root
                else:
                    square = square + mean if rule == "adagrad" else 0.9 * square + 0.1 * mean
                    theta = theta - 0.1 * g / (square**0.5 + 1e-8)
        torch.testing.assert_close(got[row], theta)


@pytest.mark.parametrize("rule", RULES)
def test_a_row_keeps_the_direction_of_its_gradient(rule: str) -> None:
    """The rule itself steps by the sign at first; one moment a row leaves the ratios as they are."""
    gradient = torch.tensor([[1.0, 3.0], [0.0, -2.0]], dtype=torch.float64)
    step = 1 - moved({"rule": rule, "row_wise": True}, torch.ones(2, 2).double(), [{"click": gradient}])
    assert (step[0, 1] / step[0, 0]).item() == pytest.approx(3.0)
    assert step[1, 0].item() == 0.0


def test_parts_that_are_no_table_keep_one_moment_a_number() -> None:
    weight, table = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2, 2))
    other = Parameter(torch.ones(2, 2))
    gradient = torch.tensor([[1.0, 3.0], [0.5, -2.0]])
    optimizer = built("adatask", {"row_wise": True}, embeddings=[table], dense=[weight])
    reference = built("adam", {}, dense=[other])
    optimizer.step({"click": linear(weight, gradient) + linear(table, gradient)}, rate_ratio=1.0)
    reference.step({"click": linear(other, gradient)}, rate_ratio=1.0)
    torch.testing.assert_close(weight, other)
    assert not torch.allclose(table, other)


@pytest.mark.parametrize("rule", [adam.Options(), adagrad.Options(initial_sum=0.25), rmsprop.Options()])
def test_second_moments_take_a_number_a_row(rule: RuleOptions) -> None:
    table = Parameter(torch.ones(7, 4))
    optimizer = RowWise([{"params": [table], "lr": 0.1}], rule)
    table.grad = torch.zeros(7, 4)
    optimizer.step()
    square = optimizer.state[table]["square"]
    assert square.shape == (7, 1)
    assert square.flatten().tolist() == [getattr(rule, "initial_sum", 0.0)] * 7
