from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.sampling import draw_outside


def _draw(sizes, excluded, per_pool, seed=0):
    pools = np.array([pool for pool, _ in excluded], np.int64)
    positions = np.array([position for _, position in excluded], np.int64)
    rng = np.random.default_rng(seed)
    return draw_outside(np.array(sizes, np.int64), pools, positions, per_pool=per_pool, rng=rng)


@given(st.data())
def test_draws_are_free_distinct_and_as_many_as_there_can_be(data):
    sizes = data.draw(st.lists(st.integers(0, 12), max_size=6))
    places = [(pool, position) for pool, size in enumerate(sizes) for position in range(size)]
    excluded = data.draw(st.lists(st.sampled_from(places), unique=True)) if places else []
    per_pool = data.draw(st.integers(1, 5))
    drawn = _draw(sizes, excluded, per_pool, seed=data.draw(st.integers(0, 99)))
    pairs = list(zip(drawn.pool.tolist(), drawn.position.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) <= set(places) - set(excluded)
    for pool, size in enumerate(sizes):
        free = size - sum(p == pool for p, _ in excluded)
        count = int((drawn.pool == pool).sum())
        assert count == min(per_pool, free)
        assert count / drawn.keep_probability[pool] == pytest.approx(free)


def test_every_set_of_free_positions_is_equally_likely():
    pools = 30_000
    excluded = [(pool, position) for pool in range(pools) for position in (1, 4)]
    drawn = _draw([6] * pools, excluded, 2)
    sets = Counter(map(tuple, np.sort(drawn.position.reshape(-1, 2), axis=1).tolist()))
    expected = pools / 6
    assert set(sets) == set(combinations((0, 2, 3, 5), 2))
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in sets.values())


def test_the_generator_decides_the_draw():
    first, again, other = (_draw([1000] * 50, [(0, 3)], 4, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.position, again.position)
    assert not np.array_equal(first.position, other.position)
