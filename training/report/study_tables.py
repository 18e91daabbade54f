"""The tables of the study's page, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.metrics.evaluate import ALL_DOMAINS
from training.report.study_text import NAMES, count, number, table, with_interval
from training.study.bars import Finding, Judgement, JudgementElsewhere
from training.study.config import Bar
from training.study.systems import MACRO, System

WHOLE = ("auc", "gauc")
POINTS = ("log_loss", "pcoc", "calibration_error")


def bars_table(
    judgements: Sequence[Judgement], elsewhere: Sequence[JudgementElsewhere], systems: Mapping[str, System]
) -> str:
    """Return what was asked, what was measured, and whether it is enough."""
    rows = [[each.bar.asked, _measured(each, systems) or "–", _verdict(each)] for each in judgements]
    rows += [[each.bar.asked, _measured_elsewhere(each), f"**{each.verdict}**"] for each in elsewhere]
    return table(("asked", "measured", "verdict"), rows, left=3)


def _verdict(judgement: Judgement) -> str:
    text = f"**{judgement.verdict}**"
    if judgement.lacking:
        text += f" (lacking: {', '.join(dict.fromkeys(judgement.lacking))})"
    return text


def _measured(judgement: Judgement, systems: Mapping[str, System]) -> str:
    """Return the hardest comparison of each metric, and how many there were."""
    parts: list[str] = []
    for metric in judgement.bar.metrics:
        own = [finding for finding in judgement.findings if finding.metric == metric]
        if own:
            more = f", the hardest of {len(own)}" if len(own) > 1 else ""
            parts.append(_finding(own[0], judgement.bar, systems) + more)
    return "; ".join(parts)


def _measured_elsewhere(judgement: JudgementElsewhere) -> str:
    """Return the number of the hardest row, what tells it from the others, and where it was measured."""
    if not judgement.rows:
        return "–"
    value, row = judgement.rows[0]
    rows = [other for _, other in judgement.rows]
    telling = [
        str(own)
        for key, own in row.items()
        if isinstance(own, str) and any(other.get(key) != own for other in rows)
    ]
    more = f", the hardest of {len(rows)}" if len(rows) > 1 else ""
    told = f" ({', '.join(telling)})" if telling else ""
    return f"{value:.3g}{told}{more}; `{judgement.bar.results}`"


def _finding(finding: Finding, bar: Bar, systems: Mapping[str, System]) -> str:
    label = systems[finding.row].label
    where = {ALL_DOMAINS: "", MACRO: ", mean over domains"}.get(finding.domain, f", {finding.domain}")
    than = f" − {systems[finding.than].label}" if finding.than else ""
    value = with_interval(finding.estimate, finding.metric, signed=bool(finding.than))
    return f"{NAMES[finding.metric]} {value} ({label}{than}{where})"


def systems_table(systems: Sequence[System]) -> str:
    """Return the first task's metrics on all test rows, and what each system costs."""
    header = (
        "row", "seeds", *(f"{NAMES[m]} [95 %]" for m in WHOLE), *(f"{NAMES[m]}, mean over domains" for m in WHOLE),
        *(NAMES[m] for m in POINTS), "parameters", "seconds", "samples/s",
    )  # fmt: skip
    rows = []
    for system in systems:
        ours = [
            with_interval(system.estimate(m, ALL_DOMAINS), m, spread=system.spread(m, ALL_DOMAINS))
            for m in WHOLE
        ]
        macro = [number(system.estimate(m, MACRO).value, m) for m in WHOLE]
        points = [number(system.estimate(m, ALL_DOMAINS).value, m) for m in POINTS]
        cost = [_mean(system, name) for name in ("parameters", "seconds", "train_samples_per_s")]
        rows.append([system.label, str(len(system.seeds)), *ours, *macro, *points, *map(count, cost)])
    return table(header, rows)


def domains_table(systems: Sequence[System]) -> str:
    """Return the first task's metrics in each domain."""
    domains = systems[0].domains
    metrics = (*WHOLE, *POINTS)
    header = ("row", *(f"{NAMES[metric]}, {domain}" for metric in metrics for domain in domains))
    rows = [
        [system.label, *(number(system.estimate(m, d).value, m) for m in metrics for d in domains)]
        for system in systems
    ]
    return table(header, rows)


def differences_table(systems: Sequence[System], other: System) -> str:
    """Return the paired differences of the first task's metrics to another system, with intervals."""
    columns = [(m, d) for m in WHOLE for d in (ALL_DOMAINS, MACRO)]
    columns += [(m, ALL_DOMAINS) for m in ("log_loss", "calibration_error")]
    header = (
        f"row − {other.label}",
        *(NAMES[m] + (", mean over domains" if d == MACRO else "") for m, d in columns),
    )
    rows = [
        [system.label, *(with_interval(system.over(other, m, d), m, signed=True) for m, d in columns)]
        for system in systems
        if system.name != other.name
    ]
    return table(header, rows)


def tasks_table(systems: Sequence[System], tasks: Sequence[str]) -> str:
    """Return the metrics of all tasks but the first on all test rows, means over seeds."""
    metrics = ("auc", "gauc", "log_loss", "pcoc")
    header = ("row", *(f"{NAMES[metric]}, {task}" for task in tasks for metric in metrics))
    rows = []
    for system in systems:
        cells = []
        for task in tasks:
            for metric in metrics:
                values = [one.metric(metric, domain=ALL_DOMAINS, task=task) for one in system.seeds]
                cells.append(number(float(np.mean(values)), metric))
        if any(cell != "–" for cell in cells):
            rows.append([system.label, *cells])
    return table(header, rows)


def _mean(system: System, name: str) -> float | None:
    values = [value for one in system.seeds if (value := getattr(one, name)) is not None]
    return float(np.mean(values)) if values else None
