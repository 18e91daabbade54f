"""The plots of the study's page, as SVG. Each function writes one file and knows nothing of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.metrics import natural
from training.metrics.activity import equal_groups
from training.metrics.evaluate import ALL_DOMAINS
from training.report.study_text import LOG_LOSS_SCALE
from training.study.rows import SplitRows
from training.study.systems import System

F64 = npt.NDArray[np.float64]

QUARTILES_COUNT: Final = 4
GROUP_COLORS: Final = "tab10"


def quality(path: Path, systems: Sequence[System], *, rival: System | None) -> None:
    """AUC and GAUC of all systems on all test rows with 95 % intervals, best on top; a line at the rival."""
    figure, panels = _figure(1, 2, width=11, height=1.2 + 0.24 * len(systems))
    groups = list(dict.fromkeys(system.group for system in systems))
    for panel, metric in zip(panels[0], ("auc", "gauc"), strict=True):
        ordered = sorted(systems, key=lambda s: s.estimate(metric, ALL_DOMAINS).value)
        for place, system in enumerate(ordered):
            estimate = system.estimate(metric, ALL_DOMAINS)
            low, high = estimate.interval
            color = _color(groups.index(system.group))
            panel.plot([low, high], [place, place], color=color, linewidth=1.2)
            panel.plot(estimate.value, place, "o", color=color, markersize=4)
        panel.set_yticks(range(len(ordered)), [system.label for system in ordered], fontsize=7)
        if rival is not None:
            panel.axvline(
                rival.estimate(metric, ALL_DOMAINS).value, color="grey", linewidth=0.8, linestyle="--"
            )
        panel.set_xlabel(f"click {metric.upper()}, 95 % over users")
        panel.grid(axis="x", linewidth=0.3)
    handles = [
        panels[0][0].plot([], [], "o", color=_color(i), markersize=4, label=group)[0]
        for i, group in enumerate(groups)
    ]
    figure.legend(handles=handles, loc="upper center", ncols=min(8, len(groups)), fontsize=7, frameon=False)
    _save(figure, path, top=1 - 0.35 / figure.get_size_inches()[1])


def reliability(path: Path, systems: Sequence[System], rows: SplitRows) -> None:
    """Predicted against observed click rate in 20 bins of equal natural mass: a panel for all, and each domain."""
    names = (ALL_DOMAINS, *rows.domain_names)
    figure, panels = _figure(1, len(names), width=3.2 * len(names), height=3.4)
    for number, (name, panel) in enumerate(zip(names, panels[0], strict=True), start=-1):
        own = np.ones(len(rows.domains), bool) if number < 0 else rows.domains == number
        own &= ~np.isnan(rows.labels[:, 0])
        for system in systems:
            table = natural.reliability(
                rows.labels[own, 0], system.probability("test")[:, 0][own], rows.weights[own]
            )
            shown = (table.observed_rate > 0) & (table.mean_probability > 0)
            panel.plot(
                table.mean_probability[shown],
                table.observed_rate[shown],
                ".-",
                label=system.label,
                linewidth=0.8,
            )
        panel.axline((1e-4, 1e-4), (1e-3, 1e-3), color="grey", linewidth=0.8)
        panel.set(title=name, xlabel="predicted", xscale="log", yscale="log")
    panels[0][0].set_ylabel("observed")
    panels[0][0].legend(fontsize=6)
    _save(figure, path)


def learning_curves(path: Path, systems: Sequence[System]) -> None:
    """Log-loss on some validation visits over a fit, a panel a group; the epoch kept is a dot.

    A row of a model per domain has none: its models are validated on rows of their own.
    """
    curves = {system.name: _curves(system) for system in systems}
    groups = list(dict.fromkeys(system.group for system in systems if curves[system.name]))
    columns = min(4, max(1, len(groups)))
    lines = -(-max(1, len(groups)) // columns)
    figure, panels = _figure(lines, columns, width=3.6 * columns, height=3.0 * lines)
    for group, panel in zip(groups, panels.flat, strict=False):
        own = [system for system in systems if system.group == group and curves[system.name]]
        for place, system in enumerate(own):
            for number, (curve, kept) in enumerate(curves[system.name]):
                label = system.label if number == 0 else None
                epochs, losses = zip(*curve, strict=True)
                panel.plot(epochs, losses, color=_color(place), linewidth=0.9, label=label)
                panel.plot(kept, dict(curve)[kept], "o", color=_color(place), markersize=4)
        panel.set_title(group, fontsize=9)
        panel.set_xlabel("epoch")
        panel.legend(fontsize=6, framealpha=0.5)
    for panel in list(panels.flat)[len(groups) :]:
        panel.set_visible(False)
    panels[0][0].set_ylabel("validation log-loss ×10³")
    _save(figure, path)


def _curves(system: System) -> list[tuple[list[tuple[float, float]], int]]:
    """Return (epochs done, log-loss ×10³) and the epoch kept, for each seed that has them."""
    found = []
    for one in system.seeds:
        part = one.parts[0] if len(one.parts) == 1 else None
        if part is not None and part.curve:
            found.append(([(epochs, loss * LOG_LOSS_SCALE) for epochs, loss in part.curve], part.best_epoch))
    return found


def history_length(
    path: Path, systems: Sequence[System], rows: SplitRows, behaviors: npt.NDArray[np.int64]
) -> None:
    """Click AUC by quartile of how many behaviors the user had before the exposure; `behaviors` is (B,)."""
    quartile = equal_groups(behaviors, QUARTILES_COUNT)
    numbers = np.unique(quartile)
    figure, panels = _figure(1, 1, width=7, height=4)
    panel = panels[0][0]
    for system in systems:
        p = system.probability("test")[:, 0]
        values = [
            natural.auc(rows.labels[quartile == q, 0], p[quartile == q], rows.weights[quartile == q])
            for q in numbers
        ]
        panel.plot(
            range(len(numbers)),
            [np.nan if v is None else v for v in values],
            "o-",
            label=system.label,
            markersize=4,
        )
    ranges = [behaviors[quartile == q] for q in numbers]
    panel.set_xticks(range(len(numbers)), [f"{r.min():,}–{r.max():,}" for r in ranges])
    panel.set(xlabel="behaviors before the exposure, quartiles of test rows", ylabel="click AUC")
    panel.legend(fontsize=7)
    panel.grid(linewidth=0.3)
    _save(figure, path)


def cost(path: Path, systems: Sequence[System]) -> None:
    """Seconds of a fit and parameters, means over seeds, of the systems that tell either; the first on top."""
    told = [s for s in systems if s.seeds[0].seconds is not None or s.seeds[0].parameters is not None][::-1]
    groups = list(dict.fromkeys(system.group for system in systems))
    figure, panels = _figure(1, 2, width=11, height=1.0 + 0.22 * len(told))
    for panel, name in zip(panels[0], ("seconds", "parameters"), strict=True):
        values = [[float(v) for one in s.seeds if (v := getattr(one, name)) is not None] for s in told]
        means = [float(np.mean(own)) if own else np.nan for own in values]  # no bar, not one of 0
        colors = [_color(groups.index(system.group)) for system in told]
        panel.barh(range(len(told)), means, color=colors, height=0.6)
        panel.set_yticks(range(len(told)), [system.label for system in told], fontsize=7)
        panel.set_xlabel("seconds of a fit" if name == "seconds" else name)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.tick_params(axis="x", labelsize=7)
        panel.grid(axis="x", linewidth=0.3)
    _save(figure, path)


def _figure(lines: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(lines, columns, figsize=(width, height), squeeze=False)


def _color(number: int) -> Any:
    from matplotlib import colormaps

    return colormaps[GROUP_COLORS](number % 10)


def _save(figure: Any, path: Path, *, top: float = 1.0) -> None:
    """Write an SVG whose text is text and whose bytes depend on the figure alone."""
    from matplotlib import pyplot, rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "study"}):
        figure.tight_layout(rect=(0, 0, 1, top))
        figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
