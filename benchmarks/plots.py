"""The plots of docs/performance.md, as SVG: CPU of a request, by candidates and clusters, and beside the peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.systems import BOUND, OURS, PLAIN, PURE

Row = Mapping[str, Any]
CPU: Final = "cpu_us_per_request"
COLORS: Final = "tab10"


def grid(path: Path, rows: Sequence[Row]) -> None:
    """CPU of a request by number of candidates, a panel for each number of clusters, both on log scales."""
    systems = [OURS, PLAIN["served"], PLAIN["training"]]
    own = [row for row in _ids_at_one(rows) if row["system"] in systems and row["n"] > 1]
    lengths = sorted({row["c"] for row in own})
    figure, panels = _figure(1, max(1, len(lengths)), width=3.2 * max(1, len(lengths)), height=3.2)
    for panel, c in zip(panels[0], lengths, strict=False):
        for number, system in enumerate(systems):
            line = sorted(
                (row["n"], row[CPU] / 1000) for row in own if (row["system"], row["c"]) == (system, c)
            )
            if line:
                panel.plot(*zip(*line, strict=True), "o-", color=_color(number), markersize=4, label=system)
        panel.set(title=f"{c:,.0f} clusters", xlabel="candidates", xscale="log", yscale="log")
        ticks = sorted({row["n"] for row in own})
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.grid(linewidth=0.3)
    panels[0][0].set_ylabel("CPU of a request, ms")
    if own:
        panels[0][0].legend(fontsize=7)
    _save(figure, path)


def peers(path: Path, rows: Sequence[Row]) -> None:
    """CPU of a request of ids on our graph, a panel for each point that peers were measured at, least on top."""
    known = {OURS, PLAIN["served"], PURE, BOUND}
    own = [row for row in rows if _is_of_peers(row, known)]
    where = list(dict.fromkeys((row["n"], row["c"]) for row in own if row["system"] not in known))
    figure, panels = _figure(1, max(1, len(where)), width=4.4 * max(1, len(where)), height=3.0)
    for panel, (n, c) in zip(panels[0], where, strict=False):
        here = sorted((row for row in own if (row["n"], row["c"]) == (n, c)), key=lambda row: -row[CPU])
        colors = [_color(0 if row["system"] == OURS else 7 if row["system"] in known else 1) for row in here]
        panel.barh(range(len(here)), [row[CPU] / 1000 for row in here], color=colors, height=0.6)
        panel.set_yticks(range(len(here)), [row["system"] for row in here], fontsize=7)
        panel.set(title=f"{n} candidates, {c:,.0f} clusters", xlabel="CPU of a request, ms", xscale="log")
        panel.grid(axis="x", linewidth=0.3)
    _save(figure, path)


def _ids_at_one(rows: Iterable[Row]) -> list[Row]:
    asked = ("ids", "closed", 1)
    return [r for r in rows if (r["input"], r["loop"], r["connections"]) == asked and r[CPU] is not None]


def _is_of_peers(row: Row, known: set[str]) -> bool:
    """Return whether a row is of one connection and either ids on our graph, or ONNX Runtime alone."""
    if (row["loop"], row["connections"]) != ("closed", 1) or row[CPU] is None or row["n"] <= 1:
        return False
    if row["input"] == "tensors":
        return row["system"] in (PURE, BOUND)
    return row["system"] in known or row["system"].endswith("-served")


def _figure(lines: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(lines, columns, figsize=(width, height), squeeze=False)


def _color(number: int) -> Any:
    from matplotlib import colormaps

    return colormaps[COLORS](number % 10)


def _save(figure: Any, path: Path) -> None:
    """Write an SVG whose text is text and whose bytes depend on the figure alone."""
    from matplotlib import pyplot, rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "performance"}):
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
