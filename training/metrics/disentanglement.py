"""Whether several embedding sets and experts say different things: diagnostics, no measure of quality.

Source:
    Crocodile, arXiv:2405.12706, which reads them of its sets and experts. Its Diversity Index is not public in full;
    `expert_correlation` stands in for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from service.contract.history import F32

STILL_RATIO: Final = 1e-6
"""An output that moves by less than this share of its size does not move: float32 would not tell."""


def information_abundance(table: F32) -> float:
    """Return how many directions a table's rows are spread over: the sum of its singular values over the largest.

    1 where all rows lie on one line (the table has collapsed), D where all directions are used alike; 0 for a table
    of zeros, or of no rows. Rows are not centred, as in the paper.

    Shapes:
        table: (V, D), one set of one feature.
    """
    if table.size == 0:
        return 0.0
    singular = np.linalg.svd(table.astype(np.float64), compute_uv=False)
    return float(singular.sum() / singular[0]) if singular[0] > 0 else 0.0


def expert_correlation(outputs: F32) -> float:
    """Return the mean over pairs of experts of the absolute correlation of an output of one with one of the other.

    Outputs that never change are left out, so that a dead expert does not pass for an independent one; NaN where no
    pair is left.

    Shapes:
        outputs: (M, B, d), one expert after the other.
    """
    experts, rows, width = outputs.shape
    wide = outputs.astype(np.float64).transpose(1, 0, 2).reshape(rows, experts * width)
    size = np.sqrt(np.square(wide).sum(axis=0))
    wide = wide - wide.mean(axis=0) if rows else wide
    norm = np.sqrt(np.square(wide).sum(axis=0))
    alive = norm > STILL_RATIO * size
    wide = wide[:, alive] / norm[alive]
    of = np.repeat(np.arange(experts), width)[alive]
    different = of[:, None] > of
    return float(np.abs(wide.T @ wide)[different].mean()) if different.any() else float("nan")
