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

    assert (found.probability, found.logit) == (0, 0)


def test_the_greatest_difference_of_probabilities_and_of_logits():
    found = difference(*answers([0.5, 0.25], [0.75, 0.25]))

    assert found.probability == 0.25
    assert found.logit == pytest.approx(1.0986122886681098)  # ln 3: odds of 1 against odds of 3


def test_small_probabilities_that_differ_many_times_over_differ_in_their_logits():
    found = difference(*answers([1e-6, 0.5], [1e-5, 0.5]))

    assert found.probability < 1e-4
    assert found.logit == pytest.approx(2.302594, abs=1e-4)  # ln 10 and a little


def test_answers_in_another_order_are_refused():
    ours, other = answers([0.1, 0.2], [0.1, 0.2])
    other["results"].reverse()

    with pytest.raises(DisagreementError):
        difference(ours, other)
