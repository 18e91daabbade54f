"""Stacked networks equal each network alone, and one wide layer equals its parts."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import stirred
from training.modules.stacked_layers import (
    FoldedLayers,
    StackedLayers,
    after_first,
    as_columns,
    from_columns,
    run_layers,
)

STACKS = [(), (1,), (3,), (2, 3)]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def stacked(stack: tuple[int, ...], sizes: tuple[int, ...], *, last_linear: bool = False) -> StackedLayers:
    made = stirred(StackedLayers(stack, sizes, last_linear=last_linear))
    assert isinstance(made, StackedLayers)
    return made


def places(stack: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(product(*map(range, stack)))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("last_linear", [False, True])
@pytest.mark.parametrize("sizes", [(4, 3), (4, 3, 2), (4, 3, 5, 1)])
def test_each_network_is_its_own(stack: tuple[int, ...], last_linear: bool, sizes: tuple[int, ...]) -> None:
    made, x = stacked(stack, sizes, last_linear=last_linear), drawn(7, 4)
    out = made(x)
    assert out.shape == (*stack, 7, sizes[-1])
    for place in places(stack):
        h = x
        for number, (weight, bias) in enumerate(made.layers()):
            h = torch.stack([row @ weight[place] + bias[place][0] for row in h])
            if number < len(sizes) - 2 or not last_linear:
                h = h.clamp(min=0)
        close(out[place], h)


@pytest.mark.parametrize("last_linear", [False, True])
@pytest.mark.parametrize("sizes", [(4, 3), (4, 3, 2)])
def test_what_follows_the_first_layer_completes_it(last_linear: bool, sizes: tuple[int, ...]) -> None:
    made, x = stacked((3,), sizes, last_linear=last_linear), drawn(7, 4)
    weight, bias = made.layers()[0]
    close(made.after_first(x @ weight + bias), made(x))
    close(after_first(x @ weight + bias, made.layers()[1:], last_linear=last_linear), made(x))


def test_layers_by_first_axis_are_the_networks_there() -> None:
    made, x = stacked((2, 3), (4, 3, 2)), drawn(7, 4)
    out = made(x)
    for place, layers in enumerate(made.layers_by_first_axis()):
        close(run_layers(x, layers, last_linear=False), out[place])


@pytest.mark.parametrize("stack", STACKS)
def test_one_wide_layer_is_the_layers_side_by_side(stack: tuple[int, ...]) -> None:
    x, weight = drawn(7, 4), drawn(*stack, 4, 3)
    out = from_columns(x @ as_columns(weight), stack)
    assert out.shape == (*stack, 7, 3)
    for place in places(stack):
        close(out[place], x @ weight[place])


def test_one_wide_layer_for_each_place_of_a_kept_axis() -> None:
    x, weight = drawn(7, 4), drawn(2, 3, 4, 5)
    wide = as_columns(weight, keep=1)
    assert wide.shape == (2, 4, 15)
    for kept in range(2):
        close(from_columns(x @ wide[kept], (3,)), x @ weight[kept])


@pytest.mark.parametrize("logit_columns", [1, 2])
def test_folding_serves_the_difference_of_two_logits(logit_columns: int) -> None:
    made, x = stacked((3,), (4, 5, 2 * logit_columns), last_linear=True), drawn(7, 4)
    folded = FoldedLayers(made.layers(), tasks=2, logit_columns=logit_columns)
    out, trained = run_layers(x, folded.layers(), last_linear=True), made(x)
    assert out.shape == (3, 7, 2) and not out.requires_grad
    for task in range(2):
        at = task * logit_columns
        expected = trained[..., at] if logit_columns == 1 else trained[..., at + 1] - trained[..., at]
        close(out[..., task], expected)


def test_biases_start_at_zero_and_weights_as_he_et_al_say() -> None:
    torch.manual_seed(0)
    made = StackedLayers((2,), (600, 50))
    assert not bool(made.biases[0].any())
    limit = (6 / 600) ** 0.5  # sqrt(2) * sqrt(3 / inputs)
    for weight in made.weights[0].detach():
        assert float(weight.abs().max()) <= limit
        torch.testing.assert_close(weight.std(), torch.tensor(limit / 3**0.5), rtol=0.03, atol=0)
