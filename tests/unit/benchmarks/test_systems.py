from __future__ import annotations

import pytest

from benchmarks.systems import DisagreementError, difference


def answers(ours, other):
    """Return answers of two candidates with one task from each system."""
    return (
        {"results": [{"item_id": str(i), "click": p} for i, p in enumerate(ours)]},
        {"results": [{"item_id": str(i), "probabilities": {"click": p}} for i, p in enumerate(other)]},
    )


def test_equal_answers_do_not_differ():
    found = difference(*answers([0.25, 0.5], [0.25, 0.5]))

    assert (found.probability, found.relative) == (0, 0)


def test_the_greatest_difference_as_it_is_and_relative_may_be_of_different_candidates():
    found = difference(*answers([0.5, 0.003], [0.75, 0.001]))

    assert found.probability == 0.25
    assert found.relative == pytest.approx(2.0)


def test_below_a_ten_thousandth_the_relative_difference_is_relative_to_that():
    found = difference(*answers([3e-6], [1e-6]))

    assert found.relative == pytest.approx(0.02)


def test_answers_in_another_order_are_refused():
    ours, other = answers([0.1, 0.2], [0.1, 0.2])
    other["results"].reverse()

    with pytest.raises(DisagreementError):
        difference(ours, other)
