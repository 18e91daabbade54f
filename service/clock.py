"""Time, passed in: what day it is, and how long something took."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks that the service reads."""

    def now_ms(self) -> int:
        """Return the wall clock's time since 1970, UTC."""

    def monotonic_s(self) -> float:
        """Return a time that never goes back, for durations only."""


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.perf_counter()
