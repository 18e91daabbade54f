"""SDIM against a loop over groups and behaviors, and against its expected kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.training.interest.histories import (
    ITEM,
    at,
    built,
    changed,
    close,
    history,
    item_vectors,
    one_visit,
)
from training.interest import sdim

TARGETS = item_vectors(6, 8)


def slow(made: Any, target: Tensor, part: Any, *, tau: int, normalize: bool, crossed: list[str]) -> Tensor:
    """Return one target's output: groups, then behaviors, one by one."""
    random = made.hash.projection.matrix
    code = (target @ random) > 0
    total = torch.zeros(6 + 8 * len(crossed)).double()
    groups = random.shape[1] // tau
    for group in range(groups):
        bits = slice(group * tau, (group + 1) * tau)
        summed = torch.zeros_like(total)
        for i in range(part.index.shape[1]):
            item = part.items[part.index[0, i]]
            if torch.equal(((item @ random) > 0)[bits], code[bits]):
                ids = {"age": part.age[0, i], "strength": part.strength[0, i]}
                cross = [made.cross.tables[name].weight[ids[name]] for name in crossed]
                summed = summed + part.size[0, i] * torch.cat([item, *cross])
        if normalize and bool(summed.any()):
            summed = summed / summed.norm()
        total = total + summed / groups
    out: Tensor = made.output.weight @ total
    return out


@pytest.mark.parametrize("tau", [1, 2, 3])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("crossed", [[], ["age", "strength"]])
def test_sums_what_has_the_targets_signature(tau: int, normalize: bool, crossed: list[str]) -> None:
    made = built("sdim", hashes=12, tau=tau, normalize=normalize, crossed=crossed)
    part = history(15, sizes=True)
    out = made(TARGETS, part, one_visit(6))
    for row, target in enumerate(TARGETS):
        close(out[row], slow(made, target, part, tau=tau, normalize=normalize, crossed=crossed))


def test_sizes_count_like_copies() -> None:
    made, part = built("sdim"), history(9, sizes=True)
    copies = at(part, torch.arange(9).repeat_interleave(part.size[0].long()))
    copies = changed(copies, size=torch.ones_like(copies.size))
    close(made(TARGETS, part, one_visit(6)), made(TARGETS, copies, one_visit(6)))


@pytest.mark.parametrize("degrees", [20.0, 60.0, 120.0])
def test_expected_weight_of_a_behavior_is_the_kernel_of_its_angle(degrees: float) -> None:
    """The share of groups in which two vectors meet is (1 - theta / pi)^tau on average: within 4 errors."""
    torch.manual_seed(11)
    groups, tau = 20_000, 3
    made = sdim.build(sdim.Options(hashes=groups * tau, tau=tau, crossed=()), item=ITEM)
    angle = torch.deg2rad(torch.tensor(degrees))
    q = torch.zeros(6)
    q[0] = 1.0
    k = torch.zeros(6)
    k[0], k[1] = angle.cos(), angle.sin()
    met = (made.signature(q) == made.signature(k)).double().mean()
    expected = (1 - degrees / 180) ** tau
    error = (expected * (1 - expected) / groups) ** 0.5
    assert abs(met.item() - expected) < 4 * error


def test_a_history_twice_as_long_does_not_double_what_is_normalized() -> None:
    made, part = built("sdim", crossed=[]), history(9)
    doubled = at(part, torch.arange(9).repeat(2))
    close(made(TARGETS, doubled, one_visit(6)), made(TARGETS, part, one_visit(6)))
    plain = built("sdim", crossed=[], normalize=False)
    close(plain(TARGETS, doubled, one_visit(6)), 2 * plain(TARGETS, part, one_visit(6)))


def test_hashes_that_do_not_fill_their_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hashes \(16\) must be a multiple of tau \(3\)"):
        sdim.Options(hashes=16)
