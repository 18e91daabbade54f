"""What a store's cache did, for tests to look at."""

from __future__ import annotations

from service.stores.base import CacheWatch


class CacheLog(CacheWatch):
    """Counts as the service's metrics do."""

    def __init__(self) -> None:
        self.hits_count = self.misses_count = self.invalidated_count = self.held_bytes = 0
        self.resets: list[str] = []

    def looked_up(self, hits_count: int, misses_count: int) -> None:
        self.hits_count += hits_count
        self.misses_count += misses_count

    def holds(self, held_bytes: int) -> None:
        self.held_bytes = held_bytes

    def invalidated(self, keys_count: int) -> None:
        self.invalidated_count += keys_count

    def was_reset(self, reason: str) -> None:
        self.resets.append(reason)
