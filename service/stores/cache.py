"""Values of the store kept in this process, by key: the least recently read go first.

It is open only while somebody vouches that every write is told (`invalidations.py`); shut, it is empty and keeps
nothing. By key and not by user, so that a behavior that is appended costs its few bytes again and not the snapshot.

Knows nothing of Redis, of users and of what the bytes mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from service.stores.base import CacheWatch

FLUSHED: Final = "flushed"
LOST: Final = "lost"
WRITTEN: Final = "written"
RESET_REASONS: Final = (FLUSHED, LOST, WRITTEN)
"""Why a cache is emptied: the server was, its word is no longer heard, this process wrote in bulk."""

ENTRY_BYTES: Final = 260
"""What an entry takes beside the characters of its key and the bytes of its value, at most: 90 are Python's for the two
objects, the others its places in a dictionary that is never full and in the order (60 to 100 while the cache fills, up
to 167 after entries came and went)."""


class ValueCache:
    """Values by key, None where the store has none, in at most `max_bytes` with all overhead. Shut at first."""

    def __init__(self, max_bytes: int, watch: CacheWatch) -> None:
        self._max_bytes = max_bytes
        self._watch = watch
        self._values: Final[OrderedDict[str, bytes | None]] = OrderedDict()
        self._reads: Final[dict[str, object]] = {}  # the last read under way that may keep a key
        self._held_bytes = 0
        self.is_open = False

    def __len__(self) -> int:
        return len(self._values)

    @property
    def held_bytes(self) -> int:
        """What it takes, keys and overhead included."""
        return self._held_bytes

    def open(self) -> None:
        """Keep values from now on: every write from here on will be told by `drop` or `reset`."""
        self.is_open = True

    def shut(self) -> None:
        """Forget all and keep nothing until it is opened again."""
        self.reset(LOST)
        self.is_open = False

    def reset(self, reason: str) -> None:
        """Forget all, and let no read that is under way keep anything."""
        if self.is_open:
            self._reads.clear()
            self._values.clear()
            self._held_bytes = 0
            self._watch.holds(0)
            self._watch.was_reset(reason)

    def find(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Return the values that are held, by key."""
        values = self._values
        found = {}
        for key in keys:
            if key in values:
                values.move_to_end(key)
                found[key] = values[key]
        self._watch.looked_up(len(found), len(keys) - len(found))
        return found

    def find_all(self, keys: Sequence[str]) -> list[bytes | None] | None:
        """Return the values in the keys' order, or None where one is not held: that is not counted as a read."""
        values = self._values
        for key in keys:
            if key not in values:
                return None
        for key in keys:
            values.move_to_end(key)
        self._watch.looked_up(len(keys), 0)
        return [values[key] for key in keys]

    @contextmanager
    def reading(self, keys: Sequence[str]) -> Iterator[Callable[[Sequence[bytes | None]], None]]:
        """Read keys from the store inside; what it is given is called with their values.

        A key that was dropped since the read began is not kept: the value may be older than the write.
        """
        if not self.is_open:
            yield lambda values: None
            return
        read = object()
        for key in keys:
            self._reads[key] = read

        def keep(values: Sequence[bytes | None]) -> None:
            for key, value in zip(keys, values, strict=True):
                if self._reads.get(key) is read:
                    self._put(key, value)
            self._trim()

        try:
            yield keep
        finally:
            for key in keys:
                if self._reads.get(key) is read:
                    del self._reads[key]

    def drop(self, keys: Iterable[str]) -> None:
        """Forget keys that were written, and let no read that is under way keep them."""
        before_bytes = self._held_bytes
        for key in keys:
            self._reads.pop(key, None)
            self._remove(key)
        if self._held_bytes != before_bytes:
            self._watch.holds(self._held_bytes)

    def told(self, keys: Sequence[str] | None) -> None:
        """Take the server's word that keys were written; None is all of them."""
        if keys is None:
            self.reset(FLUSHED)
            return
        self._watch.invalidated(len(keys))
        self.drop(keys)

    def _put(self, key: str, value: bytes | None) -> None:
        self._remove(key)
        size_bytes = _size_bytes(key, value)
        if size_bytes <= self._max_bytes:
            self._values[key] = value
            self._held_bytes += size_bytes

    def _remove(self, key: str) -> None:
        if key in self._values:
            self._held_bytes -= _size_bytes(key, self._values.pop(key))

    def _trim(self) -> None:
        while self._held_bytes > self._max_bytes:
            key, value = self._values.popitem(last=False)
            self._held_bytes -= _size_bytes(key, value)
        self._watch.holds(self._held_bytes)


def _size_bytes(key: str, value: bytes | None) -> int:
    return len(key) + len(value or b"") + ENTRY_BYTES
