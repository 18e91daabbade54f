"""The command `study`: read a configuration, run it, say what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

from training.study.config import load_study
from training.study.run import page_of, run_study


def run(config: Path, rows: list[str], *, report_only: bool, json: bool) -> bool:
    """Run a study; returns whether no fit failed. One that the budget left out is no failure."""
    study, pipeline = load_study(config)
    outcome = run_study(study, pipeline, rows=rows, report_only=report_only, json=json)
    for name, reason in outcome.failed.items():
        sys.stderr.write(f"{name} failed:\n{reason}\n")
    if not json:
        sys.stderr.write(f"  study: see {page_of(study, pipeline)}\n")
    return not outcome.failed
