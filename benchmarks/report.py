"""Writes the last results of `make bench` into docs/performance.md, between its two marks, and its plots beside it.

python -m benchmarks.report [--results FILE.json] [--page FILE.md]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import plots
from benchmarks.figures import table

BEGIN: Final = "<!-- results: written by `python -m benchmarks.report` -->"
END: Final = "<!-- end of results -->"
OURS: Final = "twinstar"

Row = Mapping[str, Any]


class ReportError(Exception):
    """The page has no place for results."""


HEADER: Final = ("system", "n", "c", "connections")
FIGURES: Final = {
    "rps": "requests per second",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "cpu_us_per_request": "CPU per request, µs",
}
SECTIONS: Final = {
    ("ids", "closed"): "Ids in a closed loop: capacity",
    ("ids", "open"): "Ids in an open loop: latency at half of each system's own capacity",
    ("tensors", "closed"): "Ready tensors in a closed loop, and ONNX Runtime alone",
}
PLOTS: Final = {
    "grid": "CPU of a request by candidates and clusters",
    "peers": "CPU of a request beside the peers, on the same graph",
}


def rendered(results: Mapping[str, Any], *, plots_folder: str | None = None) -> str:
    """Return the results as Markdown: where they come from, the bars, a table for each input and loop.

    plots_folder: where the plots lie, as the page names it.
    """
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    about = f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}."
    if "about" in results:
        about += (
            f" Measured on {results['about']}; rounds: {results['rounds']}; load average when it began: "
            f"{results['load_average']}."
        )
    parts = [about]
    if results.get("bars"):
        parts += ["### Bars", bars_table(results["bars"])]
    for (input_, loop), title in SECTIONS.items():
        chosen = [row for row in rows if (row["input"], row["loop"]) == (input_, loop)]
        if chosen:
            parts += [f"### {title}", rows_table(chosen)]
    if plots_folder is not None:
        parts += [f"![{title}]({plots_folder}/{name}.svg)" for name, title in PLOTS.items()]
    if results.get("left_out"):
        parts += ["Left out:", "\n".join(f"- {line}" for line in results["left_out"])]
    return "\n\n".join(parts)


def bars_table(bars: Sequence[Row]) -> str:
    """Return the bars as a table: the ratio as the median of the rounds, and their range."""
    header = ["bar", "n", "c", "against", "ratio", "lowest", "highest", "pass", "goal", "met"]
    keys = ("name", "n", "c", "against", "median", "low", "high", "passes", "goal", "verdict")
    return table(header, [[f"{bar['c']:.0f}" if key == "c" else bar[key] for key in keys] for bar in bars])


def rows_table(rows: Sequence[Row]) -> str:
    """Return rows of one input and loop as a table."""
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
    return table([*HEADER, *FIGURES.values(), "requests per second, ours over this"], lines)


def times_better(row: Row, rows: Sequence[Row]) -> float | None:
    """Return how many requests a second ours answers for one of another system; None where ours has no such row.

    An open loop asks each system at a rate of its own, so there is no such ratio.
    """
    cell = ("n", "c", "connections", "input", "loop")
    if row["loop"] == "closed" and row["system"] != OURS:
        for ours in rows:
            if ours["system"] == OURS and all(ours[key] == row[key] for key in cell):
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
    """Read the results, write the plots and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/bench.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    try:
        results = json.loads(arguments.results.read_text())
        folder = arguments.page.with_suffix("")
        folder.mkdir(exist_ok=True)
        for name in PLOTS:
            getattr(plots, name)(folder / f"{name}.svg", results["rows"])
        text = placed(arguments.page.read_text(), rendered(results, plots_folder=folder.name))
        arguments.page.write_text(text)
    except (OSError, json.JSONDecodeError, ReportError) as error:
        sys.exit(f"report: {error}")


if __name__ == "__main__":
    main()
