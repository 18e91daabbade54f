"""The study's page: what was asked, tables and plots, all written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from training.metrics.activity import ActivityRow, by_activity
from training.metrics.natural import pcoc
from training.report import study_plots as plots
from training.report import study_tables as tables
from training.report.activity import behaviors_before, plot_activity
from training.report.study_text import NAMES, number
from training.study.bars import best_row, judge, judge_elsewhere
from training.study.config import StudyConfig
from training.study.fitting import Inputs
from training.study.rows import SplitRows
from training.study.schedule import Outcome
from training.study.systems import LIBRARY, System, seed_deviation

I64 = npt.NDArray[np.int64]

LINES_MAX: Final = 9
"""Systems in one plot of lines: more cannot be told apart."""

WEEK_MS: Final = 7 * 24 * 3600 * 1000


def write_page(
    config: StudyConfig, inputs: Inputs, systems: Mapping[str, System], outcome: Outcome, *, page: Path
) -> None:
    """Write the page, and its plots into the folder beside it that has its name."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_head(config, inputs, systems, outcome)]
    if systems:
        sections += _bars(config, systems)
        sections += _plots(config, inputs, systems, folder)
        sections += _tables(config, systems, inputs.splits["test"].task_names)
    page.write_text("\n\n".join(sections) + "\n")


def _head(config: StudyConfig, inputs: Inputs, systems: Mapping[str, System], outcome: Outcome) -> str:
    spec, test = inputs.bench.dataset.spec, inputs.splits["test"]
    asked = [(name, seed) for name, row in config.rows.items() for seed in row.seeds]
    done = {(name, one.seed) for name in config.rows if name in systems for one in systems[name].seeds}
    missing = [f"`{name}` (seed {seed})" for name, seed in asked if (name, seed) not in done]
    hours = sum(one.seconds or 0 for s in systems.values() if s.library == LIBRARY for one in s.seeds) / 3600
    lines = [
        "# Study",
        "Written by `make study` (`python -m training study configs/study.yaml`) from what it measured; not edited by "
        "hand.",
        f"Dataset `{spec.name}` ({spec.fingerprint[:12]}): {len(test.labels):,} test rows of "
        f"{len(np.unique(test.users)):,} users, {len(inputs.splits['validation'].labels):,} validation rows. "
        f"{len(done)} of {len(asked)} fits are done; they took {hours:.1f} hours, {config.processes} at a time with "
        f"one thread each, within a budget of {config.budget_hours:g} hours a run.",
        "All rows see the same exposures, split and features unless their label says otherwise. An epoch is chosen by "
        "log-loss on the validation weeks, and so is the row called best; the test weeks are scored once a fit. "
        f"All metrics are natural: a negative counts for those that were left out. "
        f"{NAMES['gauc']} is by user. Intervals are 95 % by bootstrap over users, in differences paired; with several "
        "seeds a figure is their mean, and ± is their standard deviation.",
        *([config.note] if config.note else []),
        *_noise(inputs, systems),
    ]
    if missing:
        lines.append("**Missing:** " + ", ".join(missing) + ".")
    if outcome.failed:
        reasons = (f"`{name}`: {text.strip().splitlines()[-1]}" for name, text in outcome.failed.items())
        lines.append("**Failed:** " + "; ".join(reasons))
    return "\n\n".join(lines)


def _noise(inputs: Inputs, systems: Mapping[str, System]) -> list[str]:
    """Return what moves figures besides users, which alone the intervals are over."""
    told: list[str] = []
    several = [system for system in systems.values() if len(system.seeds) > 1]
    if several:
        moved = [
            f"{NAMES[metric]} {number(seed_deviation(several, metric), metric)}"
            for metric in ("auc", "gauc", "log_loss", "pcoc", "calibration_error")
        ]
        told.append(
            f"Another seed moves a fit by (standard deviation, rows of several seeds): {', '.join(moved)}."
        )
    best = best_row(systems)
    weekly = [] if best is None else pcoc_by_week(inputs, systems[best])
    if best is not None and weekly:
        told.append(
            f"{NAMES['pcoc']} of {systems[best].label} in single test weeks lies between {number(min(weekly), 'pcoc')} "
            f"and {number(max(weekly), 'pcoc')}."
        )
    return ["Intervals are over users alone. " + " ".join(told)] if told else []


def pcoc_by_week(inputs: Inputs, system: System) -> list[float]:
    """Return predicted over observed of the first task in each test week that has positives."""
    test, p = inputs.splits["test"], system.probability("test")[:, 0]
    at_ms = inputs.bench.dataset.exposures["shown_at_ms"].to_numpy()[test.rows]
    week = (at_ms - at_ms.min()) // WEEK_MS
    chosen = [(week == w) & ~np.isnan(test.labels[:, 0]) for w in np.unique(week)]
    found = [pcoc(test.labels[own, 0], p[own], test.weights[own]) for own in chosen]
    return [value for value in found if value is not None]


