from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec

import pytest

from benchmarks import report
from benchmarks.report import BEGIN, END, ReportError, placed, rendered, times_better
from benchmarks.results import write_results


def row_of(system, *, rps, connections=1, cpu=100.0, input="ids", loop="closed"):
    return {
        "system": system,
        "n": 200,
        "c": 41.5,
        "connections": connections,
        "input": input,
        "loop": loop,
        "rps": rps,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_us_per_request": cpu,
    }


def test_a_row_is_compared_with_ours_of_the_same_cell():
    rows = [row_of("twinstar", rps=600, connections=8), row_of("twinstar", rps=300), row_of("plain", rps=100)]

    assert [times_better(row, rows) for row in rows] == [None, None, 3.0]


def test_other_inputs_and_open_loops_are_compared_with_nothing():
    rows = [
        row_of("twinstar", rps=600),
        row_of("plain", rps=100, input="tensors"),
        row_of("twinstar", rps=600, loop="open"),
        row_of("plain", rps=100, loop="open"),
    ]

    assert [times_better(row, rows) for row in rows] == [None] * 4


BAR = {
    "name": "p99 over p50",
    "n": 500,
    "c": 1000.0,
    "against": "its own p50",
    "median": 2.25,
    "low": 2.0,
    "high": 2.5,
    "passes": 2.5,
    "goal": None,
    "verdict": "pass",
}


def test_bars_tables_plots_and_what_is_left_out_are_rendered_in_their_order():
    results = {
        "meta": {"command": "python -m x", "date": "2026-01-02", "machine": "one", "versions": {"a": "1"}},
        "rows": [
            row_of("twinstar", rps=300, loop="open"),
            row_of("twinstar", rps=600),
            row_of("plain", rps=100, input="tensors"),
        ],
        "about": "a model",
        "rounds": 3,
        "load_average": "0.10, 0.20, 0.30",
        "bars": [BAR],
        "left_out": ["mosec: it did not start"],
    }

    text = rendered(results, plots_folder="performance")

    places = [
        text.index(words)
        for words in (
            "Measured on a model; rounds: 3; load average when it began: 0.10",
            "| p99 over p50 | 500 | 1000 | its own p50 |  2.25 |",
            "### Ids in a closed loop",
            "### Ids in an open loop",
            "### Ready tensors",
            "](performance/grid.svg)",
            "](performance/peers.svg)",
            "- mosec: it did not start",
        )
    ]
    assert places == sorted(places)


def test_a_page_keeps_all_but_what_is_between_the_marks():
    assert placed(f"a\n{BEGIN}\nold\n{END}\nz\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nz\n"


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_page_without_its_marks_is_refused(page):
    with pytest.raises(ReportError):
        placed(page, "new")


@pytest.mark.parametrize(
    ("spec", "module"),
    [
        (None, "benchmarks.bench"),
        (ModuleSpec("benchmarks.bench", None), "benchmarks.bench"),
        (ModuleSpec("benchmarks.many.__main__", None), "benchmarks.many"),
    ],
    ids=["file", "module", "package"],
)
def test_results_are_written_in_their_form_and_rendered_into_the_page(tmp_path, monkeypatch, spec, module):
    results, page = tmp_path / "results" / "bench.json", tmp_path / "page.md"
    page.write_text(f"# Page\n{BEGIN}\n{END}\n")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["/anywhere/bench.py", "--rounds", "2"])
    write_results(
        results, [row_of("twinstar", rps=300), row_of("plain", rps=100, cpu=None)], packages=("numpy",)
    )
    written = json.loads(results.read_text())
    assert set(written) == {"meta", "rows"}
    assert set(written["meta"]) == {"machine", "versions", "command", "date"}

    monkeypatch.setattr(sys, "argv", ["report", "--results", str(results), "--page", str(page)])
    report.main()

    text = page.read_text()
    assert f"`python -m {module} --rounds 2`" in text
    twinstar, plain = (
        next(line for line in text.splitlines() if name in line) for name in ("twinstar", "plain ")
    )
    assert [cell.strip() for cell in twinstar.split("|")[1:-1]] == (
        ["twinstar", "200", "41.5", "1", "300", "1.00", "2.00", "100", "–"]
    )
    assert [cell.strip() for cell in plain.split("|")[1:-1]] == (
        ["plain", "200", "41.5", "1", "100", "1.00", "2.00", "–", "3.00"]
    )
