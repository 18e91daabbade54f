"""A process that dies in the middle of its writing, simulated in this one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_WRITING_CALLS = (
    (os, ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "chmod")),
    (shutil, ("copyfile", "rmtree")),
)


class Crash(BaseException):
    """The process is gone; nothing may catch it."""


class Process:
    """Counts the calls that change a disk, and dies in the chosen one, before or after it takes effect.

    Once dead, no call has an effect any more: what `finally` blocks would clean up stays as it lies.
    """

    def __init__(self, *, dies_at: int | None, after: bool) -> None:
        self.calls_count = 0
        self._dies_at, self._after, self._dead = dies_at, after, False

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: object, **kwargs: object) -> object:
            if self._dead:
                raise Crash
            self.calls_count += 1
            self._dead = self.calls_count == self._dies_at
            if self._dead and not self._after:
                raise Crash
            result = call(*args, **kwargs)
            if self._dead:
                raise Crash
            return result

        return wrapped


@contextmanager
def process(*, dies_at: int | None = None, after: bool = False) -> Iterator[Process]:
    """Run a block as a process that dies at its `dies_at`-th writing call, counted from 1; None for never."""
    running = Process(dies_at=dies_at, after=after)
    with pytest.MonkeyPatch.context() as patch:
        for module, names in _WRITING_CALLS:
            for name in names:
                patch.setattr(module, name, running.wrap(getattr(module, name)))
        yield running
