"""What every backbone must do with every interest module, in torch; a new file is tested because it exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.suites.models.built import (
    TASKS,
    Choice,
    build,
    every_choice,
    furthest,
    item_tables,
    searched_inputs,
)
from training.config import ModelConfig
from training.data.encoded import EncodedData
from training.export.parity import reference_logits
from training.export.raw_requests import Case
from training.export.served_scorer import ServedScorer
from training.fit import batch_builder, predict
from training.model import CtrModel
from training.modules.split import fold_logit_columns
from training.task_losses import TaskLosses

FLOAT32 = 2e-4
"""Far above what another order of summation changes, far below what another row would."""


@pytest.fixture(scope="module", params=every_choice(), ids=str)
def choice(request: pytest.FixtureRequest) -> Choice:
    chosen: Choice = request.param
    return chosen


@pytest.fixture(scope="module")
def model(choice: Choice, data: EncodedData) -> CtrModel:
    return build(choice, data)


def test_scores_do_not_change_with_the_batch(model: CtrModel, data: EncodedData) -> None:
    builder = batch_builder(data)
    visits = data.visits_of("validation")
    together = predict(model, data, visits)
    place = {int(row): i for i, row in enumerate(data.rows_of(visits))}
    rng = np.random.default_rng(0)
    cuts = [*np.array_split(rng.permutation(visits), 5), visits[:1], visits[-1:]]
    with torch.inference_mode():
        for cut in cuts:
            out = fold_logit_columns(model(builder.build(cut))).numpy()
            expected = together[[place[int(row)] for row in data.rows_of(cut)]]
            np.testing.assert_allclose(out, expected, atol=FLOAT32, rtol=0)


def test_one_request_scores_as_in_a_batch(model: CtrModel, data: EncodedData) -> None:
    everything = predict(model, data, np.arange(len(data.visit_user)))
    for request in range(0, len(data.domain), 37):
        rows = np.flatnonzero(data.row_request == request)
        out = reference_logits(model, data, Case(request, rows))
        np.testing.assert_allclose(out, everything[rows], atol=FLOAT32, rtol=0)


def test_served_modules_score_as_they_were_trained(
    choice: Choice, model: CtrModel, data: EncodedData, cases: list[Case]
) -> None:
    for made in (model, build(replace(choice, plain=True), data)):
        scorer = ServedScorer(made, TASKS, 3).eval()
        tables = item_tables(scorer.item_tables(made, data.features))
        with torch.inference_mode():
            worst = furthest(
                (
                    scorer(**searched_inputs(scorer, data, tables, case))[0].numpy(),
                    reference_logits(model, data, case),
                )
                for case in cases
            )
        assert worst <= FLOAT32


def test_everything_that_should_learn_does(choice: Choice, model: CtrModel, data: EncodedData) -> None:
    """The batch has all domains, tasks, features and lengths of history; so there is no exception."""
    loss = {"name": "jrc" if choice.logit_columns == 2 else "bce"}
    config = ModelConfig.model_validate({"backbone": choice.backbone, "losses": {"default": loss}})
    losses = TaskLosses(config, TASKS)
    assert losses.logit_columns == choice.logit_columns
    batch = batch_builder(data).build(data.visits_of("train"))
    model.train()
    model.zero_grad()
    loss_of_tasks = torch.stack(list(losses(model(batch), batch).values())).sum()
    auxiliary = model.auxiliary_loss(batch)
    (loss_of_tasks if auxiliary is None else loss_of_tasks + auxiliary).backward()
    model.eval()
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.any())
    ]
    assert still == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_histories_matter_where_a_module_reads_them(
    choice: Choice, model: CtrModel, data: EncodedData
) -> None:
    """Without its history a user with one scores otherwise; a user who has none, or a model that reads none, not."""
    batch = batch_builder(data).build(data.visits_of("test"))
    emptied = replace(
        batch,
        parts={name: replace(part, size=torch.zeros_like(part.size)) for name, part in batch.parts.items()},
    )
    with torch.inference_mode():
        moved = (model(batch) - model(emptied)).abs().flatten(1).amax(1)
    known = batch.parts["clusters"].size[batch.layout.visit].any(1)
    assert not bool(moved[~known].any())
    assert bool((moved[known] > 0).float().mean() > 0.1) == bool(choice.interests)  # a hard search finds few
