"""What reading from the store costs: all ways read the same, and a row is made of its rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.store_read import (
    BEGIN,
    END,
    HELD,
    MANY,
    OURS,
    REDIS_PY,
    Way,
    measured,
    rendered,
    rows_of,
)

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"

pytestmark = pytest.mark.anyio


async def read() -> None:
    return None


async def test_every_way_is_measured_on_a_real_store_and_reads_the_same(tmp_path: Path) -> None:
    rows = await measured(tmp_path, 3, rounds=2, calls_count=3)
    assert [row["way"] for row in rows] == [REDIS_PY, OURS, MANY, HELD]
    for row in rows:
        assert (row["snapshot_kib"], row["rounds"]) == (3, 2)
        assert row["cpu_us"] > 0 and row["p50_us"] > 0
    assert rows[0]["over_redis_py_quartiles"] == [1, 1]


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    ways = [
        Way(REDIS_PY, read, cpu_us=[10, 20, 40], wall_us=[11, 22, 44]),
        Way(OURS, read, cpu_us=[5, 5, 30], wall_us=[7, 8, 9]),
    ]
    ours = rows_of(ways, 5)[1]
    assert (ours["cpu_us"], ours["p50_us"], ours["over_redis_py"]) == (5, 8, 0.5)


def test_the_page_has_a_place_for_the_rows_of_a_results_file(tmp_path: Path) -> None:
    ways = [Way(REDIS_PY, read, cpu_us=[10.0], wall_us=[11.0]), Way(HELD, read, cpu_us=[2.0], wall_us=[3.0])]
    rows = [{**row, "load_average_before": 0.5} for row in rows_of(ways, 64)]
    write_results(tmp_path / "results.json", rows, packages=("redis",))
    text = rendered(json.loads((tmp_path / "results.json").read_text()))
    page = placed(PAGE.read_text(), text, marks=(BEGIN, END))
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {HELD} ") and line in text)
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["64", "2.00", "0.20", "0.20 to 0.20", "3.00"]
