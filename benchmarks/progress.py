"""Progress of a benchmark, told on standard error."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line."""
    print(line, file=sys.stderr, flush=True)
