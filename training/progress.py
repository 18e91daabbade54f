"""Progress on standard error: bars for a person, nothing where nobody looks. Results go to stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Bars and lines of one stage."""

    def __init__(self, *, stage: str = "", quiet: bool = False) -> None:
        self.stage, self.quiet = stage, quiet

    @contextmanager
    def task(self, name: str, *, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar; yields the function that moves it on."""
        label = f"{self.stage} · {name}" if self.stage else name
        with tqdm(
            total=total,
            desc=f"  {label:<22}",
            unit_scale=True,
            disable=self.quiet or not sys.stderr.isatty(),
            leave=False,
            file=sys.stderr,
        ) as bar:
            yield bar.update

    def say(self, line: str) -> None:
        """Print one line."""
        if not self.quiet:
            tqdm.write(f"  {self.stage}: {line}", file=sys.stderr)
