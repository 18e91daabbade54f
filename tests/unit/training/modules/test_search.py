"""What the searches keep, against sorting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.contract.search import kept_of
from training.modules.search import keep_best, keep_newest, ranked


@pytest.mark.parametrize("keep", [1, 2, 5, 20])
def test_newest_are_the_last_that_match(keep: int) -> None:
    matching = torch.rand(3, 4, 17, generator=torch.Generator().manual_seed(keep)) < 0.4
    kept = keep_newest(matching, keep)
    for visit in range(3):
        for row in range(4):
            expected = np.flatnonzero(matching[visit, row].numpy())[-keep:]
            assert np.flatnonzero(kept[visit, row].numpy()).tolist() == expected.tolist()
    assert torch.equal(keep_newest(matching, None), matching)


@pytest.mark.parametrize("length", [1, 6, 17])
@pytest.mark.parametrize("keep", [1, 2, 5, 16, 17, 40])
def test_best_are_the_highest_that_are_real_and_the_newest_of_equals(length: int, keep: int) -> None:
    random = torch.Generator().manual_seed(keep)
    score = torch.randint(-4, 4, (3, 4, length), generator=random).double()  # few values: many ties
    valid = torch.rand(3, length, generator=random) < 0.6
    kept = keep_best(score, valid, keep)
    for visit in range(3):
        for row in range(4):
            real = [i for i in range(length) if valid[visit, i]]
            expected = sorted(real, key=lambda i, s=score[visit, row]: (-s[i].item(), -i))[:keep]  # type: ignore[misc]
            assert set(np.flatnonzero(kept[visit, row].numpy())) == set(expected)
    assert torch.equal(keep_best(score, valid, None), valid[:, None].expand(3, 4, -1))


@pytest.mark.parametrize(("length", "keep"), [(1, 5), (5, 5), (6, 5), (600, 48)])
@pytest.mark.parametrize("spread", [3, 2**30])
def test_serving_keeps_what_training_keeps(length: int, keep: int, spread: int) -> None:
    random = torch.Generator().manual_seed(length)
    score = torch.randint(-spread, spread, (1, 7, length), generator=random).double()
    score[..., ::3] = score[..., :1].clone()
    expected = keep_best(score, torch.ones(1, length, dtype=torch.bool), keep)
    assert kept_of(score.numpy(), keep, newest_first=True).tolist() == expected[0].tolist()


def test_padding_is_never_kept_however_low_the_real_ones_score() -> None:
    score, valid = (
        torch.tensor([[[-9e5, 0.0, -8e5, 7.0]]]).double(),
        torch.tensor([[True, False, True, False]]),
    )
    assert keep_best(score, valid, 1).tolist() == [[[False, False, True, False]]]
    assert keep_best(score, valid, 3).tolist() == [[[True, False, True, False]]]


def test_ranks_are_apart_over_a_life_cycle_of_a_million() -> None:
    """Scores up to 1000 at 2^-20 and 2^20 positions stay below 2^53: no two keys are rounded together."""
    score = ranked(torch.tensor([[[1000.0, 1000.0 - 2**-20, 1000.0]]], dtype=torch.float64))
    length = 2**20
    key = (score * length + torch.tensor([5.0, length - 1, 6.0], dtype=torch.float64))[0, 0]
    assert key[1] < key[0] < key[2]


def test_scores_that_differ_by_the_order_of_summation_are_equal() -> None:
    score = torch.tensor([0.3, 0.1 + 0.2], dtype=torch.float64)
    assert score[0] != score[1] and ranked(score)[0] == ranked(score)[1]
