"""Gates whose shares sum to 1, and experts mixed by them."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import stirred
from training.modules.expert_gates import Gates, mix


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_shares_are_a_softmax_of_a_linear_layer_without_bias() -> None:
    gates = stirred(Gates((2, 3), 4, 5))
    assert isinstance(gates, Gates)
    x = drawn(7, 4)
    shares = gates(x)
    assert shares.shape == (2, 3, 7, 5)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3, 7, dtype=torch.float64), atol=1e-12, rtol=0)
    assert bool((shares > 0).all())
    for s in range(2):
        for a in range(3):
            for row in range(7):
                logits = [float(x[row] @ gates.weight.detach()[s, a, :, e]) for e in range(5)]
                powers = torch.tensor(logits, dtype=torch.float64).exp()
                torch.testing.assert_close(shares[s, a, row], powers / powers.sum(), atol=1e-12, rtol=0)


def test_a_gate_starts_by_taking_as_much_of_every_expert_and_learns_from_there() -> None:
    gates, x, experts = Gates((), 4, 5).double(), drawn(7, 4), drawn(5, 7, 2)
    shares = gates(x)
    torch.testing.assert_close(shares, torch.full((7, 5), 0.2, dtype=torch.float64), atol=1e-12, rtol=0)
    mix(shares, experts).square().sum().backward()
    assert gates.weight.grad is not None and bool((gates.weight.grad != 0).all())


def test_experts_that_all_gates_share_are_mixed_with_their_own() -> None:
    shares, own, shared = drawn(2, 3, 7, 5), drawn(2, 3, 4, 7, 6), drawn(1, 7, 6, seed=4)
    out = mix(shares, own, shared)
    assert out.shape == (2, 3, 7, 6)
    for s in range(2):
        for a in range(3):
            for row in range(7):
                expected = sum(
                    (shares[s, a, row, e] * own[s, a, e, row] for e in range(4)),
                    start=shares[s, a, row, 4] * shared[0, row],
                )
                torch.testing.assert_close(out[s, a, row], expected, atol=1e-12, rtol=0)


def test_a_gate_that_takes_one_expert_returns_it() -> None:
    experts = drawn(3, 7, 6)
    shares = torch.zeros(7, 3, dtype=torch.float64)
    shares[:, 1] = 1
    torch.testing.assert_close(mix(shares, experts), experts[1])
