"""A circuit breaker: what fails again and again is left alone for a while, so it costs its timeout rarely.

closed ──failures in a row──► open ──its time is over──► half-open: one caller tries
   ▲                            ▲                             │
   └────────── success ─────────┼─────────────────────────────┤
                                └── failure, twice as long ───┘
"""

from __future__ import annotations

from service.clock import Clock


class Breaker:
    """Counts failures in a row. For one event loop; not for threads."""

    def __init__(self, clock: Clock, *, failures_count: int, open_min_ms: int, open_max_ms: int) -> None:
        self._clock = clock
        self._failures_count = failures_count
        self._open_min_s, self._open_max_s = open_min_ms / 1000, max(open_min_ms, open_max_ms) / 1000
        self._failures = 0
        self._open_s = 0.0
        self._retry_at_s = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether failures have opened it. While it is, only now and then a caller is let through."""
        return self._failures >= self._failures_count

    def allows(self) -> bool:
        """Return whether a caller may try. Open, it lets one through when its time is over."""
        if not self.is_open:
            return True
        now_s = self._clock.monotonic_s()
        if now_s < self._retry_at_s:
            return False
        # The others wait for what this one finds; if it never says, one more may try as long from now.
        self._trying, self._retry_at_s = True, now_s + self._open_s
        return True

    def succeeded(self) -> None:
        """Note a success: it closes."""
        self._failures, self._trying = 0, False

    def failed(self) -> None:
        """Note a failure: enough in a row open it; the one that tried while it was open doubles its time."""
        self._failures += 1
        if self._failures == self._failures_count:
            self._open_s = self._open_min_s
        elif self._trying:
            self._open_s = min(self._open_s * 2, self._open_max_s)
        else:
            return
        self._trying = False
        self._retry_at_s = self._clock.monotonic_s() + self._open_s
