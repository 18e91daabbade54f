"""STAR: golden vectors, what each domain's own parameters learn from, and independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from training.backbones.star import Options, Star, StarLinear, build
from training.modules.split import BackboneWidths, fold_logit_columns


def close(a: Tensor, b: object, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), atol=atol, rtol=0)


def star(*, logit_columns: int = 2, hidden: tuple[int, ...] = (6, 4)) -> Star:
    torch.manual_seed(1)
    options = Options(hidden=hidden, auxiliary_width=4, domain_width=2)
    made = stirred(build(options, widths=widths(logit_columns=logit_columns)))
    assert isinstance(made, Star)
    return made


def golden() -> Star:
    """Return a STAR whose first layer and normalization of domain 1 are those worked out by hand; 1 item column."""
    made = build(
        Options(hidden=(2,), auxiliary_width=1, domain_width=1),
        widths=BackboneWidths(
            user=1,
            item=1,
            candidate=1,
            interest=0,
            user_slices={},
            item_slices={},
            candidate_slices={},
            domains_count=2,
            tasks_count=1,
            logit_columns=1,
        ),
    ).double()
    w = torch.sin(torch.arange(1, 7, dtype=torch.float64)).reshape(3, 2)
    first, norm = made.layers[0], made.norm
    with torch.no_grad():
        first.weight.copy_(w)
        first.domain_weight[1] = 1 + 0.1 * w
        first.bias.copy_(torch.tensor([0.05, -0.05]))
        first.domain_bias[1] = torch.tensor([0.1, 0.2])
        norm.gamma.copy_(torch.tensor([1.0, 1.1, 0.9]))
        norm.domain_gamma[1] = torch.tensor([1.2, 1.0, 0.8])
        norm.beta.copy_(torch.tensor([0.0, 0.1, -0.1]))
        norm.domain_beta[1] = torch.tensor([0.2, 0.0, 0.1])
        norm.running_mean[1] = torch.tensor([0.1, -0.2, 0.3])
        norm.running_var[1] = torch.tensor([0.5, 1.0, 2.0])
    return made.eval()


GOLDEN_X = torch.sin(torch.arange(1, 7, dtype=torch.float64)).reshape(2, 3)
W_EFF = [[1.54817218, 1.68342838], [0.15742186, -0.7694764], [-0.44138832, -0.13827997]]
B_EFF = [0.35585046, -0.00231095]
PRE_ACTIVATION = [[1.739447, 0.69504821], [-0.84343501, -0.49982659]]


def test_golden_pre_activation() -> None:
    made = golden()
    z = made.norm(GOLDEN_X, torch.tensor([1, 1]))
    close(made.layers[0](z, 1), PRE_ACTIVATION, atol=1e-6)


def test_golden_fold_in_the_served_form() -> None:
    served = golden().served()
    first = served.first
    close(torch.cat([first.user_weight[1], first.item_weight[1], first.joint_weight[1]]), W_EFF, atol=1e-6)
    close(first.bias[1], B_EFF, atol=1e-6)
    by_domain = served.item_columns_by_domain(GOLDEN_X[:, 1:2])
    assert by_domain.shape == (2, 2, 2)
    close(by_domain[1], GOLDEN_X[:, 1:2] * torch.tensor([W_EFF[1]]), atol=1e-6)


@pytest.mark.parametrize("domain", [0, 1, 2])
def test_a_star_layer_multiplies_the_weights_and_adds_the_biases(domain: int) -> None:
    layer = stirred(StarLinear(3, 2, 3))
    assert isinstance(layer, StarLinear)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w, own = layer.weight.detach().numpy(), layer.domain_weight.detach().numpy()[domain]
    b, own_b = layer.bias.detach().numpy(), layer.domain_bias.detach().numpy()[domain]
    expected = np.array(
        [
            [sum(row[i] * w[i, j] * own[i, j] for i in range(3)) + b[j] + own_b[j] for j in range(2)]
            for row in x.numpy()
        ]
    )
    close(layer(x, domain), expected)
    folded_w, folded_b = layer.folded()
    close(x @ folded_w[domain] + folded_b[domain], expected)


def test_starts_as_one_shared_network() -> None:
    layer = StarLinear(3, 2, 3)
    x = torch.randn(5, 3)
    for domain in range(3):
        close(layer(x, domain), x @ layer.weight, atol=1e-6)


def test_equals_the_equations_row_by_row() -> None:
    made = star().eval()
    user, item, candidate, interest, domain = inputs()
    out = made(user, item, candidate, interest, domain)
    assert out.shape == (12, 2, 2)
    for row in range(12):
        p = int(domain[row])
        z = torch.cat([x[row] for x in (user, item, candidate, interest)])
        s, t = made.norm.folded()
        h = s[p] * z + t[p]
        for number, layer in enumerate(made.layers):
            h = h @ (layer.weight * layer.domain_weight[p]) + layer.bias + layer.domain_bias[p]
            h = h.clamp(min=0) if number < 2 else h
        aux = torch.cat([made.domain.weight[p], z])
        aux = (made.auxiliary_first.weight @ aux + made.auxiliary_first.bias).clamp(min=0)
        aux = made.auxiliary_last.weight @ aux + made.auxiliary_last.bias
        close(out[row].flatten(), h + aux)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_domain_absent_from_the_batch_learns_nothing(absent: int) -> None:
    made = star().train()
    user, item, candidate, interest, domain = inputs()
    rows = domain != absent
    made(*(x[rows] for x in (user, item, candidate, interest, domain))).square().sum().backward()
    own = [p for layer in made.layers for p in (layer.domain_weight, layer.domain_bias)]
    for parameter in (*own, made.norm.domain_gamma, made.norm.domain_beta, made.domain.weight):
        assert parameter.grad is not None
        for p in range(3):
            assert bool(parameter.grad[p].any()) == (p != absent)
    assert all(bool(layer.weight.grad.any()) for layer in made.layers if layer.weight.grad is not None)


def test_other_domains_do_not_touch_a_row_in_training() -> None:
    user, item, candidate, interest, domain = inputs()
    out = star().train()(user, item, candidate, interest, domain)
    other = inputs(seed=9)
    mixed = [torch.where((domain == 1)[:, None], a, b) for a, b in zip(inputs()[:4], other[:4], strict=True)]
    close(star().train()(*mixed, domain)[domain == 1], out[domain == 1])


def test_scores_do_not_depend_on_the_batch() -> None:
    made = star()
    made.train()(*inputs(40, seed=3))  # running statistics that are not 0 and 1
    made.eval()
    x = inputs()
    out = made(*x)
    for k in (1, 2, 5):
        close(made(*(part[:k] for part in x)), out[:k])
    close(made(*(part[7:8] for part in x)), out[7:8])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    close(made(*(part[order] for part in x)), out[order])


@pytest.mark.parametrize("domains", [[0, 0, 0, 0], [0, 0, 0, 1], [2], [0, 1, 2], [1, 1]])
def test_domains_of_no_or_one_row_train_finitely(domains: list[int]) -> None:
    made = star().train()
    user, item, candidate, interest, _ = inputs(len(domains))
    out = made(user, item, candidate, interest, torch.tensor(domains))
    out.square().sum().backward()
    assert bool(torch.isfinite(out).all())
    for parameter in made.parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("logit_columns", [1, 2])
@pytest.mark.parametrize("hidden", [(6,), (6, 4), (6, 4, 3)])
@pytest.mark.parametrize("domain", [0, 1, 2])
def test_served_form_equals_the_trained_one(logit_columns: int, hidden: tuple[int, ...], domain: int) -> None:
    made = star(logit_columns=logit_columns, hidden=hidden)
    made.train()(*inputs(40, seed=3))
    made.eval()
    user, item, candidate, interest, _ = inputs()
    served = made.served()
    out = served(
        user[:1],
        served.item_columns(item),
        served.item_columns_by_domain(item)[domain],
        candidate,
        interest,
        torch.tensor([domain]),
    )
    expected = made(user[:1].expand(12, -1), item, candidate, interest, torch.full((12,), domain))
    assert out.shape == (12, 2)
    close(out, fold_logit_columns(expected))
