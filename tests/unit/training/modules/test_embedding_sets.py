"""Embedding sets: every feature's own part of each set, and weights on the sets spread over the whole input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import widths
from training.errors import ConfigError
from training.modules.embedding_sets import EmbeddingSets
from training.modules.split import BackboneWidths

WIDTHS = replace(
    widths(),
    user=6,
    item=8,
    candidate=2,
    interest=2,
    user_slices={"user_id": slice(0, 4), "country": slice(4, 6)},
    item_slices={"item_id": slice(0, 6), "category": slice(6, 8)},
    candidate_slices={"placement": slice(0, 2)},
)


def made(
    widths: BackboneWidths = WIDTHS, sets: int = 2, split_interest: bool = False, **apart: int
) -> EmbeddingSets:
    return EmbeddingSets(widths, sets, apart=apart, split_interest=split_interest)


def named() -> list[Tensor]:
    """Return one row of each side, every column its own number: user 0.., item 10.., candidate 20.., interest 30.."""
    return [torch.arange(start, start + n)[None].float() for start, n in ((0, 6), (10, 8), (20, 2), (30, 2))]


def test_a_set_is_a_consecutive_part_of_every_feature() -> None:
    x = made().inputs(*named())
    assert x[:, 0].tolist() == [
        [0, 1, 4, 10, 11, 12, 16, 20, 30, 31],
        [2, 3, 5, 13, 14, 15, 17, 21, 30, 31],
    ]


def test_the_interest_vector_is_cut_where_asked() -> None:
    x = made(split_interest=True).inputs(*named())
    assert x[:, 0, -1].tolist() == [30, 31] and x.shape == (2, 1, 9)


def test_columns_set_apart_are_in_no_set() -> None:
    x = made(user_id=2, item_id=2).inputs(*named())
    assert x[:, 0].tolist() == [[0, 4, 10, 11, 16, 20, 30, 31], [1, 5, 12, 13, 17, 21, 30, 31]]
    assert made(user_id=4).inputs(*named())[:, 0, 0].tolist() == [4, 5]  # all of it set apart


def test_one_set_is_the_whole_input() -> None:
    x = named()
    assert torch.equal(made(sets=1).inputs(*x)[0], torch.cat(x, dim=1))


def test_sides_of_no_columns() -> None:
    none = replace(WIDTHS, candidate=0, candidate_slices={}, interest=0)
    user, item, candidate, interest = named()
    assert made(none).inputs(user, item, candidate[:, :0], interest[:, :0]).shape == (2, 1, 7)


@pytest.mark.parametrize(("split_interest", "apart"), [(False, {}), (True, {}), (False, {"item_id": 2})])
def test_spread_weights_do_to_the_whole_input_what_they_did_to_the_sets(
    split_interest: bool, apart: dict[str, int]
) -> None:
    sets = made(split_interest=split_interest, **apart)
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, sets.width, 3, generator=random, dtype=torch.float64)
    sides = [torch.randn(5, n, generator=random, dtype=torch.float64) for n in (6, 8, 2, 2)]
    spread = sets.spread(weight)
    assert spread.shape == (2, 18, 3)
    torch.testing.assert_close(torch.cat(sides, dim=1) @ spread, sets.inputs(*sides) @ weight)


def test_every_column_learns_from_its_own_set_alone() -> None:
    sides = [side.requires_grad_() for side in named()]
    made().inputs(*sides)[1].sum().backward()
    grads = [side.grad for side in sides]
    assert [g.tolist() for g in grads if g is not None] == [
        [[0, 0, 1, 1, 0, 1]],
        [[0, 0, 0, 1, 1, 1, 0, 1]],
        [[0, 1]],
        [[1, 1]],
    ]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"sets": 3}, "feature 'user_id' is 4 wide, which 3 embedding sets do not divide"),
        ({}, {"user_id": 1}, "'user_id' is 4 wide, which 2 embedding sets do not divide without the 1"),
        ({}, {"item_id": 8}, "'item_id' is 6 wide"),
        ({"interest": 3}, {"split_interest": True}, "the interest vector is 3 wide"),
        ({"candidate": 3, "candidate_slices": {"place": slice(0, 3)}}, {}, "'place' is 3 wide"),
    ],
)
def test_widths_that_the_sets_do_not_divide_are_named(
    changes: dict[str, object], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(replace(WIDTHS, **changes), **options)  # type: ignore[arg-type]
