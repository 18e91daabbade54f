"""Negative sampling: some of the positions of many pools at once, without ever laying the pools out.

Knows nothing of users, items or files: a pool is its size, and which of its positions are excluded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Positions drawn from pools.

    Axes:
        pool, position: (S,) one entry a draw, by pool and position.
        keep_probability: (P,) with which each position of a pool that is not excluded was drawn.
    """

    pool: I64
    position: I64
    keep_probability: F64


def draw_outside(
    sizes: I64,
    excluded_pool: I64,
    excluded_position: I64,
    *,
    per_pool: int,
    rng: np.random.Generator,
) -> Drawn:
    """Draw `per_pool` positions from each pool, uniform without replacement among those not excluded.

    A pool with fewer free positions gives them all, with keep probability 1. Time and memory go with the
    number of pools, draws and exclusions; a pool of a thousand positions costs what a pool of ten costs.

    Shapes:
        sizes: (P,) positions in each pool.
        excluded_pool, excluded_position: (E,) in any order, each pair at most once.
    """
    order = np.lexsort((excluded_position, excluded_pool))
    excluded_pool, excluded_position = excluded_pool[order], excluded_position[order]
    excluded_count = np.bincount(excluded_pool, minlength=len(sizes)).astype(np.int64)
    free = sizes - excluded_count
    ranks = _distinct_ranks(free, per_pool, rng)  # (P, per_pool)
    drawn = np.arange(per_pool) < free[:, None]
    pool = np.nonzero(drawn)[0]
    rank = ranks[drawn]
    # The r-th free position lies after every exclusion e_i (i-th of its pool, sorted) with e_i - i <= r.
    first = np.cumsum(excluded_count) - excluded_count
    gap = excluded_position - (np.arange(len(excluded_pool)) - first[excluded_pool])
    stride = int(sizes.max(initial=0)) + 1
    before = np.searchsorted(excluded_pool * stride + gap, pool * stride + rank, side="right") - first[pool]
    keep = np.minimum(1.0, per_pool / np.maximum(free, 1))
    return Drawn(pool, rank + before, np.where(free > 0, keep, 1.0))


def _distinct_ranks(free: I64, per_pool: int, rng: np.random.Generator) -> I64:
    """Return `per_pool` distinct ranks below `free` for each pool, rising; past `free` of them, padding."""
    ranks = np.full((len(free), per_pool), np.iinfo(np.int64).max, np.int64)
    for j in range(per_pool):
        rank = rng.integers(0, np.maximum(free - j, 1))
        for earlier in range(j):  # rising, so that each step past one may reach the next
            rank += rank >= ranks[:, earlier]
        ranks[:, j] = np.where(free > j, rank, ranks[:, j])
        ranks[:, : j + 1].sort(axis=1)
    return ranks
