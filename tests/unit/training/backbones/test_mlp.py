"""The plain network equals its equation row by row, and knows the domain by its embedding alone."""

from __future__ import annotations

import pytest
import torch

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from tests.unit.training.backbones.plain import network, whole
from training.backbones.mlp import Mlp, Options, build


def mlp(*, logit_columns: int = 2, hidden: tuple[int, ...] = (6, 4), domain_width: int = 2) -> Mlp:
    torch.manual_seed(1)
    options = Options(hidden=hidden, domain_width=domain_width)
    made = stirred(build(options, widths=widths(logit_columns=logit_columns)))
    assert isinstance(made, Mlp)
    return made


@pytest.mark.parametrize("hidden", [(6,), (6, 4), (6, 4, 3)])
@pytest.mark.parametrize("domain_width", [0, 2])
@pytest.mark.parametrize("logit_columns", [1, 2])
def test_equals_the_equation_row_by_row(
    hidden: tuple[int, ...], domain_width: int, logit_columns: int
) -> None:
    made, x = mlp(hidden=hidden, domain_width=domain_width, logit_columns=logit_columns), inputs()
    out = made(*x)
    assert out.shape == (12, 2, logit_columns)
    for row in range(12):
        expected = network(whole(made.inputs, x, row), made.layers)
        torch.testing.assert_close(out[row].flatten(), expected, atol=1e-12, rtol=0)


def test_the_domains_embedding_is_all_that_tells_domains_apart() -> None:
    user, item, candidate, interest, domain = inputs()
    other = (domain + 1) % 3
    made = mlp()
    moved = (
        made(user, item, candidate, interest, domain) - made(user, item, candidate, interest, other)
    ).abs()
    assert bool((moved > 1e-9).flatten(1).any(1).all())
    assert made.inputs.domain is not None
    with torch.no_grad():
        made.inputs.domain.weight.copy_(made.inputs.domain.weight[:1].clone().expand(3, -1))
    same = made(user, item, candidate, interest, domain), made(user, item, candidate, interest, other)
    assert torch.equal(*same)
    made = mlp(domain_width=0)
    same = made(user, item, candidate, interest, domain), made(user, item, candidate, interest, other)
    assert torch.equal(*same)
