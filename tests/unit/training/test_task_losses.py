"""Which rows a task's loss reads, and which logit it is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract.manifest import EntireSpace, TaskSpec
from tests.unit.training.checkerboard import checkerboard, small_model
from training.data.batch import Batch
from training.fit import batch_builder
from training.task_losses import TaskLosses

CLICK = TaskSpec(name="click")
NAN = float("nan")
LABELS = [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, NAN], [0.0, NAN]]
KEEP = [0.25, 0.25, 0.25, 0.5, 1.0]
LOGITS = torch.tensor([[0.3, -0.2], [1.0, 0.4], [-0.7, 5.0], [0.1, -6.0], [0.2, 7.0]])
SINGLE = ("bce", "focal", "combined_pair", "combined_list", "rcr")
FORMS: tuple[EntireSpace, ...] = ("conditional", "product", "direct")


def buy(form: EntireSpace, *, name: str = "buy", given: str = "click") -> TaskSpec:
    return TaskSpec(name=name, given=given, entire_space=form)


def a_batch(labels: list[list[float]], keep_probability: list[float]) -> Batch:
    """Return a batch of one request with given labels."""
    batch = batch_builder(checkerboard()).one_request(0, np.arange(len(labels)))
    return replace(batch, labels=torch.tensor(labels), offset=-torch.log(torch.tensor(keep_probability)))


def losses_of(*tasks: TaskSpec, **losses: str) -> TaskLosses:
    return TaskLosses(small_model(losses=losses), tasks)


def cross_entropy(p: Tensor, label: Tensor) -> Tensor:
    return -(label * p.log() + (1 - label) * (1 - p).log())


@pytest.mark.parametrize("columns", [1, 2])
def test_a_product_reads_all_rows_and_multiplies_what_the_sampled_click_is(columns: int) -> None:
    """Rows kept: the click's odds are its natural ones over keep, and a buy has its share of the clicks."""
    losses = losses_of(CLICK, buy("product"), **({"click": "jrc"} if columns == 2 else {}))
    batch = a_batch(LABELS, KEEP)
    logits = LOGITS[..., None] if columns == 1 else torch.stack([torch.randn(5, 2), LOGITS], dim=-1)
    if columns == 2:
        logits[..., 1] = logits[..., 0] + LOGITS
    click = torch.sigmoid(LOGITS[:, 0] - torch.log(torch.tensor(KEEP)))
    p = click * torch.sigmoid(LOGITS[:, 1])
    expected = cross_entropy(p[:3], batch.labels[:3, 1]).sum() / 5  # two labels are not known
    torch.testing.assert_close(losses(logits, batch)["buy"], expected)


def test_a_direct_task_reads_all_rows_at_the_rate_of_the_rows_kept() -> None:
    batch = a_batch(LABELS, KEEP)
    keep = torch.tensor(KEEP)
    q, p = torch.sigmoid(LOGITS[:, 0]), torch.sigmoid(LOGITS[:, 1])
    least = torch.minimum(p, q)
    odds = torch.exp(LOGITS[:, 1]) * (1 - least) / (1 - least - (1 - keep) * (1 - q))
    expected = cross_entropy(odds / (1 + odds), batch.labels[:, 1])[:3].sum() / 5
    torch.testing.assert_close(losses_of(CLICK, buy("direct"))(LOGITS[..., None], batch)["buy"], expected)


def test_all_forms_of_a_task_that_is_certain_are_the_clicks_loss() -> None:
    """Every click is a buy, and the conditional logit says so: the product's loss is the click's own."""
    batch = a_batch([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], [0.2, 0.2, 0.2])
    logits = torch.tensor([[0.5, 40.0], [-1.0, 40.0], [-2.0, 40.0]])[..., None]
    found = losses_of(CLICK, buy("product"))(logits, batch)
    torch.testing.assert_close(found["buy"], found["click"])
    same = losses_of(CLICK, buy("direct"))(logits[:, [0, 0]], batch)
    torch.testing.assert_close(same["buy"], same["click"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*SINGLE, "jrc"])
