"""The service over a known registry and a real store, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.experiments.plan import Plan, read_plan
from service.settings import Settings
from service.stores import open_store
from service.stores.base import Store, StoreSettings
from tests.support.known_artefact import AT_MS, Past
from tests.support.known_registry import KnownRegistry, build_registry, fill_store
from tests.support.valkey_tcp import ValkeyTcp


class ManualClock:
    """A clock that a test sets. Durations move by a fixed step a reading, so they are never 0."""

    def __init__(self, at_ms: int = AT_MS) -> None:
        self.at_ms = at_ms
        self.monotonic = 0.0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        self.monotonic += 0.0001
        return self.monotonic


@dataclass(frozen=True)
class World:
    """A running service and what is known of it. `clusters` are what the store's snapshot holds."""

    client: httpx.AsyncClient
    app: FastAPI
    clock: ManualClock
    registry: KnownRegistry
    plan: Plan
    store: Store
    clusters: dict[str, list[Past]]

    async def score(
        self, body: Any, domain: str | None = "mailer", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """POST a body to /score."""
        sent = dict(headers or {}) | ({"X-Domain": domain} if domain is not None else {})
        return await self.client.post("/score", json=body, headers=sent)


PATIENT = {"store_timeout_ms": 20_000, "retry_interval_ms": 3_600_000}


def make_settings(registry: KnownRegistry, store_url: str, **changes: Any) -> Settings:
    """Return settings over a known registry: a patient store, and nobody looking again by himself."""
    return Settings(
        registry=registry.folder,
        experiments_file=registry.plan_file,
        store_url=store_url,
        **{**PATIENT, **changes},
    )


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run an app's lifespan, and give a client to it that gets answers where the app raises."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://twinstar") as client,
    ):
        yield client


@pytest.fixture(scope="session")
def known_registry(tmp_path_factory: pytest.TempPathFactory) -> KnownRegistry:
    """One registry for all tests that only read it."""
    return build_registry(tmp_path_factory.mktemp("registry"))


Worlds = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def worlds(known_registry: KnownRegistry) -> Worlds:
    """Run services over the known registry and a store of one's own, with changed settings."""

    @asynccontextmanager
    async def run(
        store_url: str, registry: KnownRegistry = known_registry, **changes: Any
    ) -> AsyncIterator[World]:
        clock = ManualClock()
        app = create_app(make_settings(registry, store_url, **changes), clock=clock)
        store = await open_store(store_url, StoreSettings(timeout_ms=20_000))
        clusters = await fill_store(store, registry.catalogue)
        async with running(app) as client:
            yield World(client, app, clock, registry, read_plan(registry.plan_file), store, clusters)
        await store.close()

    return run


@pytest.fixture
async def world(worlds: Worlds, tmp_path: Path) -> AsyncIterator[World]:
    """A service over the known registry and an embedded store of its own."""
    async with worlds(f"embedded://{tmp_path}/store") as running_world:
        yield running_world


@pytest.fixture
async def tcp_world(worlds: Worlds, own_valkey_tcp: ValkeyTcp) -> AsyncIterator[World]:
    """A service over a Redis server that the test may kill."""
    async with worlds(own_valkey_tcp.url, store_timeout_ms=1000) as running_world:
        yield running_world
