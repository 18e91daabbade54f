"""Each row meets its own domain's network, whatever else is in the batch, in torch and in an exported graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.modules.domain_rows import run_by_domain

BATCHES = [[0, 1, 2, 0, 1], [2, 1, 0], [1, 1, 1, 1], [2], [0, 0, 2, 0], [2, 0, 2, 0, 0, 1], []]


class Scales(nn.Module):
    """x * scale_p + y, domain by domain."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 3.0, 5.0]))

    def forward(self, x: Tensor, y: Tensor, domain: Tensor) -> Tensor:
        scales = self.scale.unbind(0)
        return run_by_domain(lambda m, a, b: a * scales[m] + b[:, None], 3, domain, x, y)


@pytest.mark.parametrize("domains", BATCHES)
def test_each_row_meets_its_own_network(domains: list[int]) -> None:
    rows = len(domains)
    x, y = torch.arange(rows * 2.0).reshape(rows, 2), torch.arange(rows) * 100.0
    out = Scales()(x, y, torch.tensor(domains, dtype=torch.int64))
    assert out.shape == (rows, 2)
    expected = [[x[i, j] * (2.0, 3.0, 5.0)[d] + y[i] for j in range(2)] for i, d in enumerate(domains)]
    assert out.tolist() == expected


@pytest.mark.parametrize("domains", BATCHES)
def test_gradients_reach_the_row_and_its_own_network_only(domains: list[int]) -> None:
    rows = len(domains)
    made, x = Scales(), torch.ones(rows, 2, requires_grad=True)
    made(x, torch.zeros(rows), torch.tensor(domains, dtype=torch.int64)).sum().backward()
    assert made.scale.grad is not None and x.grad is not None
    assert made.scale.grad.tolist() == [2.0 * domains.count(m) for m in range(3)]
    assert x.grad.tolist() == [[(2.0, 3.0, 5.0)[d]] * 2 for d in domains]


def test_no_network_sees_rows_of_another_domain() -> None:
    seen: dict[int, list[float]] = {}

    def run(m: int, x: Tensor) -> Tensor:
        seen[m] = x.tolist()
        return x

    run_by_domain(run, 3, torch.tensor([2, 0, 2, 0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert seen == {0: [2.0, 4.0], 1: [], 2: [1.0, 3.0]}


def test_an_exported_graph_does_the_same_for_any_rows() -> None:
    made = Scales()
    x, y, domain = torch.ones(4, 2), torch.zeros(4), torch.tensor([0, 1, 2, 0])
    rows = torch.export.Dim("rows")
    shapes = {"x": {0: rows}, "y": {0: rows}, "domain": {0: rows}}
    exported = torch.export.export(made, (x, y, domain), dynamic_shapes=shapes).module()
    other = (torch.randn(7, 2), torch.randn(7), torch.tensor([2, 2, 0, 1, 0, 2, 1]))
    torch.testing.assert_close(exported(*other), made(*other))
