"""Gate NU: golden vectors, its neutral start and its bounds."""

from __future__ import annotations

import torch

from training.modules.gate_nu import GateNU


def arange(stop: int) -> torch.Tensor:
    return torch.arange(1, stop + 1, dtype=torch.float64)


def test_golden_gate() -> None:
    gate = GateNU(3, 4, 2).to(torch.float64)
    with torch.no_grad():
        gate.first.weight.copy_(torch.sin(arange(12)).reshape(3, 4).T)
        gate.first.bias.copy_(torch.tensor([0.1, 0.0, -0.1, 0.2]))
        gate.last.weight.copy_(torch.cos(arange(8)).reshape(4, 2).T)
        gate.last.bias.copy_(torch.tensor([0.0, 0.3]))
    x = torch.sin(arange(3)).reshape(1, 3)
    hidden = torch.tensor([[0.0, 0.43430334, 0.47502599, 0.38707239]], dtype=torch.float64)
    torch.testing.assert_close(torch.relu(gate.first(x)), hidden, atol=1e-7, rtol=0)
    expected = torch.tensor([[0.99830231, 1.20500692]], dtype=torch.float64)
    torch.testing.assert_close(gate(x), expected, atol=1e-7, rtol=0)


def test_starts_neutral() -> None:
    assert torch.equal(GateNU(5, 7, 3)(torch.randn(4, 5)), torch.ones(4, 3))


def test_stays_between_zero_and_gamma() -> None:
    gate = GateNU(5, 7, 3, gamma=3.0)
    torch.nn.init.normal_(gate.last.weight)
    out = gate(torch.randn(100, 5, generator=torch.Generator().manual_seed(0)))
    assert bool(((out > 0) & (out < 3)).all())


def test_first_layer_splits_by_input_columns() -> None:
    gate = GateNU(5, 7, 3)
    torch.nn.init.normal_(gate.last.weight)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    w, b = gate.first.weight, gate.first.bias
    split = x[:, :2] @ w[:, :2].T + x[:, 2:] @ w[:, 2:].T + b
    torch.testing.assert_close(gate.after_first(split), gate(x))


def test_learns_from_its_neutral_start() -> None:
    gate = GateNU(5, 7, 3)
    gate(torch.randn(4, 5)).sum().backward()
    assert gate.last.weight.grad is not None and bool(gate.last.weight.grad.abs().sum() > 0)
