"""The store behind its breaker: one that is down costs its timeout only now and then, and may come later.

Knows nothing of what is read and written.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from service.breaker import Breaker
from service.stores import open_store
from service.stores.base import (
    AppendResult,
    Store,
    StoreSettings,
    StoreStartError,
    StoreTimeout,
    StoreUnavailable,
    UserRecord,
)

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class GuardedStore:
    """A store that may be missing. `count_error` is told the kind of each failure."""

    def __init__(
        self, url: str, settings: StoreSettings, breaker: Breaker, count_error: Callable[[str], None]
    ) -> None:
        self._url = url
        self._settings = settings
        self._breaker = breaker
        self._count_error = count_error
        self._store: Store | None = None

    async def open(self) -> None:
        """Open the store if it is not; one that does not start is missing until the next call.

        Raises:
            StoreUrlError: the URL names no store: that will not mend itself.
        """
        if self._store is None:
            try:
                self._store = await open_store(self._url, self._settings)
            except StoreStartError as error:
                _log.error("the store is missing, requests are scored without history: %s", error)

    async def close(self) -> None:
        """Close the store if it is open."""
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def is_up(self) -> bool:
        """Return whether the store answers now, whatever the breaker thinks."""
        if self._store is None:
            return False
        try:
            await self._store.ping()
        except StoreUnavailable:
            return False
        return True

    async def read_user(self, user_id: str, snapshot_id: str | None) -> UserRecord:
        """As `Store.read_user`; raises StoreUnavailable at once while the breaker is open."""
        return await self._guard(lambda store: store.read_user(user_id, snapshot_id))

    async def append_behaviors(
        self, user_id: str, records: bytes, *, cap: int, keep_from_ms: int
    ) -> AppendResult:
        """As `Store.append_behaviors`; raises StoreUnavailable at once while the breaker is open."""
        return await self._guard(
            lambda store: store.append_behaviors(user_id, records, cap=cap, keep_from_ms=keep_from_ms)
        )

    async def _guard(self, call: Callable[[Store], Awaitable[T]]) -> T:
        if self._store is None:
            self._count_error("missing")
            raise StoreUnavailable("the store is missing")
        if not self._breaker.allows():
            self._count_error("breaker_open")
            raise StoreUnavailable("the store is left alone after failures")
        try:
            result = await call(self._store)
        except StoreUnavailable as error:
            self._breaker.failed()
            self._count_error("timeout" if isinstance(error, StoreTimeout) else "unavailable")
            raise
        self._breaker.succeeded()
        return result
