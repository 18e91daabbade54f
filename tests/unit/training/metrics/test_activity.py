from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.metrics.activity import by_activity, equal_groups


def rows(users: int = 20, of_each: int = 10) -> dict[str, Any]:
    """Users u = 0..19 with activity 10 · u; probability .1, and one click in ten where u is even, in five where odd."""
    user = np.repeat(np.arange(users), of_each)
    place = np.tile(np.arange(of_each), users)
    clicked = (place == 0) | ((place == 1) & (user % 2 == 1))
    return {
        "labels": clicked[:, None].astype(float),
        "probability": np.full((users * of_each, 1), 0.1),
        "weights": np.ones(users * of_each),
        "users": user,
        "activity": user * 10.0,
        "domains": np.where(place < of_each // 2, 0, 1),
        "domain_names": ("a", "b"),
        "task_names": ("click",),
    }


def test_groups_are_of_equally_many() -> None:
    np.testing.assert_array_equal(np.bincount(equal_groups(np.arange(40)[::-1], 4)), [10, 10, 10, 10])
    np.testing.assert_array_equal(equal_groups([5.0, 1.0, 9.0, 7.0], 2), [0, 0, 1, 1])


def test_equal_values_stay_together() -> None:
    groups = equal_groups([0] * 7 + [1, 2, 3], 5)
    assert len(set(groups[:7])) == 1
    assert (np.diff(groups) >= 0).all()
    np.testing.assert_array_equal(equal_groups([3.0, 3.0], 10), [5, 5])


def test_no_values_have_no_groups() -> None:
    assert equal_groups([], 10).shape == (0,)


def test_deciles_are_of_users_by_their_activity() -> None:
    found = [row for row in by_activity(**rows()) if row.domain == "all"]
    assert [row.decile for row in found] == list(range(1, 11))
    assert [(row.activity_min, row.activity_max) for row in found[:2]] == [(0.0, 10.0), (20.0, 30.0)]
    assert {row.users_count for row in found} == {2}
    assert {row.rows_count for row in found} == {20}


def test_calibration_of_a_decile_is_that_of_its_users_alone() -> None:
    # each decile has an even and an odd user: 3 clicks in 20 rows, predicted 2
    for row in by_activity(**rows()):
        if row.domain == "all":
            assert row.pcoc == pytest.approx(2 / 3)
            assert row.ece == pytest.approx(0.05)


def test_a_decile_without_positives_has_no_pcoc() -> None:
    assert {row.pcoc for row in by_activity(**rows()) if row.domain == "b"} == {None}


def test_all_domains_speak_of_the_same_users() -> None:
    content = rows()
    content["domains"] = np.where(content["users"] < 10, 0, 1)  # domain a: the less active half
    found = by_activity(**content)
    assert [row.decile for row in found if row.domain == "a"] == [1, 2, 3, 4, 5]
    assert [row.decile for row in found if row.domain == "b"] == [6, 7, 8, 9, 10]


def test_weights_count_rows_as_what_they_stand_for() -> None:
    content = rows()
    content["weights"] = np.where(content["labels"][:, 0] > 0, 1.0, 4.0)
    one = next(row for row in by_activity(**content) if row.domain == "all")
    assert one.pcoc == pytest.approx(0.1 * (3 + 17 * 4) / 3)
    assert (one.rows_count, one.positives_count) == (20, 3)


def test_labels_that_are_not_known_do_not_count() -> None:
    content = rows()
    content["labels"][content["users"] == 1] = np.nan
    one = next(row for row in by_activity(**content) if row.domain == "all")
    assert (one.users_count, one.pcoc) == (1, pytest.approx(1.0))
