"""Buckets by table, against a search among the boundaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.buckets import BucketTables

boundaries_of = st.lists(st.floats(-10, 1e15), unique=True, max_size=30).map(sorted)
values_of = st.lists(st.floats(0, 1e300), min_size=1, max_size=20)


def searched(boundaries: list[list[float]], values: np.ndarray) -> list[list[int]]:
    return [
        np.searchsorted(np.array(own, np.float64), row, side="right").tolist()
        for own, row in zip(boundaries, values, strict=True)
    ]


@given(st.lists(boundaries_of, min_size=1, max_size=4), values_of)
def test_buckets_are_those_of_a_search(boundaries: list[list[float]], some: list[float]) -> None:
    """Of any values, of the boundaries themselves, and of the numbers next to them."""
    edges = [edge for own in boundaries for edge in own if edge >= 0]
    near = [float(np.nextafter(edge, to)) for edge in edges for to in (0.0, np.inf)]
    values = np.tile(np.array([*some, *edges, *near]), (len(boundaries), 1))
    values = np.abs(values)
    assert BucketTables(boundaries).of(values).tolist() == searched(boundaries, values)


@pytest.mark.parametrize(
    "boundaries",
    [[1.0, 1.0 + 1e-12, 2.0], [0.0, 1.0], [-1.0, 3.0], [1e308, 1.7e308], [], [5e-324, 1.0], [3.0]],
    ids=["too near", "from 0", "below 0", "up to the largest", "none", "the least", "one"],
)
def test_boundaries_that_no_table_tells_apart_are_searched(boundaries: list[float]) -> None:
    values = np.array([[0.0, 5e-324, 0.5, 1.0, 1.0 + 5e-13, 1.0 + 2e-12, 2.0, 3.0, 1.5e308, 1.75e308]])
    assert BucketTables([boundaries]).of(values).tolist() == searched([boundaries], values)


def test_nothing_has_no_buckets() -> None:
    assert BucketTables([[1.0], [2.0]]).of(np.zeros((2, 0))).shape == (2, 0)
    assert BucketTables([]).of(np.zeros((0, 3))).shape == (0, 3)