def _bars(config: StudyConfig, systems: Mapping[str, System]) -> list[str]:
    if not config.bars and not config.bars_elsewhere:
        return []
    best = best_row(systems)
    note = (
        "*Met* means that the whole interval lies on the right side, *within chance* that the estimate alone does. "
        "Of several comparisons the hardest is shown."
    )
    if best is not None:
        note += (
            f" Best on validation: **{systems[best].label}** (log-loss ×10³ "
            f"{number(systems[best].validation('log_loss'), 'log_loss')})."
        )
    judgements = [judge(bar, systems) for bar in config.bars]
    elsewhere = [judge_elsewhere(bar) for bar in config.bars_elsewhere]
    return ["## Asked and measured", note, tables.bars_table(judgements, elsewhere, systems)]


def _plots(config: StudyConfig, inputs: Inputs, systems: Mapping[str, System], folder: Path) -> list[str]:
    test = inputs.splits["test"]
    shown = shown_as_lines(config, systems)
    begin_ms = inputs.bench.dataset.spec.splits.validation_end_ms
    by_user = behaviors_before(inputs.bench.dataset, inputs.data.users, begin_ms)
    user_of_row = inputs.data.visit_user[inputs.data.request_visit[test.requests]]
    active = _activity(shown, test, by_user[user_of_row])
    every = list(systems.values())
    plots.quality(folder / "quality.svg", every, rival=systems.get(config.rival))
    plots.reliability(folder / "reliability.svg", shown, test)
    plots.learning_curves(folder / "learning_curves.svg", every)
    plots.history_length(folder / "history_length.svg", shown, test, behaviors_before_exposures(inputs))
    plot_activity(folder / "activity.svg", active, task=test.task_names[0], domain_names=test.domain_names)
    plots.cost(folder / "cost.svg", every)
    titles = {
        "quality": "AUC and GAUC",
        "reliability": "Reliability",
        "learning_curves": "Learning curves",
        "history_length": "Quality over history length",
        "activity": "Calibration by users' activity",
        "cost": "Seconds and parameters",
    }
    return [f"## {title}\n\n![{title}]({folder.name}/{name}.svg)" for name, title in titles.items()]


def _tables(config: StudyConfig, systems: Mapping[str, System], tasks: Sequence[str]) -> list[str]:
    every = list(systems.values())
    sections = [f"## `{tasks[0]}` on the test weeks"]
    for group in dict.fromkeys(system.group for system in every):
        own = [system for system in every if system.group == group]
        sections += [f"### {group}", tables.systems_table(own)]
    sections += ["## By domain", tables.domains_table(every)]
    for name, title in ((config.rival, "Against the rival"), (config.reference, "Against the reference")):
        if name in systems:
            sections += [f"## {title}", tables.differences_table(every, systems[name])]
    if len(tasks) > 1:
        note = "A task that implies a click is the product of its probability given a click and the click's."
        sections += ["## Other tasks", note, tables.tasks_table(every, tasks[1:])]
    return sections


def shown_as_lines(config: StudyConfig, systems: Mapping[str, System]) -> list[System]:
    """Return the systems of plots with a line each: rival, reference, best, then headline rows."""
    names = [config.rival, config.reference, best_row(systems)]
    names += [name for name, row in config.rows.items() if row.headline]
    found = [systems[name] for name in dict.fromkeys(names) if name is not None and name in systems]
    return found[:LINES_MAX]


def _activity(systems: Sequence[System], rows: SplitRows, behaviors: I64) -> dict[str, list[ActivityRow]]:
    """Return the first task's calibration by decile of users, by system; `behaviors` (B,) is of the row's user."""
    return {
        system.label: by_activity(
            rows.labels[:, :1],
            system.probability("test")[:, :1],
            rows.weights,
            users=rows.users,
            activity=behaviors,
            domains=rows.domains,
            domain_names=rows.domain_names,
            task_names=rows.task_names[:1],
        )
        for system in systems
    }


def behaviors_before_exposures(inputs: Inputs) -> I64:
    """Return how many behaviors the user of each test row had before the exposure, (B,)."""
    dataset, rows = inputs.bench.dataset, inputs.splits["test"].rows
    shown = dataset.exposures.select("user_id", at_ms=pl.col("shown_at_ms"))[rows].with_row_index("row")
    behaviors = dataset.behaviors.select("user_id", "at_ms").sort("user_id", "at_ms")
    numbered = behaviors.with_columns(count=pl.col("at_ms").cum_count().over("user_id").cast(pl.Int64))
    joined = shown.sort("at_ms").join_asof(
        numbered.sort("at_ms", maintain_order=True),
        on="at_ms",
        by="user_id",
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    return joined.sort("row")["count"].fill_null(0).to_numpy().astype(np.int64)
