"""DCN-V2: what a cross layer multiplies, where the deep network stands, and the served form."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.unit.training.backbones.inputs import inputs, stirred, widths
from training.backbones.dcnv2 import CrossLayer, DcnV2, Options, build
from training.modules.split import fold_logit_columns

Structure = Literal["parallel", "stacked"]


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def dcnv2(
    *,
    structure: Structure = "parallel",
    rank: int | None = None,
    hidden: tuple[int, ...] = (6, 4),
    cross_layers: int = 2,
    domain_feature: bool = True,
    logit_columns: int = 2,
) -> DcnV2:
    torch.manual_seed(1)
    options = Options(
        cross_layers=cross_layers,
        rank=rank,
        structure=structure,
        hidden=hidden,
        domain_feature=domain_feature,
        domain_width=2,
    )
    made = stirred(build(options, widths=widths(logit_columns=logit_columns)), std=0.2)
    assert isinstance(made, DcnV2)
    return made


def plain_cross(layer: CrossLayer, x0: list[float], x: list[float]) -> list[float]:
    """Return one row's next x, multiplied out number by number."""
    outer, bias = layer.outer.weight.tolist(), layer.outer.bias.tolist()
    h = x
    if layer.inner is not None:
        h = [sum(v * a for v, a in zip(row, x, strict=True)) for row in layer.inner.weight.tolist()]
    wx = [sum(w * a for w, a in zip(row, h, strict=True)) for row in outer]
    return [a * (w + b) + c for a, w, b, c in zip(x0, wx, bias, x, strict=True)]


def test_a_cross_with_the_identity_squares_its_input() -> None:
    layer = CrossLayer(3, None).double()
    with torch.no_grad():
        layer.outer.weight.copy_(torch.eye(3))
        layer.outer.bias.zero_()
    x0 = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    x1 = layer(x0, x0)
    close(x1, x0 * x0 + x0)
    close(layer(x0, x1), x0**3 + 2 * x0**2 + x0)  # degree l + 1 after l layers, all lower ones kept


def test_a_cross_multiplies_features_with_each_other() -> None:
    layer = CrossLayer(2, None).double()
    with torch.no_grad():
        layer.outer.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        layer.outer.bias.copy_(torch.tensor([0.0, 10.0]))
    x0, x = torch.tensor([[3.0, 5.0]]).double(), torch.tensor([[7.0, 11.0]]).double()
    close(layer(x0, x), torch.tensor([[3.0 * 11 + 7, 5.0 * 10 + 11]]).double())


def test_a_low_rank_cross_is_the_full_one_of_the_product() -> None:
    low = stirred(CrossLayer(5, 2))
    assert isinstance(low, CrossLayer) and low.inner is not None
    full = CrossLayer(5, None).double()
    with torch.no_grad():
        full.outer.weight.copy_(low.outer.weight @ low.inner.weight)
        full.outer.bias.copy_(low.outer.bias)
    x0, x = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(low(x0, x), full(x0, x))
    assert low.inner.bias is None  # b_l is added once, after U V^T x


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("domain_feature", [False, True])
def test_equals_the_equations_row_by_row(
    structure: Structure, rank: int | None, domain_feature: bool
) -> None:
    made = dcnv2(structure=structure, rank=rank, domain_feature=domain_feature)
    user, item, candidate, interest, domain = inputs()
    out = made(user, item, candidate, interest, domain)
    assert out.shape == (12, 2, 2)
    for row in range(12):
        own = [made.domain.weight[domain[row]]] if made.domain is not None else []
        x0 = torch.cat([*own, user[row], item[row], candidate[row], interest[row]])
        x = x0.tolist()
        for layer in made.crosses:
            x = plain_cross(layer, x0.tolist(), x)
        crossed = torch.tensor(x, dtype=torch.float64)
        h = x0 if structure == "parallel" else crossed
        for linear in made.deep:
            h = (linear.weight @ h + linear.bias).clamp(min=0)
        read = torch.cat([crossed, h]) if structure == "parallel" else h
        close(out[row].flatten(), made.last.weight @ read + made.last.bias)


