"""PEPNet: neutral gates, stopped gradients, one gate per task, and the served form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from training.backbones.pepnet import Options, PepNet, build
from training.errors import ConfigError
from training.modules.split import fold_logit_columns


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def pepnet(
    *,
    gate_input: bool = False,
    logit_columns: int = 2,
    hidden: tuple[int, ...] = (6, 4),
    at_start: bool = False,
    **options: tuple[str, ...],
) -> PepNet:
    torch.manual_seed(1)
    chosen = Options(
        hidden=hidden, gate_hidden=5, tower_gate_hidden=4, domain_width=2, gate_input=gate_input, **options
    )
    made = build(chosen, widths=widths(logit_columns=logit_columns))
    return made.double() if at_start else stirred(made)  # type: ignore[return-value]


def tower(made: PepNet, task: int, h: Tensor, gates: list[Tensor]) -> Tensor:
    """Return one task's logit columns of one row, h (d,), each layer's gate (width,) given."""
    if made.gate_input:
        h = h * gates[0]
        gates = gates[1:]
    for weight, bias, gate in zip(made.weights, made.biases, gates, strict=True):
        h = (h @ weight[task] + bias[task, 0]).clamp(min=0) * gate
    return h @ made.last_weight[task] + made.last_bias[task, 0]


@pytest.mark.parametrize("gate_input", [False, True])
def test_starts_as_the_network_without_gates(gate_input: bool) -> None:
    made = pepnet(gate_input=gate_input, at_start=True)
    user, item, candidate, interest, domain = inputs()
    out = made(user, item, candidate, interest, domain)
    z = torch.cat([user, item, candidate, interest], dim=1)
    ones = [torch.ones((), dtype=torch.float64)] * (2 + gate_input)
    for row in range(12):
        for task in range(2):
            close(out[row, task], tower(made, task, z[row], ones))


@pytest.mark.parametrize("gate_input", [False, True])
def test_equals_the_equations_row_by_row(gate_input: bool) -> None:
    made = pepnet(gate_input=gate_input)
    user, item, candidate, interest, domain = inputs()
    out = made(user, item, candidate, interest, domain)
    assert out.shape == (12, 2, 2)
    for row in range(12):
        e = torch.cat([user[row], item[row], candidate[row]])
        gate_in = torch.cat([made.domain.weight[domain[row]], candidate[row], e])
        h0 = torch.cat([made.domain_gate(gate_in) * e, interest[row]])
        prior = torch.cat([user[row, 0:3], item[row, 0:3], h0])  # user_id and item_id are 3 wide each
        for task in range(2):
            gates = []
            for gate in made.tower_gates:
                both = gate(prior)
                half = len(both) // 2
                gates.append(both[task * half : (task + 1) * half])
            close(out[row, task], tower(made, task, h0, gates))


def test_gates_are_split_by_task() -> None:
    made = pepnet()
    before = made(*inputs())
    with torch.no_grad():  # the last layer's gate: its second half is the second task's
        made.tower_gates[-1].last.bias[4:] += 1.0
    after = made(*inputs())
    close(after[:, 0], before[:, 0])
    moved = ((after - before)[:, 1].abs() > 1e-6).any(1)
    assert int(moved.sum()) > 6  # all but rows whose last layer is dead: 0 times any gate


@pytest.mark.parametrize("gate_input", [False, True])
def test_no_gradient_reaches_item_or_user_embeddings_through_a_gate(gate_input: bool) -> None:
    """Compare the gradient with a difference quotient in which every gate is held where it was.

    Prior features do learn through PPNet's gates, so this model has priors one column wide beside the rest.
    """
    made = pepnet(gate_input=gate_input, prior_user_features=("country",), prior_item_features=("category",))
    user, item, candidate, interest, domain = inputs(3)
    user.requires_grad_()
    item.requires_grad_()
    interest.requires_grad_()
    held = [gate.detach() for gate in _gates(made, user, item, candidate, interest, domain)]
    made(user, item, candidate, interest, domain).sum().backward()
    step = 1e-6
    for x, free in ((user, range(3)), (item, range(3)), (interest, range(3))):
        assert x.grad is not None
        for column in free:  # not in the priors
            moved = []
            for sign in (step, -step):
                other = x.detach().clone()
                other[0, column] += sign
                parts = [other if part is x else part.detach() for part in (user, item, interest)]
                moved.append(_with_gates(made, parts[0], parts[1], candidate, parts[2], held).sum())
            slope = (moved[0] - moved[1]) / (2 * step)
            close(x.grad[0, column], slope.detach(), atol=1e-7)


def _gates(
    made: PepNet, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
) -> list[Tensor]:
    e = torch.cat([user, item, candidate], dim=-1)
    first = made.domain_gate(torch.cat([made.domain(domain), candidate, e], dim=-1))
    h0 = torch.cat([first * e, interest], dim=-1)
    prior = torch.cat([user[:, made.prior_user], item[:, made.prior_item], h0], dim=-1)
    return [first, *(gate(prior) for gate in made.tower_gates)]


def _with_gates(
    made: PepNet, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, gates: list[Tensor]
) -> Tensor:
    """Return logits with gates given: EPNet's (B, d), then PPNet's (B, T * width)."""
    h0 = torch.cat([gates[0] * torch.cat([user, item, candidate], dim=-1), interest], dim=-1)
    rows = []
    for row in range(len(h0)):
        for task in range(2):
            mine = [gate[row].chunk(2)[task] for gate in gates[1:]]
            rows.append(tower(made, task, h0[row], mine))
    return torch.stack(rows)


def test_domain_placement_and_priors_do_learn_through_the_gates() -> None:
    made = pepnet()
    user, item, candidate, interest, domain = inputs(3)
    for x in (user, item, candidate):
        x.requires_grad_()
    gates = _gates(made, user, item, candidate, interest, domain)
    held = [gate.detach() for gate in gates]
    full = torch.autograd.grad(made(user, item, candidate, interest, domain).sum(), (user, item, candidate))
    ungated = torch.autograd.grad(
        _with_gates(made, user, item, candidate, interest, held).sum(), (user, item, candidate)
    )
    difference = [(a - b).abs() > 1e-9 for a, b in zip(full, ungated, strict=True)]
    assert bool(difference[0][:, :3].all()) and not bool(difference[0][:, 3:].any())  # user_id alone
    assert bool(difference[1][:, :3].all()) and not bool(difference[1][:, 3:].any())  # item_id alone
    assert bool(difference[2].all())  # the placement
    made(user, item, candidate, interest, domain).sum().backward()
    assert made.domain.weight.grad is not None and bool((made.domain.weight.grad != 0).any(1).all())


def test_the_domain_alone_changes_the_output() -> None:
    made = pepnet()
    user, item, candidate, interest, domain = inputs()
    before = made(user, item, candidate, interest, domain)
    after = made(user, item, candidate, interest, (domain + 1) % 3)
    assert bool(((after - before).abs() > 1e-9).flatten(1).any(1).all())


def test_scores_do_not_depend_on_the_batch() -> None:
    made, x = pepnet(gate_input=True).eval(), inputs()
    out = made(*x)
    for k in (1, 2, 5):
        close(made(*(part[:k] for part in x)), out[:k])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    close(made(*(part[order] for part in x)), out[order])


@pytest.mark.parametrize("gate_input", [False, True])
@pytest.mark.parametrize("logit_columns", [1, 2])
@pytest.mark.parametrize("priors", [(), ("user_id", "country")])
def test_served_form_equals_the_trained_one(
    gate_input: bool, logit_columns: int, priors: tuple[str, ...]
) -> None:
    made = pepnet(gate_input=gate_input, logit_columns=logit_columns, prior_user_features=priors).eval()
    user, item, candidate, interest, _ = inputs()
    served = made.served()
    shared = served.item_columns(item)
    for domain in range(3):
        out = served(user[:1], shared, item[:, :0], candidate, interest, torch.tensor([domain]))
        expected = made(user[:1].expand(12, -1), item, candidate, interest, torch.full((12,), domain))
        assert out.shape == (12, 2)
        close(out, fold_logit_columns(expected))


def test_a_prior_feature_that_the_data_lack_is_named() -> None:
    with pytest.raises(ConfigError, match="shoe_size"):
        pepnet(prior_user_features=("shoe_size",))
