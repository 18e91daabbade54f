"""The measure itself by hand, and what TWIN's search returns of its attention's true top."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from service.contract.history import HistoryLimits
from tests.suites.models.built import Choice, backbone_variants, build
from tests.support.synthetic_encoded import tiny_encoded
from training.data.encoded import EncodedData
from training.metrics.search_consistency import (
    consistency_on_histories,
    consistency_on_long_histories,
    moved,
    returned_share,
    true_top,
)
from training.model import CtrModel
from training.modules.attention_options import AttentionOptions
from training.modules.target_attention import TargetAttention

# TWIN (arXiv:2302.02352) by hand, as in the tests of the attention: its merged top three are 5, 0 and 2
ALPHA = np.array(
    [
        [-0.60698415, -1.13028697, 1.07274172, -0.42568621, 0.20065639, 1.69366204],
        [1.39128983, -1.36276888, 0.49237784, -0.36458151, -2.19892, 0.13047172],
    ]
)


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, {5}), (2, {0, 5}), (3, {0, 2, 5}), (6, set(range(6))), (9, set(range(6)))]
)
def test_golden_top(keep: int, expected: set[int]) -> None:
    assert set(np.flatnonzero(true_top(ALPHA, keep))) == expected


def test_share_counts_what_was_returned_of_the_top_and_nothing_else() -> None:
    for returned, share in (([0, 2, 5], 1.0), ([0, 1, 5], 2 / 3), ([1, 3, 4], 0.0), (range(6), 1.0)):
        mask = np.zeros(6, np.bool_)
        mask[list(returned)] = True
        assert returned_share(mask, ALPHA, 3) == share


def test_noise_of_zero_changes_no_key_and_noise_is_in_spreads() -> None:
    keys = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0])
    assert torch.equal(moved(keys, 0.0, torch.Generator()), keys)
    spread = (moved(keys, 0.5, torch.Generator().manual_seed(1)) - keys).std(0)
    torch.testing.assert_close(spread, torch.tensor([0.5, 5.0]), atol=0.1, rtol=0)


def attention(*, heads: int = 4, weigh_sizes: bool = False) -> TargetAttention:
    torch.manual_seed(2)
    return TargetAttention(
        24, AttentionOptions(heads=heads, head_width=8, out_width=4), keep=None, weigh_sizes=weigh_sizes
    )


ITEMS = torch.randn(3000, 24, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("weigh_sizes", [False, True])
@pytest.mark.parametrize(("length", "keep"), [(1000, 100), (2000, 100), (1000, 250)])
def test_with_fresh_keys_the_search_returns_all_of_the_true_top(
    length: int, keep: int, weigh_sizes: bool
) -> None:
    found = consistency_on_long_histories(
        attention(weigh_sizes=weigh_sizes), ITEMS, length=length, keep=keep, histories_count=2
    )
    assert found.targets_count == 32
    assert found.mean >= 1 - 1 / (32 * keep)  # one of all: a score on a step's edge, rounded either way
    assert (found.length_mean, found.keep_mean) == (length, keep)


def test_stale_keys_cost_the_more_the_staler_they_are() -> None:
    means = [
        consistency_on_long_histories(
            attention(), ITEMS, length=1000, keep=100, histories_count=2, stale_noise=noise
        ).mean
        for noise in (0.0, 0.02, 0.2, 1.0, 100.0)
    ]
    assert means == sorted(means, reverse=True)
    assert means[1] > 0.94
    assert means[-1] < 0.4  # next to what drawing 100 of 1000 blindly returns


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"), limits=HistoryLimits(behaviors_max=20))[1]


def twin(data: EncodedData, name: str) -> CtrModel:
    interest = {"name": name, "heads": 4, "head_width": 4, "out_width": 3}
    return build(Choice(backbone_variants("star")[0], (interest,)), data)


@pytest.mark.parametrize("name", ["twin", "twin_v2"])
def test_on_the_histories_of_a_dataset_nothing_is_lost_either(data: EncodedData, name: str) -> None:
    model, visits = twin(data, name), data.visits_of("test")
    found = consistency_on_histories(model, name, data, visits)
    assert found.mean == found.least == found.whole == 1.0
    assert found.targets_count > 100
    assert found.keep_mean <= found.length_mean / 4


def test_moved_keys_return_less_of_real_histories(data: EncodedData) -> None:
    model, visits = twin(data, "twin"), data.visits_of("test")
    assert consistency_on_histories(model, "twin", data, visits, stale_noise=3.0).mean < 1.0


def test_histories_too_short_to_choose_from_are_left_out(data: EncodedData) -> None:
    found = consistency_on_histories(twin(data, "twin"), "twin", data, data.visits_of("test")[:0])
    assert found.targets_count == 0 and math.isnan(found.mean)


def test_a_search_by_other_scores_is_refused(data: EncodedData) -> None:
    model = build(Choice(backbone_variants("star")[0], ({"name": "eta"},)), data)
    with pytest.raises(TypeError, match="'eta' searches by other scores"):
        consistency_on_histories(model, "eta", data, data.visits_of("test"))
