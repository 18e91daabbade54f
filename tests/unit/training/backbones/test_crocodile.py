"""Crocodile: the gate per dimension, an expert per set, what is decorrelated, and the served form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.unit.training.backbones.inputs import stirred
from tests.unit.training.backbones.inputs import widths as any_widths
from training.backbones.crocodile import Crocodile, Options, build, mix_by_dimension
from training.data.batch import Batch
from training.errors import ConfigError
from training.modules.cross_covariance import cross_covariance_loss
from training.modules.split import BackboneWidths, RowLayout, fold_logit_columns

SIDES = (6, 6, 2, 4)
"""user, item, candidate, interest: what 2 sets divide."""


def widths(*, logit_columns: int = 2) -> BackboneWidths:
    user, item, candidate, interest = SIDES
    return replace(
        any_widths(logit_columns=logit_columns),
        user=user,
        item=item,
        candidate=candidate,
        interest=interest,
        user_slices={"user_id": slice(0, 4), "country": slice(4, 6)},
        item_slices={"item_id": slice(0, 4), "category": slice(4, 6)},
    )


def inputs(rows: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return user, item, candidate, interest in float64, and domain, which takes turns."""
    random = torch.Generator().manual_seed(seed)
    user, item, candidate, interest = (
        torch.randn(rows, width, generator=random, dtype=torch.float64) for width in SIDES
    )
    return user, item, candidate, interest, torch.arange(rows) % 3


def crocodile(*, logit_columns: int = 2, seed: int = 1, **options: Any) -> Crocodile:
    torch.manual_seed(seed)
    chosen = Options.model_validate(
        {"sets": 2, "hidden": (6, 5), "tower_hidden": (3,), "domain_width": 2, **options}
    )
    made = stirred(build(chosen, widths=widths(logit_columns=logit_columns)), std=0.3)
    assert isinstance(made, Crocodile)
    return made


def batch_of(rows: int) -> Batch:
    """Return a batch that says no more than how many rows it has: the loss reads none of it."""
    none = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        item=none,
        candidate_ids=none[:, None],
        request=none,
        user_ids=none[:, None],
        domain=none,
        layout=RowLayout(none, none, rows),
        parts={},
        labels=torch.zeros(rows, 2),
        offset=torch.zeros(rows),
    )


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def relu_layers(layers: list[tuple[Tensor, Tensor]], h: Tensor, *, last_linear: bool) -> Tensor:
    """Run one row h (a,) through layers of one network, weight (a, b) and bias (1, b) each."""
    for number, (weight, bias) in enumerate(layers, start=1):
        h = h @ weight + bias[0]
        h = h if last_linear and number == len(layers) else h.clamp(min=0)
    return h


def expert(made: Crocodile, m: int, h: Tensor) -> Tensor:
    layers = [(weight[m], bias[m]) for weight, bias in made.experts.layers()]
    return relu_layers(layers, h, last_linear=made.options.last_linear)


def tower(made: Crocodile, domain: int, h: Tensor) -> Tensor:
    layers = [(weight[domain, 0], bias[domain, 0]) for weight, bias in made.towers.stacked.layers()]
    return relu_layers(layers, h, last_linear=True)


def outputs_of(made: Crocodile, x: tuple[Tensor, ...]) -> Tensor:
    """Return the experts' outputs (M, B, d)."""
    return made.experts(made.sets.inputs(*x[:4]))  # type: ignore[no-any-return]


GOLDEN_PRIOR = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
GOLDEN_GATE = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, -0.1, 0.2, -0.2]], dtype=torch.float64)


def test_golden_gate() -> None:
    outputs = torch.tensor([[[1.0, 2.0]], [[3.0, -1.0]]], dtype=torch.float64)
    logits = (GOLDEN_PRIOR @ GOLDEN_GATE).view(2, 2)  # a row an expert
    close(logits, torch.tensor([[0.1, 0.3], [0.1, 0.6]], dtype=torch.float64))
    mixed = mix_by_dimension(GOLDEN_PRIOR @ GOLDEN_GATE, outputs)
    close(mixed, torch.tensor([[2.0, 0.27667245]], dtype=torch.float64), atol=1e-8)
    first = torch.tensor(
        [[[1.0, 1.0]], [[0.0, 0.0]]], dtype=torch.float64
    )  # shows the first expert's weights
    weights = mix_by_dimension(GOLDEN_PRIOR @ GOLDEN_GATE, first)
    close(weights, torch.tensor([[0.5, 0.42555748]], dtype=torch.float64), atol=1e-8)


