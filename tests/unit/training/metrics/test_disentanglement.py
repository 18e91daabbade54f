"""How spread a table is and how alike experts are, by tables and outputs of known singular values and correlations."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.disentanglement import expert_correlation, information_abundance


def rotation(width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]


def test_abundance_of_a_table_on_one_line_is_one() -> None:
    assert information_abundance(np.outer(np.arange(1.0, 9), [1, -2, 3])) == pytest.approx(1)


def test_abundance_of_a_table_that_uses_all_directions_alike_is_their_number() -> None:
    table = np.concatenate([rotation(4), -rotation(4)])
    assert information_abundance(table) == pytest.approx(4)


def test_abundance_is_the_sum_of_singular_values_over_the_largest() -> None:
    table = rotation(5)[:, :3] * [4.0, 2.0, 1.0] @ rotation(3)
    assert information_abundance(table) == pytest.approx(7 / 4)
    assert information_abundance(-3 * table) == pytest.approx(7 / 4)


@pytest.mark.parametrize("shape", [(5, 3), (0, 3), (5, 0)])
def test_abundance_of_nothing_is_zero(shape: tuple[int, int]) -> None:
    assert information_abundance(np.zeros(shape, np.float32)) == 0


A, B = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])


def experts(*columns: np.ndarray) -> np.ndarray:
    """Return experts of one output each."""
    return np.stack([column[:, None] for column in columns]).astype(np.float32)


def test_experts_that_say_the_same_up_to_sign_scale_and_a_constant_correlate_wholly() -> None:
    assert expert_correlation(experts(A, -3 * A + 5)) == pytest.approx(1)


def test_experts_orthogonal_do_not_correlate() -> None:
    assert expert_correlation(experts(A, B)) == pytest.approx(0)


def test_correlation_is_of_pairs_of_different_experts() -> None:
    both = np.stack([np.stack([A, A], axis=1), np.stack([B, A], axis=1)])
    assert expert_correlation(both) == pytest.approx(1 / 2)  # A with B twice, A with A twice
    assert expert_correlation(experts(A, A, B)) == pytest.approx(1 / 3)


def test_a_dead_output_is_no_sign_of_difference() -> None:
    still = np.full(4, 0.7)
    assert expert_correlation(experts(A, A, still)) == pytest.approx(1)
    assert np.isnan(expert_correlation(experts(A, still)))
    assert np.isnan(expert_correlation(experts(A)))
    assert np.isnan(expert_correlation(np.zeros((2, 0, 3), np.float32)))
