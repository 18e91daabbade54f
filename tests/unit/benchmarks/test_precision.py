"""From rounds to a row, and from rows to the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bars import CONNECTIONS
from benchmarks.figures import Cell, Sample
from benchmarks.precision import BEGIN, END, INT8, rendered, request_rows, row_of
from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.systems import OURS

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"


def test_a_ratio_is_that_of_a_round_not_of_medians():
    row = row_of(500, 200, {"fp32": [2.0, 40.0, 300.0], "int8": [1.0, 10.0, 100.0]})
    assert (row["fp32_us"], row["int8_us"], row["ratio"], row["rounds"]) == (40.0, 10.0, 3.0, 3)
    assert row["ratio_quartiles"] == [2.5, 3.5]


def test_requests_are_compared_in_the_same_turn():
    def sample(system, turn, rps, connections=CONNECTIONS):
        return Sample(Cell(system, 500, 200.0, connections), rps, 1.0, 1.0, None, turn)

    samples = [sample(OURS, 1, 100), sample(INT8, 1, 150), sample(OURS, 2, 10), sample(INT8, 2, 20)]
    samples += [sample(OURS, 1, 1, connections=1), sample(INT8, 1, 9, connections=1)]
    assert request_rows(samples) == [{"n": 500, "clusters": 200, "median": 1.75, "low": 1.5, "high": 2.0}]


def test_the_page_has_a_place_for_the_table(tmp_path):
    row = row_of(500, 200, {"fp32": [3.0], "int8": [2.0]}) | {"load_average_before": 0.5}
    requests = [{"n": 500, "clusters": 200, "median": 1.7, "low": 1.6, "high": 1.8}]
    write_results(tmp_path / "r.json", [row], packages=("numpy",), more={"requests": requests})
    text = rendered(json.loads((tmp_path / "r.json").read_text()))
    assert "1.50 to 1.50" in text and "1.70 (1.60 to 1.80)" in text and "load average 0.5" in text
    assert text in placed(PAGE.read_text(), text, marks=(BEGIN, END))


@pytest.mark.parametrize("mark", [BEGIN, END])
def test_the_page_has_each_mark_once(mark):
    assert PAGE.read_text().count(mark) == 1
