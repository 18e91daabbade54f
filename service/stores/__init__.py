"""Stores of users' life cycles: one file a kind, and its name is the scheme of its URLs.

Knows nothing of HTTP, of models or of what the bytes mean; keys come from `service.contract.store_keys`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from urllib.parse import urlsplit

from service.stores.base import CacheWatch, Store, StoreSettings, StoreUrlError

_NOT_A_SCHEME = frozenset({"base", "cache", "connections", "invalidations", "valkey_server"})


def schemes() -> tuple[str, ...]:
    """Return the URL schemes that there is a store for: the names of the files in this folder."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_A_SCHEME)


async def open_store(
    url: str, settings: StoreSettings | None = None, watch: CacheWatch | None = None
) -> Store:
    """Return a store by its URL, without waiting for it: a store that is down opens, and fails when used.

    `watch` is told what its cache does, if it has one.

    Raises:
        StoreUrlError: no store has that scheme, or the rest of the URL does not fit it.
        StoreStartError: `embedded://` could not start its server.
    """
    scheme = urlsplit(url).scheme
    if scheme not in schemes():
        known = ", ".join(f"{name}://" for name in schemes())
        raise StoreUrlError(f"no store for URLs of scheme {scheme!r}; there are {known}")
    module = import_module(f"service.stores.{scheme}")
    store: Store = await module.open_url(url, settings or StoreSettings(), watch or CacheWatch())
    return store
