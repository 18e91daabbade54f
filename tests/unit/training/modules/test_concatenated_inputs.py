"""All sides in their order, and the split that reads them in the same order."""

from __future__ import annotations

import pytest
import torch

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from training.modules.concatenated_inputs import ConcatenatedInputs


@pytest.mark.parametrize("domain_width", [0, 2])
def test_sides_stand_in_their_order(domain_width: int) -> None:
    made = ConcatenatedInputs(widths(), domain_width=domain_width).double()
    user, item, candidate, interest, domain = inputs()
    out = made(user, item, candidate, interest, domain)
    assert out.shape == (12, made.width) == (12, domain_width + 14)
    for row in range(12):
        own = [made.domain.weight[domain[row]]] if made.domain is not None else []
        expected = torch.cat([*own, user[row], item[row], candidate[row], interest[row]])
        assert torch.equal(out[row], expected)


@pytest.mark.parametrize("domain_width", [0, 2])
@pytest.mark.parametrize("by_domain", [False, True])
def test_the_split_equals_the_layer(domain_width: int, by_domain: bool) -> None:
    made = stirred(ConcatenatedInputs(widths(), domain_width=domain_width))
    assert isinstance(made, ConcatenatedInputs)
    user, item, candidate, interest, _ = inputs()
    random = torch.Generator().manual_seed(2)
    shape = (3, made.width, 6) if by_domain else (made.width, 6)
    weight = torch.randn(shape, generator=random, dtype=torch.float64)
    split = made.split(weight, None)
    for domain in range(3):
        share = split.item_columns(item)
        out = split(
            user[:1],
            share[domain] if by_domain else share,
            torch.cat([candidate, interest], dim=1),
            torch.tensor([domain]),
        )
        x = made(user[:1].expand(12, -1), item, candidate, interest, torch.full((12,), domain))
        torch.testing.assert_close(out, x @ (weight[domain] if by_domain else weight), atol=1e-12, rtol=0)
