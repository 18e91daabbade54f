"""Errors of the data.

TrainingError
└── DataError           the data are not as they must be
    └── BadRowsError    rows were refused; carries where and why
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.errors import TrainingError

_SHOWN_ROWS = 5


class DataError(TrainingError):
    """The data are not as they must be: a file, a column or a setting."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """Where a row is bad and why. `row` counts from 0 in the file; `column` may name several."""

    file: str
    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}, {self.column}: {self.reason}"


class BadRowsError(DataError):
    """Rows were refused. The message names how many and the first few."""

    def __init__(self, rows: Sequence[BadRow], *, rows_count: int) -> None:
        self.rows = tuple(rows)
        self.rows_count = rows_count
        shown = [f"  {row}" for row in self.rows[:_SHOWN_ROWS]]
        rest = rows_count - len(shown)
        tail = [f"  and {rest} more"] if rest > 0 else []
        advice = "Repair them, or write `bad_rows: set_aside` to go on without them."
        super().__init__("\n".join([f"{rows_count} bad rows:", *shown, *tail, advice]))
