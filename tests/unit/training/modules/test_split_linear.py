"""A split first layer equals the layer on the concatenated input, for every candidate and domain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.training.backbones.inputs import inputs, widths
from training.modules.split_linear import SplitLinear

DOMAINS, DOMAIN_WIDTH, OUT = 3, 2, 6
INPUT = 4 + 5 + 2 + 3


def drawn(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("domain", range(DOMAINS))
@pytest.mark.parametrize("weights_by_domain", [False, True])
@pytest.mark.parametrize("bias_shape", [None, (OUT,), (DOMAINS, OUT)])
@pytest.mark.parametrize("reads_domain", [False, True])
def test_equals_the_layer_on_the_concatenated_input(
    domain: int, weights_by_domain: bool, bias_shape: tuple[int, ...] | None, reads_domain: bool
) -> None:
    rows = INPUT + DOMAIN_WIDTH * reads_domain
    weight = drawn(DOMAINS, rows, OUT) if weights_by_domain else drawn(rows, OUT)
    bias = None if bias_shape is None else drawn(*bias_shape, seed=6)
    embedding = drawn(DOMAINS, DOMAIN_WIDTH, seed=7) if reads_domain else None
    split = SplitLinear(weight, bias, widths(), domain_embedding=embedding)
    user, item, candidate, interest, _ = inputs()

    columns = split.item_columns(item)
    assert split.by_domain == weights_by_domain
    assert columns.shape == ((DOMAINS, 12, OUT) if weights_by_domain else (12, OUT))
    item_share = columns[domain] if weights_by_domain else columns
    joint = torch.cat([candidate, interest], dim=1)
    out = split(user[:1], item_share, joint, torch.tensor([domain]))

    own_weight = weight[domain] if weights_by_domain else weight
    for row in range(12):
        x = torch.cat([user[0], item[row], candidate[row], interest[row]])
        if embedding is not None:
            x = torch.cat([embedding[domain], x])
        expected = x @ own_weight
        if bias is not None:
            expected = expected + (bias[domain] if bias.dim() == 2 else bias)
        torch.testing.assert_close(out[row], expected, atol=1e-12, rtol=0)


def test_the_split_keeps_what_was_trained_when_training_goes_on() -> None:
    weight = torch.nn.Parameter(drawn(INPUT, OUT))
    split = SplitLinear(weight, None, widths())
    user, item, candidate, interest, _ = inputs()
    joint, domain = torch.cat([candidate, interest], dim=1), torch.tensor([0])
    before = split(user[:1], split.item_columns(item), joint, domain)
    with torch.no_grad():
        weight.zero_()
    after = split(user[:1], split.item_columns(item), joint, domain)
    assert torch.equal(before, after)
    assert not any(True for _ in split.parameters()) and not before.requires_grad


def test_no_candidates() -> None:
    split = SplitLinear(drawn(INPUT, OUT), None, widths())
    out = split(drawn(1, 4), drawn(0, OUT), drawn(0, 5), torch.tensor([1]))
    assert out.shape == (0, OUT)


@pytest.mark.parametrize("rows", [INPUT - 1, INPUT + DOMAIN_WIDTH])
def test_a_weight_of_other_rows_than_the_input_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="does not split"):
        SplitLinear(drawn(rows, OUT), None, widths())
