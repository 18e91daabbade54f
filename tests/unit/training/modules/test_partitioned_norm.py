"""Partitioned normalization: golden vectors, statistics that stay within a domain, and the fold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.modules.partitioned_norm import PartitionedNorm

DOMAIN = torch.tensor([0, 1, 0, 1, 0, 1, 1])


def rows(count: int = 7, width: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def golden_norm() -> PartitionedNorm:
    norm = PartitionedNorm(3, 2).to(torch.float64).eval()
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([1.0, 1.1, 0.9], dtype=torch.float64))
        norm.domain_gamma[1] = torch.tensor([1.2, 1.0, 0.8], dtype=torch.float64)
        norm.beta.copy_(torch.tensor([0.0, 0.1, -0.1], dtype=torch.float64))
        norm.domain_beta[1] = torch.tensor([0.2, 0.0, 0.1], dtype=torch.float64)
        norm.running_mean[1] = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
        norm.running_var[1] = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    return norm


GOLDEN_X = torch.sin(torch.arange(1, 7, dtype=torch.float64)).reshape(2, 3)


def test_golden_output() -> None:
    expected = [[1.4583054, 1.32022107, -0.08088828], [-1.25402751, -0.73481253, -0.29498947]]
    out = golden_norm()(GOLDEN_X, torch.tensor([1, 1]))
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)


def test_golden_fold_into_the_next_layer() -> None:
    s, t = golden_norm().folded()
    w = torch.sin(torch.arange(1, 7, dtype=torch.float64)).reshape(3, 2)
    w_star = w * (1 + 0.1 * torch.sin(torch.arange(1, 7, dtype=torch.float64)).reshape(3, 2))
    b_star = torch.tensor([0.15, 0.15], dtype=torch.float64)
    w_eff, b_eff = s[1][:, None] * w_star, b_star + t[1] @ w_star
    expected_w = [[1.54817218, 1.68342838], [0.15742186, -0.7694764], [-0.44138832, -0.13827997]]
    torch.testing.assert_close(w_eff, torch.tensor(expected_w, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(
        b_eff, torch.tensor([0.35585046, -0.00231095], dtype=torch.float64), atol=1e-8, rtol=0
    )
    expected_out = [[1.739447, 0.69504821], [-0.84343501, -0.49982659]]
    torch.testing.assert_close(
        GOLDEN_X @ w_eff + b_eff, torch.tensor(expected_out, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_one_domain_is_batch_norm_of_that_domain() -> None:
    norm, z = PartitionedNorm(3, 2), rows()
    out = norm(z, DOMAIN)
    for p in (0, 1):
        torch.testing.assert_close(out[p == DOMAIN], nn.BatchNorm1d(3)(z[p == DOMAIN]))


def test_other_domains_rows_change_nothing() -> None:
    z, other = rows(), rows(seed=1)
    mixed = torch.where((DOMAIN == 1)[:, None], other, z)
    a, b = PartitionedNorm(3, 2), PartitionedNorm(3, 2)
    torch.testing.assert_close(a(z, DOMAIN)[DOMAIN == 0], b(mixed, DOMAIN)[DOMAIN == 0], rtol=0, atol=0)
    assert torch.equal(a.running_mean[0], b.running_mean[0])


def test_first_update_sets_and_later_ones_move() -> None:
    norm = PartitionedNorm(3, 3, momentum=0.25)
    first, second = rows(seed=1), rows(seed=2)
    norm(first, DOMAIN)
    mean_0 = first[DOMAIN == 0].mean(0)
    torch.testing.assert_close(norm.running_mean[0], mean_0)
    torch.testing.assert_close(norm.running_var[0], first[DOMAIN == 0].var(0, correction=0))
    norm(second, DOMAIN)
    torch.testing.assert_close(norm.running_mean[0], 0.75 * mean_0 + 0.25 * second[DOMAIN == 0].mean(0))
    assert torch.equal(norm.running_mean[2], torch.zeros(3)) and torch.equal(
        norm.running_var[2], torch.ones(3)
    )
    assert norm.updates_count.tolist() == [2, 2, 0]


def test_domain_of_one_row_uses_running_statistics_and_leaves_them() -> None:
    norm = PartitionedNorm(3, 2)
    norm(rows(), DOMAIN)
    before = norm.running_mean.clone(), norm.running_var.clone()
    z, domain = rows(4, seed=3), torch.tensor([0, 0, 1, 0])
    s, t = norm.folded()
    torch.testing.assert_close(norm(z, domain)[2], z[2] * s[1] + t[1])
    assert torch.equal(norm.running_mean[1], before[0][1]) and torch.equal(norm.running_var[1], before[1][1])
    assert not torch.equal(norm.running_mean[0], before[0][0])


@pytest.mark.parametrize("count", [0, 1])
def test_tiny_training_batches_are_finite(count: int) -> None:
    z = rows(count).requires_grad_()
    norm = PartitionedNorm(3, 2)
    out = norm(z, DOMAIN[:count])
    out.sum().backward()
    assert out.shape == (count, 3) and bool(torch.isfinite(out).all())
    assert norm.updates_count.tolist() == [0, 0]


def test_outside_training_a_row_is_independent_of_its_batch() -> None:
    norm = PartitionedNorm(3, 2)
    norm(rows(), DOMAIN)
    norm.eval()
    z = rows(seed=4)
    whole = norm(z, DOMAIN)
    alone = torch.cat([norm(z[i : i + 1], DOMAIN[i : i + 1]) for i in range(len(z))])
    torch.testing.assert_close(alone, whole, rtol=0, atol=0)


def test_folded_is_the_module_outside_training() -> None:
    norm = golden_norm().to(torch.float32)
    z = rows(seed=5)
    s, t = norm.folded()
    torch.testing.assert_close(norm(z, DOMAIN), z * s[DOMAIN] + t[DOMAIN], atol=1e-5, rtol=0)


def test_absent_domain_gets_no_gradient() -> None:
    norm = PartitionedNorm(3, 3)
    norm(rows(), DOMAIN).square().sum().backward()
    for parameter in (norm.domain_gamma, norm.domain_beta):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad[2], torch.zeros(3))


def test_gradient_passes_through_the_batch_statistics() -> None:
    z = rows().to(torch.float64).requires_grad_()
    norm = PartitionedNorm(3, 2).to(torch.float64)
    assert torch.autograd.gradcheck(lambda x: norm(x, DOMAIN), (z,))


def test_statistics_travel_in_the_state() -> None:
    norm, copy = PartitionedNorm(3, 2), PartitionedNorm(3, 2)
    norm(rows(), DOMAIN)
    copy.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(rows(), DOMAIN), copy.eval()(rows(), DOMAIN))
