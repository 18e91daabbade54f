"""Fitting: what each task's loss reads, what is kept, and that a known answer is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract.history import F32, I64
from service.contract.manifest import EntireSpace, TaskSpec
from tests.unit.training.checkerboard import BUY, CANDIDATES_COUNT, CLICK, checkerboard, small_model
from training.config import ModelConfig
from training.data.batch import Batch
from training.data.encoded import EncodedData
from training.errors import StageError
from training.fit import (
    FitReport,
    batch_builder,
    count_parameters,
    fit,
    predict,
    probabilities,
)
from training.metrics.natural import log_loss
from training.model import CtrModel
from training.progress import Progress
from training.task_losses import TaskLosses

NONE: I64 = np.zeros(0, np.int64)


def a_batch(labels: list[list[float]], keep_probability: list[float]) -> Batch:
    """Return a batch of one request with given labels."""
    data, rows = checkerboard(), len(labels)
    batch = batch_builder(data).one_request(0, np.arange(rows))
    offset = -torch.log(torch.tensor(keep_probability))
    return replace(batch, labels=torch.tensor(labels), offset=offset)


def bce(logit: Tensor, label: Tensor) -> Tensor:
    return -(label * torch.sigmoid(logit).log() + (1 - label) * torch.sigmoid(-logit).log())


NAN = float("nan")
LABELS = [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, NAN], [0.0, NAN]]
KEEP = [0.25, 0.25, 0.25, 0.5, 1.0]
LOGITS = torch.tensor([[0.3, -0.2], [1.0, 0.4], [-0.7, 5.0], [0.1, -6.0], [0.2, 7.0]])


def task_losses(*tasks: TaskSpec, **losses: str) -> TaskLosses:
    return TaskLosses(small_model(losses=losses), tasks)


def test_first_task_reads_every_row_with_its_offset_and_a_given_one_only_what_happened() -> None:
    batch = a_batch(LABELS, KEEP)
    found = task_losses(CLICK, BUY)(LOGITS[..., None], batch)
    click = bce(LOGITS[:, 0] - torch.log(torch.tensor(KEEP)), batch.labels[:, 0]).mean()
    buy = bce(LOGITS[:2, 1], batch.labels[:2, 1]).sum() / 5  # its mean, times its share of the rows
    torch.testing.assert_close(found, {"click": click, "buy": buy})


@pytest.mark.parametrize("name", ["bce", "jrc"])
def test_gradients_stay_in_the_rows_that_a_task_reads(name: str) -> None:
    losses = task_losses(CLICK, BUY, default=name)
    logits = LOGITS[..., None].repeat(1, 1, losses.logit_columns).requires_grad_()
    losses(logits, a_batch(LABELS, KEEP))["buy"].backward()
    assert logits.grad is not None
    touched = (logits.grad != 0).any(-1)
    assert not bool(touched[:, 0].any())
    assert touched[:, 1].tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("name", ["bce", "jrc"])
@pytest.mark.parametrize(
    ("labels", "there"),
    [([[0.0, 0.0]] * 5, {"click"}), ([[1.0, NAN]] * 5, {"click"}), ([[NAN, NAN]] * 5, set())],
)
def test_a_task_without_rows_is_absent_and_costs_nothing(
    name: str, labels: list[list[float]], there: set[str]
) -> None:
    losses = task_losses(CLICK, BUY, default=name)
    logits = LOGITS[..., None].repeat(1, 1, losses.logit_columns).requires_grad_()
    found = losses(logits, a_batch(labels, KEEP))
    assert set(found) == there
    for loss in found.values():
        loss.backward()
        assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
        assert not bool(logits.grad[:, 1].any())


def test_the_widest_loss_says_how_many_columns_there_are() -> None:
    assert task_losses(CLICK, BUY).logit_columns == 1
    assert task_losses(CLICK, BUY, click="jrc").logit_columns == 2
    assert task_losses(CLICK, BUY, buy="jrc").logit_columns == 2


# Fitting


def fitted(
    data: EncodedData,
    config: ModelConfig,
    *,
    tasks: tuple[TaskSpec, ...] = (CLICK, BUY),
    validation: I64 | None = None,
    curve: I64 | None = None,
) -> tuple[CtrModel, FitReport]:
    losses = TaskLosses(config, tasks)
    torch.manual_seed(config.fit.seed)
    model = CtrModel(
        config,
        features=data.features,
        item_ids=torch.from_numpy(data.item_ids),
        domains_count=2,
        tasks_count=len(tasks),
        logit_columns=losses.logit_columns,
    )
    report = fit(
        model,
        losses,
        data,
        config=config.fit,
        train_visits=data.visits_of("train"),
        validation_visits=data.visits_of("validation") if validation is None else validation,
        boundaries_ms=np.array([3000]),
        progress=Progress(quiet=True),
        curve_visits=curve,
    )
    return model, report


def validation_loss(model: CtrModel, data: EncodedData) -> float:
    visits = data.visits_of("validation")
    p = probabilities(predict(model, data, visits), (CLICK, BUY))[:, 0]
    labels = data.labels[data.rows_of(visits), 0]
    return float(-np.mean(np.log(np.where(labels == 1, p, 1 - p).astype(np.float64))))


@pytest.mark.parametrize("backbone", ["star", "pepnet"])
@pytest.mark.parametrize("loss", ["bce", "jrc"])
def test_learns_the_checkerboard(backbone: str, loss: str) -> None:
    data = checkerboard()
    config = small_model(
        backbone={"name": backbone, "hidden": [8]}, losses={"default": loss}, fit={"epochs": 30}
    )
    model, report = fitted(data, config)
    first, last = report.epochs[0], report.epochs[-1]
    assert all(last.losses[task] < first.losses[task] for task in ("click", "buy"))
    visits = data.visits_of("validation")
    rows = data.rows_of(visits)
    p = probabilities(predict(model, data, visits), (CLICK, BUY))
    labels = data.labels[rows]
    assert ((p[:, 0] > 0.5) == (labels[:, 0] == 1)).mean() > 0.99  # a coin is right in half of them
    assert ((p[:, 1] > 0.5) == (labels[:, 1] == 1)).mean() > 0.99


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    data = checkerboard()
    config = small_model(fit={"epochs": 2, "cold_start_ratio": 0.1})
    one, first = fitted(data, config)
    two, second = fitted(data, config)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert [e.losses for e in first.epochs] == [e.losses for e in second.epochs]
    other, _ = fitted(data, small_model(fit={"epochs": 2, "cold_start_ratio": 0.1, "seed": 9}))
    assert not torch.equal(one.user.tables[0].weight, other.user.tables[0].weight)  # type: ignore[arg-type]


def test_a_learning_curve_is_measured_on_the_way_and_changes_nothing() -> None:
    data = checkerboard()
    config = small_model(fit={"epochs": 2, "batch_rows": 20, "cold_start_ratio": 0.1})
    alone, plain = fitted(data, config)
    model, report = fitted(data, config, curve=data.visits_of("validation"))
    for name, value in alone.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert plain.curve == []
    epochs = [at for at, _ in report.curve]
    assert len(epochs) > 10 and epochs == sorted(set(epochs)) and epochs[-1] == 2.0
    at = dict(report.curve)
    assert [at[1.0], at[2.0]] == [epoch.validation_log_loss for epoch in report.epochs]


def test_keeps_the_epoch_best_on_validation() -> None:
    """Validation labels are the opposite of what training teaches: the sooner, the better."""
    data = checkerboard()
    labels = data.labels.copy()
    rows = data.rows_of(data.visits_of("validation"))
    labels[rows, 0] = 1 - labels[rows, 0]
    data = replace(data, labels=labels)
    model, report = fitted(data, small_model(fit={"epochs": 5}))
    losses = [epoch.validation_log_loss for epoch in report.epochs]
    assert report.best_epoch == 1 + int(np.argmin(losses)) < len(losses)
    assert validation_loss(model, data) == pytest.approx(min(losses), rel=1e-5)
    assert validation_loss(model, data) < losses[-1] - 0.1
    assert not model.training


@pytest.mark.parametrize("optimizer", ["adam", "adatask"])
def test_batches_of_which_a_task_or_all_tasks_know_nothing_teach_what_is_known(optimizer: str) -> None:
    """No label of any buy is known, and of the clicks only those of half of the users."""
    data = checkerboard()
    labels = data.labels.copy()
    labels[:, 1] = np.nan
    user = data.visit_user[data.request_visit[data.row_request]]
    labels[user >= 5, 0] = np.nan
    config = small_model(fit={"epochs": 2, "batch_rows": 1, "optimizer": optimizer})
    model, report = fitted(replace(data, labels=labels), config, validation=NONE)
    assert all(epoch.losses["buy"] == 0.0 < epoch.losses["click"] for epoch in report.epochs)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_a_fit_on_one_domain_does_not_see_the_others_labels() -> None:
    data = checkerboard()
    one = data.of_domains(("right",))
    labels = data.labels.copy()
    left = data.domain[data.row_request] == 0
    labels[left] = 1 - labels[left]
    same = replace(data, labels=labels).of_domains(("right",))
    config = small_model(fit={"epochs": 2})
    first, second = (fitted(chosen, config)[0] for chosen in (one, same))
    visits = one.visits_of("validation")
    np.testing.assert_array_equal(predict(first, one, visits), predict(second, same, visits))


def test_the_last_epoch_is_kept_where_nothing_is_validated() -> None:
    data = checkerboard()
    config = small_model(fit={"epochs": 3})
    model, report = fitted(data, config, validation=NONE)
    assert report.best_epoch == 3
    assert all(np.isnan(epoch.validation_log_loss) for epoch in report.epochs)
    assert validation_loss(model, data) == pytest.approx(
        fitted(data, config)[1].epochs[-1].validation_log_loss, rel=1e-5
    )


def test_what_was_sampled_away_comes_back_in_the_probabilities() -> None:
    """Half of the rows kept are clicks; a tenth of the negatives was kept: 1 in 11 of all that was shown."""
    data = checkerboard(keep_probability=0.1)
    coin = np.tile([0.0, 1.0], len(data.item) // 2).astype(np.float32)
    data = replace(
        data,
        labels=np.stack([coin, coin], axis=1),
        item=np.zeros_like(data.item),
        user_ids=np.zeros_like(data.user_ids),
    )
    model, _ = fitted(data, small_model(fit={"epochs": 20}), validation=NONE)
    p = probabilities(predict(model, data, data.visits_of("validation")), (CLICK, BUY))
    np.testing.assert_allclose(p[:, 0], 1 / 11, rtol=0.02)
    np.testing.assert_allclose(p[:, 1], 1 / 11, rtol=0.05)  # every click is a buy, at any sampling


@pytest.mark.parametrize("form", ["conditional", "product", "direct"])
@pytest.mark.parametrize("loss", ["bce", "jrc"])
def test_every_form_recovers_a_joint_distribution(form: EntireSpace, loss: str) -> None:
    """A request keeps 2 clicks, 1 of them a buy, and 4 others, a tenth of those shown: 1 in 21, of these 1 in 2."""
    data = checkerboard(keep_probability=0.1, visits_per_user=16)
    click = np.tile([1.0, 1.0, 0.0, 0.0, 0.0, 0.0], len(data.domain))
    buy = np.tile([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], len(data.domain))
    data = replace(
        data,
        labels=np.stack([click, buy], axis=1).astype(np.float32),
        item=np.zeros_like(data.item),
        user_ids=np.zeros_like(data.user_ids),
    )
    tasks = (CLICK, TaskSpec(name="buy", given="click", entire_space=form))
    config = small_model(fit={"epochs": 15}, losses={"default": loss})
    model, _ = fitted(data, config, tasks=tasks, validation=NONE)
    p = probabilities(predict(model, data, data.visits_of("validation")), tasks)
    np.testing.assert_allclose(p[:, 0], 1 / 21, rtol=0.05)
    np.testing.assert_allclose(p[:, 1], 1 / 42, rtol=0.05)


def test_reports_how_many_rows_have_something_to_be_ranked_against() -> None:
    data = checkerboard()
    mixed = {
        request
        for request in range(len(data.domain))
        if 0 < data.labels[data.row_request == request, 0].sum() < CANDIDATES_COUNT
    }
    train = data.row_request[data.rows_of(data.visits_of("train"))]
    share = float(np.mean([request in mixed for request in train]))
    _, report = fitted(data, small_model(fit={"epochs": 1, "batch_rows": 100_000}))
    assert report.epochs[0].mixed_context_share == pytest.approx(share)


def test_predicts_in_the_order_of_the_visits() -> None:
    data = checkerboard()
    model, _ = fitted(data, small_model(fit={"epochs": 1}))
    visits = np.array([7, 3, 20])
    out = predict(model, data, visits)
    alone: F32 = np.concatenate([predict(model, data, visits[i : i + 1]) for i in range(3)])
    assert out.shape == (3 * CANDIDATES_COUNT, 2)
    np.testing.assert_allclose(out, alone, atol=1e-6)
    assert predict(model, data, NONE).shape == (0, 2)


# Probabilities


def test_a_given_tasks_probability_is_the_product_down_to_the_first() -> None:
    tasks = (CLICK, BUY, TaskSpec(name="keep", given="buy"), TaskSpec(name="like"))
    logits: F32 = np.array([[0.0, 0.0, np.log(3), 0.0], [np.log(4), np.log(3), 0.0, -np.log(9)]], np.float32)
    p = probabilities(logits, tasks)
    np.testing.assert_allclose(p, [[0.5, 0.25, 0.1875, 0.5], [0.8, 0.6, 0.3, 0.1]], rtol=1e-6)
    assert p.dtype == np.float32


def test_probabilities_of_logits_far_out() -> None:
    logits: F32 = np.array([[-1000.0, 1000.0], [1000.0, 1000.0], [1000.0, -1000.0]], np.float32)
    assert probabilities(logits, (CLICK, BUY)).tolist() == [[0, 0], [1, 1], [1, 0]]


def test_a_given_task_is_never_likelier_than_its_condition() -> None:
    logits = np.random.default_rng(0).normal(size=(1000, 2), scale=30).astype(np.float32)
    p = probabilities(logits, (CLICK, BUY))
    assert bool((p[:, 1] <= p[:, 0]).all()) and bool(((p >= 0) & (p <= 1)).all())


def test_a_direct_tasks_probability_is_the_lesser_of_its_own_and_its_conditions() -> None:
    tasks = (CLICK, TaskSpec(name="buy", given="click", entire_space="direct"))
    logits: F32 = np.array([[0.0, -np.log(3)], [0.0, 2.0], [-1000.0, 1000.0]], np.float32)
    np.testing.assert_allclose(probabilities(logits, tasks), [[0.5, 0.25], [0.5, 0.5], [0, 0]], rtol=1e-6)
    logits = np.random.default_rng(0).normal(size=(1000, 2), scale=30).astype(np.float32)
    p = probabilities(logits, tasks)
    assert bool((p[:, 1] <= p[:, 0]).all())


def test_counts_parameters() -> None:
    assert count_parameters(torch.nn.Linear(3, 2)) == 8


def test_validation_is_the_natural_log_loss() -> None:
    """A negative that stands for ten counts ten times."""
    data = checkerboard(keep_probability=0.1)
    model, report = fitted(data, small_model(fit={"epochs": 1}))
    visits = data.visits_of("validation")
    p = probabilities(predict(model, data, visits), (CLICK, BUY))[:, 0].astype(np.float64)
    labels = data.labels[data.rows_of(visits), 0]
    weights = np.where(labels == 1, 1.0, 10.0)
    expected = -(weights * np.log(np.where(labels == 1, p, 1 - p))).sum() / weights.sum()
    assert report.epochs[0].validation_log_loss == pytest.approx(expected, rel=1e-4)
    assert log_loss(labels, p, weights) == pytest.approx(expected)


# Calibration


@pytest.mark.parametrize("name", ["platt", "isotonic"])
def test_calibrates_each_task_on_the_validation_rows_that_its_logit_speaks_of(name: str) -> None:
    """All validation rows are one item shown to one user: the mean of a task's rows is then its probability.

    Training labels are those of the checkerboard; validation's are a coin of 1 in 3 for the click, and of those
    one in two for the buy; a negative stands for ten.
    """
    data = checkerboard(keep_probability=0.1, visits_per_user=40)
    rows = data.rows_of(data.visits_of("validation"))
    labels, item, user_ids = data.labels.copy(), data.item.copy(), data.user_ids.copy()
    labels[rows, 0] = np.tile([1, 0, 0], len(rows) // 3)
    labels[rows, 1] = np.tile([1, 0, 0, 0, 0, 0], len(rows) // 6)
    item[rows] = 0
    user_ids[data.row_request[rows]] = 0
    data = replace(data, labels=labels, item=item, user_ids=user_ids)
    calibration = {"name": name, "positives_min": 5}
    config = small_model(fit={"epochs": 1}, calibration=calibration)
    model, _ = fitted(data, config)
    plain, _ = fitted(data, small_model(fit={"epochs": 1}))
    assert model.calibration is not None
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])  # calibrating moves nothing that was learned
    p = probabilities(predict(model, data, data.visits_of("validation")), (CLICK, BUY))
    # A domain sees rows of its own, but with one item and one user all rows of a domain have one logit.
    np.testing.assert_allclose(p[:, 0].mean(), 1 / 21, rtol=0.02)
    np.testing.assert_allclose(p[:, 1].mean(), 1 / 42, rtol=0.02)


def test_a_calibration_without_validation_visits_is_refused() -> None:
    config = small_model(fit={"epochs": 1}, calibration="platt")
    with pytest.raises(StageError, match="no validation visits"):
        fitted(checkerboard(), config, validation=NONE)
