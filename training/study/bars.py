"""What was asked of the study against what was measured. Knows nothing of how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from training.metrics.bootstrap import Estimate
from training.metrics.evaluate import ALL_DOMAINS
from training.study.config import Bar, BarElsewhere
from training.study.others import read_rows
from training.study.systems import LIBRARY, MACRO, System

BEST: Final = "best"
EVERY: Final = "every"
EACH: Final = "each"

Verdict = Literal["met", "met, within chance", "missed", "reported", "not measured"]


@dataclass(frozen=True)
class Finding:
    """One comparison that a bar asks for; `than` is empty where a row is held against a bound.

    margin: how far the estimate lies on the right side of the bound, negative where on the wrong one.
    sure: whether the whole interval lies on the right side.
    """

    row: str
    than: str
    metric: str
    domain: str
    estimate: Estimate
    margin: float
    sure: bool


@dataclass(frozen=True)
class Judgement:
    """What came of a bar: its comparisons, the hardest first, and the systems that it lacks."""

    bar: Bar
    findings: tuple[Finding, ...]
    lacking: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """`met` if every comparison is, its whole interval too; `within chance` if its estimate alone is."""
        if any(not finding.margin >= 0 for finding in self.findings):
            return "missed"
        if self.lacking or not self.findings:
            return "not measured"
        if self.bar.at_least is None and self.bar.at_most is None:
            return "reported"
        return "met" if all(finding.sure for finding in self.findings) else "met, within chance"


def best_row(systems: Mapping[str, System]) -> str | None:
    """Return the row of the study with the least log-loss of the first task on validation.

    Rows that were calibrated there are left out: they have seen the answers.
    """
    own = [s for s in systems.values() if s.library == LIBRARY and not s.calibrated_on_validation]
    found = [(system.validation("log_loss"), system.name) for system in own]
    defined = [each for each in found if not np.isnan(each[0])]
    return min(defined)[1] if defined else None


def judge(bar: Bar, systems: Mapping[str, System]) -> Judgement:
    """Hold a bar against what was measured."""
    row = best_row(systems) if bar.row == BEST else bar.row
    others: list[str] = []
    for name in bar.than:
        others += [other for other in systems if other != row] if name == EVERY else [name]
    lacking = tuple(name for name in (row or BEST, *others) if name not in systems)
    if row is None or row not in systems:
        return Judgement(bar, (), lacking)
    system = systems[row]
    domains: list[str] = []
    for domain in bar.domains:
        domains += system.domains if domain == EACH else [domain]
    unknown = tuple(d for d in domains if d not in (ALL_DOMAINS, MACRO, *system.domains))
    findings = [
        _finding(bar, system, systems[than] if than else None, metric, domain)
        for than in (others if bar.than else [""])
        if not than or than in systems
        for metric in bar.metrics
        for domain in domains
        if domain not in unknown
    ]
    findings.sort(key=lambda finding: finding.margin if not np.isnan(finding.margin) else -np.inf)
    return Judgement(bar, tuple(findings), lacking + unknown)


def _finding(bar: Bar, row: System, than: System | None, metric: str, domain: str) -> Finding:
    estimate = row.over(than, metric, domain) if than else row.estimate(metric, domain)
    low, high = estimate.interval
    margins, sure = [float("inf")], True
    if bar.at_least is not None:
        margins.append(estimate.value - bar.at_least)
        sure &= low >= bar.at_least
    if bar.at_most is not None:
        margins.append(bar.at_most - estimate.value)
        sure &= high <= bar.at_most
    name = than.name if than else ""
    return Finding(row.name, name, metric, domain, estimate, float(np.min(margins)), bool(sure))


@dataclass(frozen=True)
class JudgementElsewhere:
    """What came of a bar on results of another command: the rows meant, the hardest first, each with its number."""

    bar: BarElsewhere
    rows: tuple[tuple[float, dict[str, Any]], ...]

    @property
    def verdict(self) -> Verdict:
        """Whether every row holds; results of other commands have no intervals here."""
        if not self.rows:
            return "not measured"
        if self.bar.at_least is None and self.bar.at_most is None:
            return "reported"
        return "met" if all(_margin(self.bar, value) >= 0 for value, _ in self.rows) else "missed"


def judge_elsewhere(bar: BarElsewhere) -> JudgementElsewhere:
    """Hold a bar against a file of results; one that is not there has no rows."""
    meant = [
        (float(row[bar.value]), row)
        for row in read_rows(bar.results)
        if row.get(bar.value) is not None
        and all(row.get(key) == value for key, value in bar.where.items())
        and not any(row.get(key) == value for key, value in bar.unlike.items())
    ]
    return JudgementElsewhere(bar, tuple(sorted(meant, key=lambda each: _margin(bar, each[0]))))


def _margin(bar: BarElsewhere, value: float) -> float:
    above = value - bar.at_least if bar.at_least is not None else float("inf")
    below = bar.at_most - value if bar.at_most is not None else float("inf")
    return min(above, below)
