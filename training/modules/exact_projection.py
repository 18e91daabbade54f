"""A fixed projection that every library computes to the same bits, whatever its order of summation.

Hashing and comparing need this: the sign of a sum near zero, or the equality of two sums, must not depend on
whether torch or ONNX Runtime adds up, on the size of a batch or on the machine. Inputs are rounded to whole
multiples of 2^-GRID_BITS and the matrix is of whole numbers, so in float64 every product and every partial sum
is a whole number below 2^53, hence exact. Inputs must be equal to the bit; embeddings that are looked up are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GRID_BITS = 18
LIMIT = 64.0
"""Inputs beyond +-LIMIT count as +-LIMIT: embeddings are of the order of 1."""
INPUT_BITS = 24
EXACT_BITS = 53
PART_BITS = 24
"""Whole numbers up to 2^24 are exact in float32."""


class ExactProjection(nn.Module):
    """x (..., D) -> whole numbers (..., m) in float64, without a gradient."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        """`matrix` (D, m) of whole numbers is saved with the model.

        Raises:
            ValueError: it is not of whole numbers, or sums of its products could pass 2^53.
        """
        super().__init__()
        if not torch.equal(matrix, matrix.round()):
            raise ValueError("the matrix of an exact projection must be of whole numbers")
        if matrix.double().abs().sum(0).max().item() * 2**INPUT_BITS >= 2**EXACT_BITS:
            raise ValueError("the matrix of an exact projection is too large for exact sums")
        self.register_buffer("matrix", matrix.double())

    def forward(self, x: Tensor) -> Tensor:
        """Return the projection of x, rounded to the grid first."""
        whole = torch.round(x.detach().double().clamp(-LIMIT, LIMIT) * 2.0**GRID_BITS)
        return torch.matmul(whole, self.matrix.double())


class SimHash(nn.Module):
    """Signs of random projections: codes of +-1, (..., D) -> (..., bits).

    Two vectors at angle theta differ in a bit with probability theta / pi (Charikar 2002). The projections are
    normal, rounded to 1/256 and saved with the model, so that training and serving hash alike. No gradient.
    """

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.projection = ExactProjection(torch.randn(width, bits).mul(256).round())

    def forward(self, x: Tensor) -> Tensor:
        """Return codes (..., bits) of +-1; the sign of 0 is -1."""
        return torch.where(self.projection(x) > 0, 1.0, -1.0).to(x.dtype)


class Fingerprint(nn.Module):
    """One whole number per vector, equal for equal vectors, (..., D) -> (..., 2): its high and its low part.

    Different vectors of a table whose entries spread by .05 or more share one with a probability of about 2^-35:
    among 2,000 categories no two do, with a probability above .9999. Each part is exact in float32, so item
    tables can hold it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        weight_bits = 2 * PART_BITS - 1 - INPUT_BITS - width.bit_length()
        self.projection = ExactProjection(torch.randint(1, 2**weight_bits, (width, 1)).double())

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., 2): the number is high * 2^24 + low."""
        whole = self.projection(x)
        high = torch.floor(whole * 2.0**-PART_BITS)
        return torch.cat([high, whole - high * 2.0**PART_BITS], dim=-1).to(x.dtype)
