"""SIM's hard search against a loop over behaviors, and what it does where nothing matches."""

from __future__ import annotations

import pytest
import torch

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
from tests.unit.training.interest.slow_attention import attention_over
from training.errors import ConfigError
from training.interest import sim_hard

TARGETS = item_vectors(6, 8)
CATEGORY = ITEM.slices["category"]


@pytest.mark.parametrize("keep", [None, 1, 2, 5])
@pytest.mark.parametrize("crossed", [[], ["age"], ["age", "strength"]])
def test_attends_to_the_newest_of_the_targets_category(keep: int | None, crossed: list[str]) -> None:
    made, part = built("sim_hard", by="category", keep=keep, crossed=crossed, mass=True), history(23)
    out = made(TARGETS, part, one_visit(6))
    counts = set()
    for row, target in enumerate(TARGETS):
        same = [i for i in range(23) if bool((part.items[i, CATEGORY] == target[CATEGORY]).all())]
        counts.add(len(same))
        kept = same if keep is None else same[-keep:]
        close(out[row], attention_over(made, target.numpy(), part, kept))  # type: ignore[arg-type]
    assert min(counts) >= 1 and len(counts) > 1


def test_a_category_that_the_history_lacks_gives_the_vector_of_an_empty_history() -> None:
    made, part = built("sim_hard", by="category", mass=True), history(23)
    unknown = TARGETS.clone()
    unknown[:, CATEGORY] += torch.randn(6, 2, generator=torch.Generator().manual_seed(1)).double()
    assert not bool(made(unknown, part, one_visit(6)).any())


def test_padding_of_the_targets_category_is_not_found() -> None:
    made, part = built("sim_hard", by="category", mass=True), history(4)
    target = part.items[[3]]
    others = torch.nonzero((part.items[:3, CATEGORY] != target[:, CATEGORY]).all(1))[:, 0]
    part = at(part, torch.cat([others, torch.tensor([3])]))
    padded = changed(part, size=torch.where(torch.arange(len(others) + 1) < len(others), part.size, 0.0))
    assert not bool(made(target, padded, one_visit(1)).any())
    assert bool(made(target, part, one_visit(1)).any())


def test_other_features_and_ages_do_not_decide_what_is_found() -> None:
    search = sim_hard.CategorySearch(CATEGORY, None)
    items = item_vectors(50, 4)
    moved = items.clone()
    moved[:, ITEM.slices["item_id"]] = 0.0
    assert torch.equal(search.of_items(items), search.of_items(moved))


def test_a_feature_that_items_lack_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"sim_hard\.by: 'brand' is none .* item_id, category"):
        sim_hard.build(sim_hard.Options(by="brand"), item=ITEM)
    with pytest.raises(ValueError, match="by"):
        sim_hard.Options.model_validate({})