def test_stacked_without_a_deep_network_is_the_crosses_alone() -> None:
    made = dcnv2(structure="stacked", hidden=())
    user, item, candidate, interest, domain = inputs()
    assert made.domain is not None
    x0 = torch.cat([made.domain(domain), user, item, candidate, interest], dim=1)
    x = made.crosses[1](x0, made.crosses[0](x0, x0))
    close(made(user, item, candidate, interest, domain).flatten(1), made.last(x))


@pytest.mark.parametrize(
    "wrong", [{"hidden": ()}, {"rank": 0}, {"cross_layers": 0}, {"structure": "both"}, {"experts": 4}]
)
def test_options_that_make_no_network_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Options.model_validate(wrong)


@pytest.mark.parametrize("domain_feature", [False, True])
def test_the_domain_changes_scores_only_where_it_is_a_feature(domain_feature: bool) -> None:
    made = dcnv2(domain_feature=domain_feature)
    user, item, candidate, interest, domain = inputs()
    before = made(user, item, candidate, interest, domain)
    after = made(user, item, candidate, interest, (domain + 1) % 3)
    assert bool(((after - before).abs() > 1e-9).flatten(1).any(1).all()) == domain_feature


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [None, 3])
def test_everything_learns(structure: Structure, rank: int | None) -> None:
    made = dcnv2(structure=structure, rank=rank)
    x = inputs()
    for part in x[:4]:
        part.requires_grad_()
    made(*x).square().sum().backward()
    for tensor in (*made.parameters(), *x[:4]):
        assert tensor.grad is not None and bool(torch.isfinite(tensor.grad).all())
        assert bool((tensor.grad != 0).any())
    assert bool((made.domain.weight.grad != 0).any(1).all())  # type: ignore[union-attr]


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_domain_absent_from_the_batch_learns_nothing(absent: int) -> None:
    made = dcnv2()
    *x, domain = inputs()
    rows = domain != absent
    made(*(part[rows] for part in x), domain[rows]).square().sum().backward()
    assert made.domain is not None and made.domain.weight.grad is not None
    for p in range(3):
        assert bool(made.domain.weight.grad[p].any()) == (p != absent)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_scores_do_not_depend_on_the_batch(structure: Structure) -> None:
    made, x = dcnv2(structure=structure).eval(), inputs()
    out = made(*x)
    for k in (1, 2, 8):
        close(made(*(part[:k] for part in x)), out[:k])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    close(made(*(part[order] for part in x)), out[order])


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("domain_feature", [False, True])
@pytest.mark.parametrize("logit_columns", [1, 2])
def test_served_form_equals_the_trained_one(
    structure: Structure, rank: int | None, domain_feature: bool, logit_columns: int
) -> None:
    made = dcnv2(
        structure=structure, rank=rank, domain_feature=domain_feature, logit_columns=logit_columns
    ).eval()
    user, item, candidate, interest, _ = inputs()
    served = made.served()
    shared = served.item_columns(item)
    for domain in range(3):
        out = served(user[:1], shared, item[:, :0], candidate, interest, torch.tensor([domain]))
        expected = made(user[:1].expand(12, -1), item, candidate, interest, torch.full((12,), domain))
        assert out.shape == (12, 2)
        close(out, fold_logit_columns(expected))


def test_served_form_of_the_crosses_alone_and_of_no_candidates() -> None:
    made = dcnv2(structure="stacked", hidden=()).eval()
    user, item, candidate, interest, _ = inputs()
    served = made.served()
    shared, one = served.item_columns(item), torch.tensor([1])
    expected = made(user[:1].expand(12, -1), item, candidate, interest, one.expand(12))
    close(served(user[:1], shared, item[:, :0], candidate, interest, one), fold_logit_columns(expected))
    empty = (shared[:0], item[:0, :0], candidate[:0], interest[:0])
    assert served(user[:1], *empty, one).shape == (0, 2)


def test_a_low_rank_stores_less_per_item() -> None:
    item = inputs()[1]
    full, low = (dcnv2(rank=rank).served().item_columns(item).shape[1] for rank in (None, 3))
    assert full == 5 + (4 + 2 + 5 + 2 + 3) + 6  # the embedding, the first cross, the first deep layer
    assert low == 5 + 3 + 6
