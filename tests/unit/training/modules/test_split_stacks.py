"""First layers of experts and gates, computed as one split layer, equal each of them on the whole input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from training.modules.concatenated_inputs import ConcatenatedInputs
from training.modules.split_stacks import SplitStacks

WIDTH = 16


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EXPERTS = (drawn(4, WIDTH, 5), drawn(4, 1, 5))
GATES = (drawn(3, 2, WIDTH, 4), None)
ONLY_GATES = (drawn(1, 2, WIDTH, 4), None)
OWN_EXPERTS = (drawn(3, 2, 2, WIDTH, 5), drawn(3, 2, 2, 1, 5))
ONE = (drawn(WIDTH, 6), None)


def served(
    made: ConcatenatedInputs, stacks: SplitStacks, domain: int
) -> tuple[dict[str, Tensor], Tensor, tuple[int, int]]:
    """Return what a request's layers say, the same request's whole input, and the widths of the tables."""
    user, item, candidate, interest, _ = inputs()
    shared, by_domain = stacks.item_columns(item), stacks.item_columns_by_domain(item)
    own = by_domain.expand(3, -1, -1)[domain]
    out = stacks(user[:1], shared, own, candidate, interest, torch.tensor([domain]))
    x = made(user[:1].expand(12, -1), item, candidate, interest, torch.full((12,), domain))
    return out, x, (shared.shape[-1], by_domain.shape[-1])


@pytest.fixture(scope="module")
def made() -> ConcatenatedInputs:
    found = stirred(ConcatenatedInputs(widths(), domain_width=2))
    assert isinstance(found, ConcatenatedInputs)
    return found


@pytest.mark.parametrize("domain", [0, 1, 2])
def test_every_layer_and_the_domains_own(made: ConcatenatedInputs, domain: int) -> None:
    stacks = SplitStacks(
        made, every={"experts": EXPERTS, "one": ONE}, picked={"gates": GATES, "own": OWN_EXPERTS}
    )
    out, x, tables = served(made, stacks, domain)
    assert tables == (4 * 5 + 6, 2 * 4 + 4 * 5)
    assert {name: value.shape for name, value in out.items()} == {
        "experts": (4, 12, 5),
        "one": (12, 6),
        "gates": (2, 12, 4),
        "own": (2, 2, 12, 5),
    }
    assert EXPERTS[1] is not None and OWN_EXPERTS[1] is not None
    expected = {
        "experts": x @ EXPERTS[0] + EXPERTS[1],
        "one": x @ ONE[0],
        "gates": x @ GATES[0][domain],
        "own": x @ OWN_EXPERTS[0][domain] + OWN_EXPERTS[1][domain],
    }
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, atol=1e-12, rtol=0)


def test_a_set_that_all_domains_share_is_stored_once(made: ConcatenatedInputs) -> None:
    stacks = SplitStacks(made, every={"experts": EXPERTS}, picked={"gates": ONLY_GATES})
    out, x, tables = served(made, stacks, 1)
    assert tables == (4 * 5 + 2 * 4, 0)
    torch.testing.assert_close(out["gates"], x @ ONLY_GATES[0][0], atol=1e-12, rtol=0)


def test_nothing_but_the_domains_own(made: ConcatenatedInputs) -> None:
    out, x, tables = served(made, SplitStacks(made, every={}, picked={"gates": GATES}), 2)
    assert tables == (0, 2 * 4) and list(out) == ["gates"]
    torch.testing.assert_close(out["gates"], x @ GATES[0][2], atol=1e-12, rtol=0)
