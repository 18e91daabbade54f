"""What every mode of reading presentation features must do, in torch and in the served graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
import torch

from service.contract.history import F32, HistoryLimits
from tests.suites.models.built import SMALL, TASKS, furthest
from tests.suites.models.test_every_export import Exported, export
from tests.support.synthetic_encoded import tiny_encoded
from training.config import ModelConfig, PresentationConfig
from training.data.encoded import EncodedData
from training.export.parity import LOGIT_DIFFERENCE_LIMIT, draw_cases, reference_logits
from training.export.raw_requests import Case
from training.fit import batch_builder, predict
from training.model import CtrModel
from training.task_losses import TaskLosses

FEATURE = "position"
MODES: tuple[str, ...] = get_args(PresentationConfig.model_fields["mode"].annotation)
SERVED_WITHOUT_IT = tuple(mode for mode in MODES if mode != "feature")


@dataclass(frozen=True)
class Presented:
    """A model of one mode, as if it had learned for a while, and the data as it sees them."""

    mode: str
    config: ModelConfig
    model: CtrModel
    data: EncodedData


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"), limits=HistoryLimits(behaviors_max=20))[1]


@pytest.fixture(scope="module", params=MODES)
def presented(request: pytest.FixtureRequest, whole: EncodedData) -> Presented:
    mode: str = request.param
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "pepnet", **SMALL["pepnet"]},
            "losses": {"click": "jrc"},
            "embedding_width": 3,
            "presentation": {"features": [FEATURE], "mode": mode},
        }
    )
    kept = tuple(f for f in whole.features if mode != "none" or f.name != FEATURE)
    data = whole.restricted_to(kept)
    torch.manual_seed(4)
    model = CtrModel(
        config,
        features=data.features,
        item_ids=torch.from_numpy(data.item_ids),
        domains_count=3,
        tasks_count=2,
        logit_columns=2,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Presented(mode, config, model.eval(), data)


@pytest.fixture(scope="module")
def cases(whole: EncodedData) -> list[Case]:
    return draw_cases(whole, rows_min=1, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def exported(presented: Presented, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(presented.model, presented.data, tmp_path_factory.mktemp("graph"))


def elsewhere(data: EncodedData) -> EncodedData:
    """Return the same rows, each in another place."""
    names = [f.name for f in data.features if f.side.value == "candidate"]
    if FEATURE not in names:
        return data
    ids, column = data.candidate_ids.copy(), names.index(FEATURE)
    ids[:, column] = (ids[:, column] + 1) % (int(ids[:, column].max()) + 1)
    return replace(data, candidate_ids=ids)


def of_test_weeks(model: CtrModel, data: EncodedData) -> F32:
    return predict(model, data, data.visits_of("test"))


def test_only_a_feature_changes_scores_with_the_place(presented: Presented) -> None:
    here = of_test_weeks(presented.model, presented.data)
    there = of_test_weeks(presented.model, elsewhere(presented.data))
    assert np.array_equal(here, there) == (presented.mode in SERVED_WITHOUT_IT)


def test_the_served_graph_scores_as_the_model_is_evaluated(
    presented: Presented, exported: Exported, cases: list[Case]
) -> None:
    for data in (presented.data, elsewhere(presented.data)):
        worst = furthest(
            (
                exported.run(data, case),
                reference_logits(presented.model, data, case),
            )
            for case in cases
        )
        assert worst <= LOGIT_DIFFERENCE_LIMIT


def test_the_served_graph_reads_the_place_of_a_feature_only(
    presented: Presented, exported: Exported, cases: list[Case]
) -> None:
    same = [
        np.array_equal(
            exported.run(presented.data, case),
            exported.run(elsewhere(presented.data), case),
        )
        for case in cases
    ]
    assert all(same) == (presented.mode in SERVED_WITHOUT_IT)


@pytest.mark.parametrize("form", ["conditional", "product", "direct"])
def test_everything_that_should_learn_does(presented: Presented, form: str) -> None:
    tasks = (TASKS[0], TASKS[1].model_copy(update={"entire_space": form}))
    losses = TaskLosses(presented.config, tasks)
    model, data = presented.model, presented.data
    batch = batch_builder(data).build(data.visits_of("train"))
    model.train()
    model.zero_grad()
    torch.stack(list(losses(model(batch), batch, model.seen_logit(batch)).values())).sum().backward()
    model.eval()
    still = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert still == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_a_tower_of_being_seen_is_there_in_pal_only(presented: Presented) -> None:
    batch = batch_builder(presented.data).build(presented.data.visits_of("train")[:3])
    seen = presented.model.seen_logit(batch)
    assert (seen is not None) == (presented.mode == "pal")
    assert seen is None or seen.shape == batch.item.shape


def test_an_empty_batch_of_positives_is_finite(presented: Presented) -> None:
    data, model = presented.data, presented.model
    batch = batch_builder(data).build(data.visits_of("train")[:1])
    for labels in (torch.zeros_like(batch.labels), torch.full_like(batch.labels, torch.nan)):
        changed = replace(batch, labels=labels)
        found = TaskLosses(presented.config, TASKS)(model(changed), changed, model.seen_logit(changed))
        assert all(bool(torch.isfinite(loss)) for loss in found.values())
