"""Shared bottom equals its equation row by row, for each of the three things a tower can belong to."""

from __future__ import annotations

import pytest
import torch

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from tests.unit.training.backbones.plain import GROUPS, groups_of, network, whole
from training.backbones.shared_bottom import Options, SharedBottom, build


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("bottom_hidden", [(6,), (6, 5)])
@pytest.mark.parametrize("tower_hidden", [(), (4,)])
@pytest.mark.parametrize("domain_width", [0, 2])
def test_equals_the_equation_row_by_row(
    groups: str, bottom_hidden: tuple[int, ...], tower_hidden: tuple[int, ...], domain_width: int
) -> None:
    options = Options(
        groups=groups, bottom_hidden=bottom_hidden, tower_hidden=tower_hidden, domain_width=domain_width
    )
    made = stirred(build(options, widths=widths()))
    assert isinstance(made, SharedBottom)
    x = inputs()
    out = made(*x)
    assert out.shape == (12, 2, 2)
    for row in range(12):
        h = network(whole(made.inputs, x, row), made.bottom)
        for task in range(2):
            s, a, place = groups_of(groups, int(x[-1][row]), task)
            expected = network(h, made.towers.stacked, s, a)[place * 2 : place * 2 + 2]
            torch.testing.assert_close(out[row, task], expected, atol=1e-12, rtol=0)


def test_two_domains_of_equal_towers_and_embeddings_score_alike() -> None:
    made = stirred(build(Options(), widths=widths()))
    assert isinstance(made, SharedBottom) and made.inputs.domain is not None
    with torch.no_grad():
        for parameter in (*made.towers.parameters(), made.inputs.domain.weight):
            parameter[1] = parameter[0]
    user, item, candidate, interest, _ = inputs()
    first, second, third = (made(user, item, candidate, interest, torch.full((12,), m)) for m in range(3))
    assert torch.equal(first, second) and not torch.equal(first, third)
