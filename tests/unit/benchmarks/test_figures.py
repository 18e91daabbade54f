from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.figures import Cell, Sample, percentile, ratios, rows_of, sample_of, table

OURS = Cell("ours", 200, 41.25, 8)
OTHER = Cell("other", 200, 41.25, 8)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.505, 51), (0.99, 99), (1.0, 100)]
)
def test_percentile_is_the_nearest_rank(share, expected):
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_percentile_of_one_value_is_that_value():
    assert percentile([7.5], 0.99) == 7.5


def test_a_sample_divides_by_the_answers():
    sample = sample_of(OURS, [1.0, 2.0, 3.0, 4.0], wall_s=2.0, cpu_s=0.001)

    assert sample == Sample(OURS, rps=2.0, p50_ms=2.0, p99_ms=4.0, cpu_us_per_request=250.0)


def test_a_row_has_the_median_of_each_figure_over_the_rounds():
    samples = [Sample(OURS, 10, 3, 9, 100), Sample(OURS, 30, 1, 7, None), Sample(OURS, 20, 2, 8, 300)]

    assert rows_of(samples) == [
        {
            "system": "ours",
            "n": 200,
            "c": 41.2,
            "connections": 8,
            "input": "ids",
            "loop": "closed",
            "rps": 20,
            "p50_ms": 2,
            "p99_ms": 8,
            "cpu_us_per_request": 200,
            "rate_rps": None,
        }
    ]


def test_rows_keep_the_order_of_the_first_round_and_state_missing_cpu_as_none():
    samples = [Sample(cell, 1, 1, 1, None) for cell in (OTHER, OURS, OTHER, OURS)]

    rows = rows_of(samples)

    assert [(row["system"], row["cpu_us_per_request"]) for row in rows] == [("other", None), ("ours", None)]


def test_ratios_compare_turn_by_turn_and_more_is_always_better():
    samples = [
        Sample(OURS, 20, 1, 2, 10, turn=1),
        Sample(OTHER, 10, 3, 8, 50, turn=1),
        Sample(OURS, 40, 1, 2, 10, turn=2),
        Sample(OTHER, 10, 5, 2, 30, turn=2),
        Sample(OURS, 30, 2, 2, 10, turn=3),
        Sample(OTHER, 10, 2, 4, 40, turn=3),
    ]

    found = {r.metric: (r.median, r.low, r.high) for r in ratios(samples, "ours", "other")}

    assert found == {"rps": (3, 2, 4), "p50": (3, 1, 5), "p99": (2, 1, 4), "cpu": (4, 3, 5)}


def test_only_what_was_taken_in_one_turn_is_compared():
    samples = [
        Sample(OURS, 1000, 1, 1, 1, turn=1),
        Sample(OURS, 20, 1, 1, 1, turn=2),
        Sample(OTHER, 10, 1, 1, 1, turn=2),
        Sample(OTHER, 1, 1, 1, 1, turn=3),
    ]

    assert {r.metric: r.median for r in ratios(samples, "ours", "other")}["rps"] == 2


def test_inputs_and_loops_are_apart_and_an_open_loop_has_no_ratio_of_its_rates():
    tensors = replace(OTHER, input="tensors")
    opened = [replace(cell, loop="open") for cell in (OURS, OTHER)]
    samples = [
        Sample(OURS, 20, 1, 1, 1, turn=1),
        Sample(tensors, 10, 1, 1, 1, turn=1),
        Sample(opened[0], 20, 1, 1, 1, turn=1, rate_rps=20),
        Sample(opened[1], 10, 3, 1, 1, turn=1, rate_rps=10),
    ]

    found = ratios(samples, "ours", "other")

    assert {(r.loop, r.metric) for r in found} == {("open", "p50"), ("open", "p99"), ("open", "cpu")}
    assert [row["rate_rps"] for row in rows_of(samples)] == [None, None, 20, 10]


def test_a_table_lines_up():
    assert table(["system", "rps"], [["a", 1234.4], ["longer name", None]]) == "\n".join(
        [
            "| system      |   rps |",
            "|-------------|------:|",
            "| a           | 1,234 |",
            "| longer name |     – |",
        ]
    )
