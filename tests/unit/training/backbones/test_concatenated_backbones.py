"""What the backbones that read all inputs next to each other have in common: batches, domains, and served forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from tests.unit.training.backbones.plain import GROUPS
from training.modules.split import fold_logit_columns
from training.plugins import load_plugin

GROUPED: dict[str, list[dict[str, Any]]] = {
    "shared_bottom": [{}, {"bottom_hidden": (6, 5), "tower_hidden": ()}],
    "mmoe": [{}, {"expert_hidden": (6, 5), "tower_hidden": (4, 3)}],
    "ple": [
        {"levels": 1, "expert_hidden": (6, 5)},
        {"levels": 2},
        {"levels": 3, "specific_experts": 2, "shared_experts": 2, "expert_hidden": (6, 5)},
        {"levels": 1, "shared_experts": 0, "specific_experts": 2},
    ],
}
CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {}),
    ("mlp", {"hidden": (6,), "domain_width": 0}),
    *(
        (name, {"groups": groups, **options})
        for name, every in GROUPED.items()
        for options in every
        for groups in GROUPS
    ),
]


def build(name: str, options: dict[str, Any], *, logit_columns: int = 2, domains_count: int = 3) -> nn.Module:
    torch.manual_seed(1)
    plugin = load_plugin("training.backbones", name)
    chosen = plugin.Options.model_validate(options)
    sizes = replace(widths(logit_columns=logit_columns), domains_count=domains_count)
    return stirred(plugin.build(chosen, widths=sizes), std=0.1)


def own_parameters(made: nn.Module) -> dict[str, Tensor]:
    """Return those whose first axis is the domain: towers, gates and experts that belong to one, and embeddings."""
    return {
        name: parameter
        for name, parameter in made.named_parameters()
        if name.startswith(("towers.", "gates."))
        or ".specific." in name
        or ".gates." in name
        or name == "inputs.domain.weight"
    }


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_scores_do_not_depend_on_the_batch(name: str, options: dict[str, Any]) -> None:
    made, x = build(name, options), inputs()
    out = made(*x)
    assert not bool(torch.isnan(out).any())
    for k in (1, 2, 5, 8):
        torch.testing.assert_close(made(*(part[:k] for part in x)), out[:k], atol=1e-12, rtol=0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made(*(part[order] for part in x)), out[order], atol=1e-12, rtol=0)
    assert torch.equal(made.eval()(*x), made.train()(*x))


@pytest.mark.parametrize(("name", "options"), CHOICES)
@pytest.mark.parametrize("domains", [[0, 0, 0, 0], [0, 0, 0, 1], [2], [0, 1, 2], []])
def test_domains_of_no_or_one_row_train_finitely(
    name: str, options: dict[str, Any], domains: list[int]
) -> None:
    made = build(name, options)
    user, item, candidate, interest, _ = inputs(len(domains))
    out = made(user, item, candidate, interest, torch.tensor(domains, dtype=torch.int64))
    assert out.shape == (len(domains), 2, 2)
    out.square().sum().backward()
    for parameter in made.parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for n, o in CHOICES if o.get("groups") not in (None, "tasks")]
)
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_towers_of_a_domain_absent_from_the_batch_learn_nothing(
    name: str, options: dict[str, Any], absent: int
) -> None:
    """Gates and experts too, but for PLE's experts below the last level: its shared gate reads them for all rows."""
    made, x = build(name, options), inputs(24)
    present = x[-1] != absent
    made(*(part[present] for part in x)).square().sum().backward()
    last = f"levels.{options.get('levels', 2) - 1}."
    checked = 0
    for key, parameter in own_parameters(made).items():
        assert parameter.grad is not None
        for m in range(3):
            if m != absent:
                assert bool(parameter.grad[m].any()), key
            elif key.startswith(("towers.", "gates.", "inputs.", last)):
                assert not bool(parameter.grad[m].any()), key
                checked += 1
    assert checked >= 3


@pytest.mark.parametrize(("name", "options"), CHOICES)
@pytest.mark.parametrize("logit_columns", [1, 2])
def test_served_form_equals_the_trained_one(name: str, options: dict[str, Any], logit_columns: int) -> None:
    made = build(name, options, logit_columns=logit_columns)
    user, item, candidate, interest, _ = inputs()
    served: Any = made.served()
    shared, by_domain = served.item_columns(item), served.item_columns_by_domain(item).expand(3, -1, -1)
    for domain in range(3):
        for rows in (12, 1, 0):
            out = served(
                user[:1],
                shared[:rows],
                by_domain[domain, :rows],
                candidate[:rows],
                interest[:rows],
                torch.tensor([domain]),
            )
            alike = torch.full((rows,), domain)
            sides = (user[:1].expand(rows, -1), item[:rows], candidate[:rows], interest[:rows], alike)
            assert out.shape == (rows, 2)
            torch.testing.assert_close(out, fold_logit_columns(made(*sides)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["mlp", "shared_bottom", "mmoe", "ple"])
def test_one_domain_alone_trains_and_is_served(name: str) -> None:
    made = build(name, {}, domains_count=1)
    user, item, candidate, interest, _ = inputs()
    domain = torch.zeros(12, dtype=torch.int64)
    served: Any = made.served()
    by_domain = served.item_columns_by_domain(item)[0]
    out = served(user[:1], served.item_columns(item), by_domain, candidate, interest, domain[:1])
    expected = fold_logit_columns(made(user[:1].expand(12, -1), item, candidate, interest, domain))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "options"), [("mmoe", {}), ("ple", {"levels": 1}), ("ple", {"levels": 2})])
def test_the_training_graph_exports_for_any_rows(name: str, options: dict[str, Any]) -> None:
    made, x = build(name, options).eval(), inputs(5)
    rows = torch.export.Dim("rows")
    exported = torch.export.export(made, x, dynamic_shapes=[{0: rows}] * 5).module()
    other = inputs(9, seed=4)
    torch.testing.assert_close(exported(*other), made(*other), atol=1e-12, rtol=0)
