from __future__ import annotations

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
            "rps": 20,
            "p50_ms": 2,
            "p99_ms": 8,
            "cpu_us_per_request": 200,
        }
    ]


def test_rows_keep_the_order_of_the_first_round_and_state_missing_cpu_as_none():
    samples = [Sample(cell, 1, 1, 1, None) for cell in (OTHER, OURS, OTHER, OURS)]

    rows = rows_of(samples)

    assert [(row["system"], row["cpu_us_per_request"]) for row in rows] == [("other", None), ("ours", None)]


def test_ratios_compare_round_by_round_and_more_is_always_better():
    samples = [
        Sample(OURS, 20, 1, 2, 10),
        Sample(OTHER, 10, 3, 8, 50),
        Sample(OURS, 40, 1, 2, 10),
        Sample(OTHER, 10, 5, 2, 30),
        Sample(OURS, 30, 2, 2, 10),
        Sample(OTHER, 10, 2, 4, 40),
    ]

    found = {r.metric: (r.median, r.low, r.high) for r in ratios(samples, "ours", "other")}

    assert found == {"rps": (3, 2, 4), "p50": (3, 1, 5), "p99": (2, 1, 4), "cpu": (4, 3, 5)}


def test_a_table_lines_up():
    assert table(["system", "rps"], [["a", 1234.4], ["longer name", None]]) == "\n".join(
        [
            "| system      |   rps |",
            "|-------------|------:|",
            "| a           | 1,234 |",
            "| longer name |     – |",
        ]
    )
