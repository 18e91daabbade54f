"""The store behind its breaker: one that is down costs its timeout only now and then, and may come later.

Knows nothing of what is read and written.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from service.breaker import Breaker
from service.stores import open_store
from service.stores.base import (
    AppendResult,
    CacheWatch,
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
    """A store that may be missing. `count_error` is told the kind of each failure.

    What the store holds in this process needs no server, so the breaker has no say in it and learns nothing of it.
    """

    def __init__(
        self,
        url: str,
        settings: StoreSettings,
        breaker: Breaker,
        count_error: Callable[[str], None],
        watch: CacheWatch | None = None,
    ) -> None:
        self._url = url
        self._settings = settings
        self._breaker = breaker
        self._count_error = count_error
        self._watch = watch
        self._store: Store | None = None

    async def open(self) -> None:
        """Open the store if it is not; one that does not start is missing until the next call.

        Raises:
            StoreUrlError: the URL names no store: that will not mend itself.
        """
        if self._store is None:
            try:
                self._store = await open_store(self._url, self._settings, self._watch)
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
        held = self._held(user_id, snapshot_id)
        if held is not None:
            return held
        return await self._guard(lambda store: store.read_user(user_id, snapshot_id))

    async def read_users(self, user_ids: Sequence[str], snapshot_id: str | None) -> list[UserRecord]:
        """As `Store.read_users`; raises StoreUnavailable at once while the breaker is open."""
        held = [self._held(user_id, snapshot_id) for user_id in user_ids]
        lacking = [user_id for user_id, record in zip(user_ids, held, strict=True) if record is None]
        if not lacking:
            return [record for record in held if record is not None]
        read = iter(await self._guard(lambda store: store.read_users(lacking, snapshot_id)))
        return [record or next(read) for record in held]

    def _held(self, user_id: str, snapshot_id: str | None) -> UserRecord | None:
        return None if self._store is None else self._store.held_user(user_id, snapshot_id)

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
