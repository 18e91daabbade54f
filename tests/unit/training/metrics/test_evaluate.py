"""The table by domain and task: which rows count where."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import natural
from training.metrics.evaluate import ALL_DOMAINS, evaluate

NAN = float("nan")
LABELS = np.array([[1, 1], [0, NAN], [0, 0], [1, 0], [0, 0], [0, NAN]], np.float64)
PROBABILITY = np.array([[0.5, 0.3], [0.1, 0.1], [0.6, 0.2], [0.4, 0.1], [0.4, 0.3], [0.2, 0.2]])
WEIGHTS = np.array([1.0, 4.0, 4.0, 1.0, 2.0, 2.0])
USERS = np.array(["b", "b", "a", "a", "a", "b"])
REQUESTS = np.array([10, 10, 10, 20, 20, 30])
DOMAINS = np.array([0, 0, 0, 1, 1, 1])


def table() -> dict[tuple[str, str], dict[str, object]]:
    rows = evaluate(
        LABELS,
        PROBABILITY,
        WEIGHTS,
        users=USERS,
        requests=REQUESTS,
        domains=DOMAINS,
        domain_names=("mailer", "display", "unused"),
        task_names=("click", "multi"),
    )
    return {(row.domain, row.task): {k: getattr(row, k) for k in row.__slots__} for row in rows}


def test_a_row_per_domain_and_task_with_all_first() -> None:
    keys = list(table())
    assert keys == [(d, t) for t in ("click", "multi") for d in (ALL_DOMAINS, "mailer", "display", "unused")]


def test_domain_row_reads_its_own_rows() -> None:
    row = table()["mailer", "click"]
    y, p, w = LABELS[:3, 0], PROBABILITY[:3, 0], WEIGHTS[:3]
    assert (row["rows_count"], row["positives_count"]) == (3, 1)
    assert row["auc"] == natural.auc(y, p, w) == pytest.approx(0.5)
    assert row["gauc"] == pytest.approx(1.0)  # user a has no click here and is skipped
    assert row["gauc_request"] == row["auc"]
    assert row["pcoc"] == pytest.approx(0.5 + 0.4 + 2.4)


def test_all_domains_row_reads_every_row() -> None:
    row = table()[ALL_DOMAINS, "click"]
    y, p = LABELS[:, 0], PROBABILITY[:, 0]
    assert row["auc"] == natural.auc(y, p, WEIGHTS)
    assert row["gauc"] == natural.gauc(y, p, WEIGHTS, [1, 1, 0, 0, 0, 1])
    assert row["calibration_error"] == natural.calibration_error(natural.reliability(y, p, WEIGHTS))


def test_unknown_labels_do_not_count() -> None:
    row = table()[ALL_DOMAINS, "multi"]
    assert (row["rows_count"], row["positives_count"]) == (4, 1)
    assert row["pcoc"] == pytest.approx(0.3 + 0.8 + 0.1 + 0.6)


def test_domain_without_rows_is_undefined_not_absent() -> None:
    row = table()["unused", "click"]
    assert row["rows_count"] == 0
    assert [row[k] for k in ("auc", "gauc", "gauc_request", "log_loss", "pcoc", "calibration_error")] == [
        None
    ] * 6


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(6, 1\)"):
        evaluate(
            LABELS, PROBABILITY, WEIGHTS, users=USERS, requests=REQUESTS, domains=DOMAINS,
            domain_names=("mailer",), task_names=("click",),
        )  # fmt: skip
