"""Projections whose bits do not depend on who adds up, and the hashes and fingerprints made of them."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from training.modules.exact_projection import GRID_BITS, ExactProjection, Fingerprint, SimHash


def embeddings(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 0.4


def test_every_order_of_summation_and_every_batch_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    made, x = SimHash(97, 33).projection, embeddings(500, 97)
    whole = made(x)
    exact = [
        [
            sum(round(float(v) * 2**GRID_BITS) * int(m) for v, m in zip(row, column, strict=True))
            for column in made.matrix.T
        ]
        for row in x[:5].double()
    ]  # Python's whole numbers have no rounding
    assert whole[:5].tolist() == exact
    order = torch.randperm(97, generator=torch.Generator().manual_seed(1))
    shuffled = ExactProjection(made.matrix[order])(x[:, order])
    assert torch.equal(shuffled, whole)
    assert all(torch.equal(made(x[i : i + 1])[0], whole[i]) for i in range(0, 500, 50))


def test_sums_next_to_zero_have_the_same_sign_in_onnx_runtime(tmp_path: Path) -> None:
    """Each vector is moved so that its first sum nearly cancels, and float32 signs depend on the order of summation."""
    torch.manual_seed(0)
    made = SimHash(64, 8)
    x = embeddings(4000, 64)
    direction = made.projection.matrix[:, 0].float()
    x = x - (x @ direction)[:, None] * direction / (direction @ direction)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hash, self.fingerprint = made, Fingerprint(64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.hash(x), self.fingerprint(x)

    both = Both().eval()
    rows = torch.export.Dim("rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            both, (x[:5],), dynamo=True, dynamic_shapes=({0: rows},), opset_version=20, verbose=False
        )
    assert program is not None
    program.save(str(tmp_path / "hash.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "hash.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for count in (1, 7, 4000):
        codes, prints = session.run(None, {name: x[:count].numpy()})
        np.testing.assert_array_equal(codes, both(x)[0][:count].numpy())
        np.testing.assert_array_equal(prints, both(x)[1][:count].numpy())
    forward, backward = x @ direction > 0, x.flip(1) @ direction.flip(0) > 0
    assert int((forward != backward).sum()) > 400  # the same sums in float32, in two orders


@pytest.mark.parametrize("degrees", [10.0, 60.0, 90.0, 150.0])
def test_expected_hamming_distance_is_the_angle(degrees: float) -> None:
    """E[distance] / bits = theta / pi, within 4 standard errors of 100,000 bits."""
    torch.manual_seed(5)
    bits = 100_000
    made, angle = SimHash(12, bits), math.radians(degrees)
    basis = torch.linalg.qr(embeddings(12, 2, seed=2)).Q.T
    a, b = basis[0], math.cos(angle) * basis[0] + math.sin(angle) * basis[1]
    share = ((made(a) != made(b)).double().mean()).item()
    expected = degrees / 180
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / bits)


def test_a_hash_does_not_see_lengths() -> None:
    torch.manual_seed(0)
    made, x = SimHash(16, 32), embeddings(20, 16)
    assert torch.equal(made(x * 4), made(x))
    assert torch.equal(made(-x), -made(x))


def test_equal_vectors_have_equal_fingerprints_and_others_have_others() -> None:
    torch.manual_seed(0)
    for width in (1, 4, 16, 100):
        made = Fingerprint(width)
        table = embeddings(2000, width) / 8  # spread by .05, as embeddings start
        prints = made(table)
        assert prints.dtype == torch.float32
        assert torch.equal(made(table[[7, 7, 3]]), prints[[7, 7, 3]])
        rounded = torch.round(table.double() * 2**GRID_BITS)
        assert len(torch.unique(prints, dim=0)) == len(torch.unique(rounded, dim=0))
        assert width < 4 or len(torch.unique(prints, dim=0)) == 2000
        assert float(prints.abs().max()) <= 2**24


def test_values_out_of_range_are_clipped_and_still_whole() -> None:
    torch.manual_seed(0)
    made = SimHash(4, 3)
    assert torch.equal(made.projection(torch.full((4,), 1e30)), made.projection(torch.full((4,), 64.0)))


def test_matrices_whose_sums_are_not_exact_are_refused() -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        ExactProjection(torch.tensor([[0.5]]))
    with pytest.raises(ValueError, match="too large"):
        ExactProjection(torch.full((4, 1), 2.0**27))