def test_gate_weights_of_a_dimension_sum_to_one_over_the_experts() -> None:
    random = torch.Generator().manual_seed(0)
    gate = 5 * torch.randn(7, 3 * 4, generator=random, dtype=torch.float64)
    same = torch.randn(7, 4, generator=random, dtype=torch.float64)
    close(mix_by_dimension(gate, same.expand(3, -1, -1)), same)  # what all experts say is what comes out


@pytest.mark.parametrize("gate", ["shared", "per_domain"])
@pytest.mark.parametrize("interest", ["whole", "split"])
@pytest.mark.parametrize("last_linear", [False, True])
@pytest.mark.parametrize("prior_width", [0, 2])
def test_equals_the_equations_row_by_row(
    gate: str, interest: str, last_linear: bool, prior_width: int
) -> None:
    made = crocodile(gate=gate, interest=interest, last_linear=last_linear, prior_width=prior_width)
    user, item, candidate, interests, domain = inputs()
    out = made(user, item, candidate, interests, domain)
    assert out.shape == (12, 2, 2)
    for row in range(12):
        p = int(domain[row])
        outputs = []
        for m in range(2):
            ids = slice(m * (4 - prior_width) // 2, (m + 1) * (4 - prior_width) // 2)
            read = interests[row] if interest == "whole" else interests[row, 2 * m : 2 * m + 2]
            e = (user[row, ids], user[row, 4 + m : 5 + m], item[row, ids], item[row, 4 + m : 5 + m])
            outputs.append(expert(made, m, torch.cat([*e, candidate[row, m : m + 1], read])))
        own = slice(4 - prior_width if prior_width else 0, 4)
        r = torch.cat([made.domain.weight[p], user[row, own], item[row, own]])
        logits = r @ made.gate_weight[p if gate == "per_domain" else 0]
        mixed = []
        for i in range(5):
            weights = [float(torch.exp(logits[m * 5 + i].detach())) for m in range(2)]
            mixed.append(
                sum(w * float(o[i].detach()) for w, o in zip(weights, outputs, strict=True)) / sum(weights)
            )
        close(out[row].flatten(), tower(made, p, torch.tensor(mixed, dtype=torch.float64)))


def test_one_set_is_one_shared_expert_and_towers() -> None:
    made = crocodile(sets=1)
    user, item, candidate, interest, domain = inputs()
    out = made(user, item, candidate, interest, domain)
    for row in range(12):
        shared = expert(made, 0, torch.cat([user[row], item[row], candidate[row], interest[row]]))
        close(out[row].flatten(), tower(made, int(domain[row]), shared))
    assert made.auxiliary_loss(batch_of(12)).item() == 0.0


def test_a_domain_changes_its_gate_and_its_tower() -> None:
    made = crocodile()
    *sides, domain = inputs()
    with torch.no_grad():
        for weight, bias in made.towers.stacked.layers():  # one tower for all: what is left is the gate
            weight.copy_(weight[:1].expand_as(weight))
            bias.copy_(bias[:1].expand_as(bias))
    moved = (made(*sides, domain) - made(*sides, (domain + 1) % 3)).abs().flatten(1).amax(1)
    assert int((moved > 1e-9).sum()) > 6  # all but rows whose tower is dead
    with torch.no_grad():
        made.domain.weight.zero_()
    close(made(*sides, domain), made(*sides, (domain + 1) % 3))


@pytest.mark.parametrize("prior_width", [0, 2])
def test_columns_of_the_gates_own_reach_no_expert(prior_width: int) -> None:
    made = crocodile(prior_width=prior_width)
    x = inputs()
    before = outputs_of(made, x)
    with torch.no_grad():
        x[0][:, 2:4] += 1.0
        x[1][:, 2:4] += 1.0
    assert torch.equal(outputs_of(made, x), before) == (prior_width == 2)


def loss_and_gradients(made: Crocodile, x: tuple[Tensor, ...]) -> Tensor:
    """Return what training minimizes; the gradients are in the parameters and in x."""
    for side in x[:4]:
        side.requires_grad_()
    loss = made.train()(*x).square().mean() + made.auxiliary_loss(batch_of(len(x[0])))
    loss.backward()
    return loss


@pytest.mark.parametrize("gate", ["shared", "per_domain"])
@pytest.mark.parametrize("sets", [1, 2])
def test_gradients_reach_every_sets_embeddings_and_every_parameter(gate: str, sets: int) -> None:
    made, x = crocodile(gate=gate, sets=sets), inputs()
    loss_and_gradients(made, x)
    for side in x[:4]:
        assert side.grad is not None and bool((side.grad != 0).any(0).all())  # every column of every set
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
        learns = sets == 2 or name not in ("gate_weight", "domain.weight")  # a softmax over one is 1
        assert bool(parameter.grad.any()) == learns


def test_the_covariance_loss_teaches_experts_and_embeddings_not_gates_and_towers() -> None:
    made, x = crocodile(alpha=1.0), inputs()
    for side in x[:4]:
        side.requires_grad_()
    made.train()(*x)
    made.auxiliary_loss(batch_of(12)).backward()
    taught = {name.split(".")[0] for name, p in made.named_parameters() if p.grad is not None}
    assert taught == {"experts"}
    assert all(side.grad is not None and bool(side.grad.any()) for side in x[:4])


@pytest.mark.parametrize("absent", [0, 1, 2])
@pytest.mark.parametrize("gate", ["shared", "per_domain"])
def test_a_domain_absent_from_the_batch_learns_nothing(absent: int, gate: str) -> None:
    made = crocodile(gate=gate)
    *x, domain = inputs()
    rows = domain != absent
    loss_and_gradients(made, (*(part[rows] for part in x), domain[rows]))
    own = [p for pair in made.towers.stacked.layers() for p in pair] + [made.domain.weight]
    own += [made.gate_weight] if gate == "per_domain" else []
    for parameter in own:
        for p in range(3):
            assert parameter.grad is not None and bool(parameter.grad[p].any()) == (p != absent)


@pytest.mark.parametrize("domains", [[0, 0, 0, 0], [0, 0, 0, 1], [2], [0, 1, 2], []])
@pytest.mark.parametrize("gate", ["shared", "per_domain"])
def test_domains_of_no_or_one_row_train_finitely(domains: list[int], gate: str) -> None:
    made = crocodile(gate=gate).train()
    *x, _ = inputs(len(domains))
    out = made(*x, torch.tensor(domains, dtype=torch.int64))
    (out.square().sum() + made.auxiliary_loss(batch_of(len(domains)))).backward()
    assert out.shape == (len(domains), 2, 2)
    for parameter in made.parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("pairs", ["p_gt_q", "p_ge_q"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_is_alpha_times_the_covariance_of_the_last_forward(pairs: Any, reduction: Any) -> None:
    made = crocodile(alpha=0.5, rows=None, pairs=pairs, reduction=reduction).train()
    made(*inputs(40, seed=3))
    x = inputs(40)
    made(*x)
    expected = 0.5 * cross_covariance_loss(outputs_of(made, x), pairs=pairs, reduction=reduction)
    close(made.auxiliary_loss(batch_of(40)), expected)


def test_a_draw_of_rows_is_of_different_rows_of_the_batch() -> None:
    made, x = crocodile(alpha=1.0, rows=3).train(), inputs(4)
    outputs = outputs_of(made, x)
    subsets = [
        cross_covariance_loss(outputs[:, [b for b in range(4) if b != left]]).item() for left in range(4)
    ]
    found = set()
    for seed in range(20):
        made(*x)
        torch.manual_seed(seed)
        loss = made.auxiliary_loss(batch_of(4)).item()
        found |= {i for i, subset in enumerate(subsets) if abs(loss - subset) < 1e-9}
        assert min(abs(loss - subset) for subset in subsets) < 1e-9
    assert found == {0, 1, 2, 3}


@pytest.mark.parametrize("rows", [12, 32, None])
def test_a_batch_no_larger_than_the_draw_is_read_whole(rows: int | None) -> None:
    made, x = crocodile(alpha=1.0, rows=rows).train(), inputs()
    made(*x)
    close(made.auxiliary_loss(batch_of(12)), cross_covariance_loss(outputs_of(made, x)))


def test_the_loss_is_there_once_after_a_forward_in_training() -> None:
    made, x = crocodile(), inputs()
    made.train()(*x)
    made.auxiliary_loss(batch_of(12))
    with pytest.raises(RuntimeError, match="after a forward in training"):
        made.auxiliary_loss(batch_of(12))
    made.train()(*x)
    made.eval()(*x)
    with pytest.raises(RuntimeError):
        made.auxiliary_loss(batch_of(12))


def test_training_with_the_loss_decorrelates_the_experts() -> None:
    """Both fit the same targets for as long; one is told nothing of its experts."""
    x, targets = (
        inputs(64),
        torch.randn(64, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)),
    )
    left: dict[float, float] = {}
    for alpha in (0.0, 1.0):
        made = crocodile(alpha=alpha, rows=None, reduction="mean", last_linear=True).train()
        optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (made(*x) - targets).square().mean() + made.auxiliary_loss(batch_of(64))
            loss.backward()
            optimizer.step()
        left[alpha] = cross_covariance_loss(outputs_of(made, x), reduction="mean").item()
    assert left[1.0] < 0.5 * left[0.0]


@pytest.mark.parametrize("gate", ["shared", "per_domain"])
def test_scores_do_not_depend_on_the_batch(gate: str) -> None:
    made, x = crocodile(gate=gate).eval(), inputs()
    out = made(*x)
    for k in (1, 2, 8):
        close(made(*(part[:k] for part in x)), out[:k])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    close(made(*(part[order] for part in x)), out[order])
    close(made.train()(*x), out)  # nothing is drawn and no statistics are kept on the way to a score


@pytest.mark.parametrize("gate", ["shared", "per_domain"])
@pytest.mark.parametrize("interest", ["whole", "split"])
@pytest.mark.parametrize("logit_columns", [1, 2])
@pytest.mark.parametrize("hidden", [(5,), (6, 5), (6, 4, 5)])
@pytest.mark.parametrize("prior", [{}, {"prior_width": 2}, {"prior_item_features": ()}])
def test_served_form_equals_the_trained_one(
    gate: str, interest: str, logit_columns: int, hidden: tuple[int, ...], prior: dict[str, Any]
) -> None:
    made = crocodile(
        gate=gate,
        interest=interest,
        logit_columns=logit_columns,
        hidden=hidden,
        last_linear=hidden == (5,),
        tower_hidden=() if hidden == (6, 5) else (3,),
        **prior,
    ).eval()
    user, item, candidate, interests, _ = inputs()
    served = made.served()
    shared, by_domain = served.item_columns(item), served.item_columns_by_domain(item)
    assert shared.shape[1] == 2 * hidden[0] + (2 * 5 if gate == "shared" else 0)
    for domain in range(3):
        own = by_domain[domain if gate == "per_domain" else 0]
        out = served(user[:1], shared, own, candidate, interests, torch.tensor([domain]))
        expected = made(user[:1].expand(12, -1), item, candidate, interests, torch.full((12,), domain))
        assert out.shape == (12, 2)
        close(out, fold_logit_columns(expected))


def test_what_is_stored_per_item_and_domain_grows_with_the_domains_only_for_gates_of_their_own() -> None:
    item = inputs()[1]
    assert crocodile().served().item_columns_by_domain(item).shape == (1, 12, 0)
    assert crocodile(gate="per_domain").served().item_columns_by_domain(item).shape == (3, 12, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": 3}, "'user_id' is 4 wide, which 3 embedding sets"),
        ({"prior_width": 1}, "without the 1"),
        ({"prior_user_features": ("shoe_size",)}, "shoe_size"),
        ({"prior_item_features": ("shoe_size",)}, "shoe_size"),
    ],
)
def test_features_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        crocodile(**options)


@pytest.mark.parametrize(
    "wrong", [{"sets": 0}, {"hidden": ()}, {"alpha": -1}, {"rows": 1}, {"gate": "both"}, {"margin": 1}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Options.model_validate(wrong)
