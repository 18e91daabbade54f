"""Waiting for what happens beside a test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 30.0


async def eventually(condition: Callable[[], object]) -> None:
    """Return when a condition holds; fail where it does not in a time that no machine needs."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true"
        await asyncio.sleep(0.001)
