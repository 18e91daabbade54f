from __future__ import annotations

import numpy as np
import pytest

from training.metrics.bootstrap import Estimate
from training.report.study_text import count, number, table, with_interval


@pytest.mark.parametrize(
    ("value", "metric", "signed", "text"),
    [
        (0.94421, "auc", False, ".9442"),
        (1.0, "auc", False, "1.0000"),
        (0.0051, "gauc", True, "+.0051"),
        (-0.0051, "gauc", True, "-.0051"),
        (0.0033554, "log_loss", False, "3.355"),
        (0.0003554, "log_loss", False, "0.355"),
        (0.98, "pcoc", False, ".980"),
        (10.25, "pcoc", False, "10.250"),
        (None, "auc", False, "–"),
        (float("nan"), "auc", False, "–"),
    ],
)
def test_numbers_are_written_like_this(value: float | None, metric: str, signed: bool, text: str) -> None:
    assert number(value, metric, signed=signed) == text


def test_an_interval_stands_behind_its_estimate() -> None:
    estimate = Estimate(0.5, np.linspace(0.4, 0.6, 101))
    assert with_interval(estimate, "auc") == ".5000 [.4050, .5950]"
    assert with_interval(estimate, "auc", spread=0.0123) == ".5000 [.4050, .5950] ± .0123"
    assert with_interval(Estimate(float("nan"), np.zeros(2)), "auc") == "–"


def test_counts_have_separators() -> None:
    assert (count(1234567.0), count(None)) == ("1,234,567", "–")


def test_a_table_is_markdown_and_keeps_bars_in_cells() -> None:
    assert table(("row", "AUC"), [["a|b", ".9"]]) == "| row | AUC |\n| --- | --: |\n| a\\|b | .9 |"
