"""Writes the last results of `make bench` into docs/performance.md, between its two marks.

python -m benchmarks.report [--results FILE.json] [--page FILE.md]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import table

BEGIN: Final = "<!-- results: written by `python -m benchmarks.report` -->"
END: Final = "<!-- end of results -->"
OURS: Final = "twinstar"

Row = Mapping[str, Any]


class ReportError(Exception):
    """The page has no place for results."""


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, and a table."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    lines = [
        [
            row["system"],
            row["n"],
            f"{row['c']:.1f}",
            row["connections"],
            *(None if row[name] is None else float(row[name]) for name in FIGURES),
            times_better(row, rows),
        ]
        for row in rows
    ]
    return "\n".join(
        [
            f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}.",
            "",
            table([*HEADER, *FIGURES.values(), "requests per second, ours over this"], lines),
        ]
    )


HEADER: Final = ("system", "n", "c", "connections")
FIGURES: Final = {
    "rps": "requests per second",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "cpu_us_per_request": "CPU per request, µs",
}


def times_better(row: Row, rows: Sequence[Row]) -> float | None:
    """Return how many requests a second ours answers for one of another system; None where ours has no such row."""
    cell = ("n", "c", "connections")
    for ours in rows:
        if ours["system"] == OURS != row["system"] and all(ours[key] == row[key] for key in cell):
            return float(ours["rps"]) / float(row["rps"])
    return None


def placed(page: str, results: str, *, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """Return a page with the results between two marks.

    Raises:
        ReportError: it lacks a mark.
    """
    head, begin, rest = page.partition(marks[0])
    _, end, tail = rest.partition(marks[1])
    if not begin or not end:
        raise ReportError(f"the page has no lines {marks[0]!r} and {marks[1]!r}")
    return f"{head}{begin}\n{results}\n{end}{tail}"


def main() -> None:
    """Read the results and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/bench.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    try:
        results = rendered(json.loads(arguments.results.read_text()))
        arguments.page.write_text(placed(arguments.page.read_text(), results))
    except (OSError, json.JSONDecodeError, ReportError) as error:
        sys.exit(f"report: {error}")


if __name__ == "__main__":
    main()
