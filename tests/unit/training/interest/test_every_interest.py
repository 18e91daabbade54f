"""What every interest module must do, whatever its method; a new file is tested because it exists."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.served_interest import read_served
from tests.unit.training.interest.histories import (
    ITEM,
    at,
    built,
    changed,
    close,
    history,
    item_vectors,
    one_visit,
    ragged,
)
from training.model import part_read
from training.modules.split import HistoryPart, RowLayout, ServedInterest
from training.plugins import load_plugin, plugin_names

NEEDED: dict[str, dict[str, Any]] = {"sim_hard": {"by": "category"}}
CUT: dict[str, list[dict[str, Any]]] = {
    "din": [{"last": 3}],
    "eta": [{"keep": 3, "bits": 8}],
    "sim_hard": [{"keep": 1, "crossed": ["age"], "mass": True}],
    "sim_soft": [{"keep": 3}],
    "twin": [{"keep": 3}],
    "twin_v2": [{"keep": 3}],
}
"""Options under which a module reads some of a history only."""
ALSO: dict[str, list[dict[str, Any]]] = {
    "din": [
        {"softmax": True, "hidden": [5, 3], "activation": "sigmoid"},
        {"crossed": ["age", "strength"]},
    ],
    "mean_pooling": [{"crossed": ["strength"]}],
    "sdim": [{"normalize": False, "crossed": []}],
    "sim_soft": [{"mean": True}],
}
NAMES = plugin_names("training.interest")


def made_with(options_of: dict[str, list[dict[str, Any]]]) -> list[Any]:
    return [
        pytest.param(name, {**NEEDED.get(name, {}), **options}, id=f"{name}-{options}")
        for name in NAMES
        for options in options_of.get(name, [])
    ]


WHOLE = made_with({name: [{}, *ALSO.get(name, [])] for name in NAMES})
MADE = WHOLE + made_with(CUT)
TARGETS = item_vectors(5, 8)


def read(made: nn.Module, part: HistoryPart) -> torch.Tensor:
    out: torch.Tensor = made(TARGETS, part, one_visit(5))
    assert out.shape == (5, made.out_width)
    return out


@pytest.mark.parametrize(("name", "options"), MADE)
def test_reads_a_part_that_there_is(name: str, options: dict[str, Any]) -> None:
    plugin = load_plugin("training.interest", name)
    assert part_read(plugin, plugin.Options.model_validate(options)) in {"clusters", "recents", "behaviors"}


@pytest.mark.parametrize("part", ["behaviors", "clusters"])
@pytest.mark.parametrize("name", ["sim_hard", "sim_soft", "eta", "sdim", "twin", "mean_pooling"])
def test_the_part_is_an_option(name: str, part: str) -> None:
    plugin = load_plugin("training.interest", name)
    options = plugin.Options.model_validate({**NEEDED.get(name, {}), "part": part})
    assert part_read(plugin, options) == part


@pytest.mark.parametrize(("name", "options"), MADE)
def test_an_empty_history_is_exactly_zero_with_finite_gradients(name: str, options: dict[str, Any]) -> None:
    made, part = built(name, **options), history(9)
    out = read(made, changed(part, size=torch.zeros_like(part.size)))
    assert not bool(out.any())
    if out.requires_grad:
        out.sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in made.parameters())


@pytest.mark.parametrize(("name", "options"), MADE)
def test_what_pads_a_history_does_not_matter(name: str, options: dict[str, Any]) -> None:
    made, part = built(name, **options), history(9)
    size = torch.where(torch.arange(9) < 5, part.size, 0.0)
    out = read(made, changed(part, size=size))
    other = changed(
        part,
        size=size,
        index=torch.where(torch.arange(9) < 5, part.index, 7),
        age=torch.where(torch.arange(9) < 5, part.age, 39),
        items=part.items * torch.where(torch.arange(9) < 5, 1.0, 1e3)[:, None],
    )
    close(read(made, other), out, atol=0)
    close(read(made, at(part, torch.arange(5))), out)


@pytest.mark.parametrize(("name", "options"), MADE)
def test_many_histories_are_read_each_by_itself(name: str, options: dict[str, Any]) -> None:
    made, random = built(name, **options), torch.Generator().manual_seed(6)
    lengths = [0, 70, 1, 33, 2, 100, 0, 31, 32, 64, 5, 5, 5, 99, 3, 0, 8, 12, 40, 7]
    rows_counts = [1, 2, 3, 1, 5, 2, 2, 1, 1, 4, 3, 2, 1, 1, 2, 3, 1, 1, 6, 2]
    part = ragged(lengths)
    visit = torch.arange(20).repeat_interleave(torch.tensor(rows_counts))
    slot = torch.cat([torch.arange(count) for count in rows_counts])
    targets = item_vectors(len(visit), 5)
    order = torch.randperm(len(visit), generator=random)
    out = made(targets[order], part, RowLayout(visit[order], slot[order], max(rows_counts)))
    for place, row in enumerate(order.tolist()):
        own = at(part, torch.arange(max(1, lengths[int(visit[row])])))
        own = HistoryPart(
            own.items, *(x[[int(visit[row])]] for x in (own.index, own.size, own.age, own.strength))
        )
        close(out[place], made(targets[[row]], own, one_visit(1))[0])


@pytest.mark.parametrize(("name", "options"), WHOLE)
def test_the_order_of_a_history_does_not_matter_where_all_of_it_is_read(
    name: str, options: dict[str, Any]
) -> None:
    made, part = built(name, **options), history(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    close(read(made, at(part, order)), read(made, part))


@pytest.mark.parametrize(("name", "options"), MADE)
def test_the_served_form_equals_the_trained_one(name: str, options: dict[str, Any]) -> None:
    made = built(name, **options)
    served: ServedInterest = made.served()  # type: ignore[operator]
    columns = served.item_columns(TARGETS)

    def as_served(part: HistoryPart) -> torch.Tensor:
        of_items = served.history_columns(part.items)
        return read_served(
            served, columns, of_items[part.index[0]], part.size[0], part.age[0], part.strength[0]
        )

    for part in (history(9), history(1), history(60)):
        close(as_served(part), read(made, part))
        padded = changed(part, size=part.size * (torch.arange(part.size.shape[1]) % 3 != 1))
        close(as_served(padded), read(made, padded))
        assert not bool(as_served(changed(part, size=torch.zeros_like(part.size))).any())


@pytest.mark.parametrize(("name", "options"), MADE)
def test_what_is_stored_of_an_item_does_not_depend_on_the_items_beside_it(
    name: str, options: dict[str, Any]
) -> None:
    served: Any = built(name, **options).served()  # type: ignore[operator]
    for columns_of in (served.item_columns, served.history_columns):
        together = columns_of(TARGETS)
        assert together.ndim == 2
        close(torch.cat([columns_of(one[None]) for one in TARGETS]), together)


@pytest.mark.parametrize(("name", "options"), MADE)
def test_a_saved_model_reads_as_before(name: str, options: dict[str, Any]) -> None:
    """Above all what is drawn at random: hashes are part of what is saved."""
    made = built(name, **options)
    torch.manual_seed(77)
    plugin = load_plugin("training.interest", name)
    other = plugin.build(plugin.Options.model_validate(options), item=ITEM).double().eval()
    other.load_state_dict(made.state_dict())
    close(read(other, history(30)), read(made, history(30)), atol=0)


@pytest.mark.parametrize(("name", "options"), MADE)
def test_training_reads_as_evaluation_does_and_a_model_can_be_copied_after(
    name: str, options: dict[str, Any]
) -> None:
    made = built(name, **options)
    before = read(made, history(30))
    made.train()
    close(read(made, history(30)), before, atol=0)
    if not hasattr(made, "auxiliary_loss"):
        copy.deepcopy(made)


@pytest.mark.parametrize("name", NAMES)
def test_options_that_there_are_not_are_refused(name: str) -> None:
    options = load_plugin("training.interest", name).Options
    with pytest.raises(ValueError, match="temperature"):
        options.model_validate({**NEEDED.get(name, {}), "temperature": 1})