@pytest.mark.parametrize(
    "labels",
    [LABELS, [[1.0, 0.0]] * 5, [[0.0, 0.0]] * 5, [[1.0, 1.0]] * 5, [[1.0, NAN]] * 5, [[1.0, 1.0]]],
    ids=["mixed", "no buy", "no click", "all buys", "none known", "one row"],
)
def test_every_loss_is_finite_in_every_form(form: EntireSpace, name: str, labels: list[list[float]]) -> None:
    losses = losses_of(CLICK, buy(form), default=name)
    logits = LOGITS[: len(labels), :, None].repeat(1, 1, losses.logit_columns).requires_grad_()
    found = losses(logits, a_batch(labels, KEEP[: len(labels)]))
    torch.stack(list(found.values())).sum().backward()
    assert all(bool(torch.isfinite(loss)) for loss in found.values())
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    assert ("buy" in found) == any(not np.isnan(b) and (c or form != "conditional") for c, b in labels)


@pytest.mark.parametrize("form", FORMS)
def test_only_a_product_teaches_the_clicks_tower(form: EntireSpace) -> None:
    logits = LOGITS[..., None].clone().requires_grad_()
    losses_of(CLICK, buy(form))(logits, a_batch(LABELS, KEEP))["buy"].backward()
    assert logits.grad is not None
    moved = logits.grad[..., 0] != 0
    assert moved[:, 0].tolist() == ([True] * 3 + [False] * 2 if form == "product" else [False] * 5)
    assert moved[:, 1].tolist() == [True, True, form != "conditional", False, False]


def test_a_chain_multiplies_down_to_the_first_and_is_sampled_through_it() -> None:
    """A product of a direct task of a click: the direct task's rate in the rows kept, times the last one's."""
    tasks = (CLICK, buy("direct"), buy("product", name="keep", given="buy"))
    batch = a_batch([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [0.5, 0.5, 0.5])
    logits = torch.tensor([[-1.0, -2.0, 0.3], [-0.5, -1.5, 0.1], [-2.0, -3.0, 2.0]])
    q, p, last = torch.sigmoid(logits).unbind(1)
    kept = p / (q + 0.5 * (1 - q)) * last
    expected = cross_entropy(kept, batch.labels[:, 2]).mean()
    torch.testing.assert_close(losses_of(*tasks)(logits[..., None], batch)["keep"], expected)
    bought = cross_entropy(p / (q + 0.5 * (1 - q)), batch.labels[:, 1]).mean()
    torch.testing.assert_close(losses_of(*tasks)(logits[..., None], batch)["buy"], bought)


@pytest.mark.parametrize("columns", [1, 2])
def test_what_was_not_seen_is_not_clicked(columns: int) -> None:
    """p(click) is p(seen) times the tower's, and sampled as such; among clicked rows nothing changes."""
    batch, seen = a_batch(LABELS, KEEP), torch.tensor([2.0, -1.0, 0.0, 3.0, 0.5])
    losses = losses_of(CLICK, buy("conditional"))
    logits = LOGITS[..., None] if columns == 1 else torch.stack([torch.zeros(5, 2), LOGITS], dim=-1)
    found = losses(logits, batch, seen)
    p = torch.sigmoid(LOGITS[:, 0]) * torch.sigmoid(seen)
    odds = p / (1 - p) / torch.tensor(KEEP)
    expected = cross_entropy(odds / (1 + odds), batch.labels[:, 0]).mean()
    torch.testing.assert_close(found["click"], expected)
    torch.testing.assert_close(found["buy"], losses(logits, batch)["buy"])


@pytest.mark.parametrize("form", ["product", "direct"])
def test_tasks_over_all_rows_need_to_be_seen(form: EntireSpace) -> None:
    """Without sampling: a product is of three probabilities, and a direct task's of two."""
    batch, seen = a_batch(LABELS[:3], [1.0, 1.0, 1.0]), torch.tensor([2.0, -1.0, 0.0])
    q, p = torch.sigmoid(LOGITS[:3]).unbind(1)
    own = torch.sigmoid(seen) * (p * q if form == "product" else p)
    expected = cross_entropy(own, batch.labels[:, 1]).mean()
    found = losses_of(CLICK, buy(form))(LOGITS[:3, :, None], batch, seen)
    torch.testing.assert_close(found["buy"], expected)
