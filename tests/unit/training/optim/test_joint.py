"""Adam, AdaGrad and RMSProp on the sum of the losses, against golden paths and torch itself."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn import Parameter

from tests.unit.training.optim.single import GRADIENTS, built, linear, path
from training.errors import ConfigError
from training.optim import build_optimizer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adam", [0.90000000, 0.80147995, 0.70231822]),
        ("rmsprop", [0.68377224, 0.48413222, 0.25520302]),
        ("adagrad", [0.90000000, 0.83887756, 0.76948011]),
    ],
)
def test_golden_path_of_two_tasks(name: str, expected: list[float]) -> None:
    assert path(name, {}, GRADIENTS) == pytest.approx(expected, abs=1e-8)


def test_each_kind_has_its_rate_and_both_fall_by_the_ratio() -> None:
    table = Parameter(torch.zeros(2, 1, dtype=torch.float64))
    weight = Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = build_optimizer(
        "adam",
        {},
        embeddings=[table],
        dense=[weight],
        embedding_learning_rate=0.5,
        dense_learning_rate=0.25,
    )
    optimizer.step({"click": table.sum() + weight.sum()}, rate_ratio=1.0)
    assert table.tolist() == [[pytest.approx(-0.5)], [pytest.approx(-0.5)]]
    assert weight.item() == pytest.approx(-0.25)
    optimizer.step({"click": table.sum() + weight.sum()}, rate_ratio=0.1)  # equal gradients: a full step
    assert table[0].item() == pytest.approx(-0.55)
    assert weight.item() == pytest.approx(-0.275)


def test_options_reach_torch() -> None:
    theta, other = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    reference = torch.optim.Adam([other], lr=0.1, betas=(0.5, 0.7), eps=0.01)
    optimizer = built("adam", {"beta1": 0.5, "beta2": 0.7, "epsilon": 0.01}, dense=[theta])
    for scale in (1.0, -2.0, 0.5):
        gradient = torch.tensor([1.0, 0.1, -3.0]) * scale
        optimizer.step({"click": linear(theta, gradient)}, rate_ratio=1.0)
        other.grad = gradient
        reference.step()
    torch.testing.assert_close(theta, other)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="is none of optim: adagrad, adam, adatask, rmsprop"):
        built("lion", {})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"weight_decay": 0.1}),
        ("adam", {"beta1": 1.0}),
        ("rmsprop", {"decay": 1.0}),
        ("adagrad", {"epsilon": 0.0}),
        ("adatask", {"rule": "sgd"}),
        ("adatask", {"rule": "adam", "rule_options": {"decay": 0.9}}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        built(name, options)
