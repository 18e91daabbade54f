"""The map from the rate of the sampled rows to the natural one, by counting."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.public_libraries.sampling import natural_probability


@pytest.mark.parametrize("clicks, others, kept", [(3, 3000, 12), (5, 995, 995), (40, 60, 15)])
def test_maps_the_rate_among_sampled_rows_to_the_rate_among_all(clicks: int, others: int, kept: int) -> None:
    sampled = clicks / (clicks + kept)
    natural = natural_probability([sampled], [kept / others])
    assert natural == pytest.approx([clicks / (clicks + others)])


def test_rows_of_which_nothing_was_left_out_stay_as_they_are() -> None:
    p = np.array([0.0, 0.001, 0.5, 1.0])
    np.testing.assert_allclose(natural_probability(p, np.ones(4)), p)


def test_certainty_stays_certain_at_any_rate() -> None:
    np.testing.assert_array_equal(natural_probability([0.0, 1.0], [1e-4, 1e-4]), [0.0, 1.0])


def test_order_within_a_request_is_kept() -> None:
    p = np.linspace(0.01, 0.99, 50)
    assert (np.diff(natural_probability(p, np.full(50, 0.003))) > 0).all()
