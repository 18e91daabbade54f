"""With the store gone, slow or damaged, requests are scored with less, which is named and counted."""

from __future__ import annotations

import signal

import pytest

from service.contract.store_keys import features_key, recent_key, snapshot_key
from tests.integration.service.conftest import World, Worlds
from tests.integration.service.test_score import assert_scores
from tests.support.known_artefact import Past, make_catalogue
from tests.support.known_registry import (
    AGE_BUCKET_OF_A_DAY,
    CATALOGUE_ITEMS,
    SNAPSHOT_ID,
    USERS,
    build_registry,
    loyalty_of,
    model_of,
    snapshot_of,
)
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio

USER = USERS[3]  # three clusters
BODY = {"user_id": USER, "candidates": ["apple", "corn"]}
CANDIDATES = [{"item_id": "apple"}, {"item_id": "corn"}]


async def test_a_killed_store_costs_the_history_and_nothing_else_until_it_is_back(
    tcp_world: World, own_valkey_tcp: ValkeyTcp
) -> None:
    model = model_of(USER, "mailer", tcp_world.plan)
    assert (await tcp_world.score(BODY)).json()["degraded"] == []
    own_valkey_tcp.kill()
    response = await tcp_world.score(BODY)
    assert_scores(response, model, CANDIDATES, domain="mailer", user_id=USER)
    assert response.json()["degraded"] == ["history"]
    assert (await tcp_world.client.get("/readyz")).json()["degraded"] == ["history"]
    metrics = (await tcp_world.client.get("/metrics")).text
    assert 'twinstar_degraded_total{reason="history"} 1.0' in metrics
    assert 'twinstar_store_errors_total{kind="unavailable"} 1.0' in metrics
    own_valkey_tcp.start()
    assert (await tcp_world.score(BODY)).json()["degraded"] == []
    assert (await tcp_world.client.get("/readyz")).json()["degraded"] == []


async def test_a_frozen_store_costs_its_timeout_a_few_times_and_then_is_left_alone(
    worlds: Worlds, own_valkey_tcp: ValkeyTcp
) -> None:
    async with worlds(
        own_valkey_tcp.url, store_timeout_ms=30, breaker_failures_count=3, breaker_open_min_ms=60_000
    ) as world:
        own_valkey_tcp.process.send_signal(signal.SIGSTOP)
        for _ in range(10):
            assert (await world.score(BODY)).json()["degraded"] == ["history"]
        own_valkey_tcp.process.send_signal(signal.SIGCONT)
        metrics = (await world.client.get("/metrics")).text
        assert 'twinstar_store_errors_total{kind="timeout"} 3.0' in metrics
        assert 'twinstar_store_errors_total{kind="breaker_open"} 7.0' in metrics
        assert (await world.score(BODY)).json()["degraded"] == ["history"]
        world.clock.monotonic += 60
        world.app.state.runtime.store._store._settings = world.store._settings  # type: ignore[attr-defined]
        assert (await world.score(BODY)).json()["degraded"] == []


async def test_a_store_that_is_down_at_the_start_is_used_when_it_comes(
    worlds: Worlds, own_valkey_tcp: ValkeyTcp
) -> None:
    async with worlds(own_valkey_tcp.url) as world:
        await world.app.state.runtime.store.close()
        own_valkey_tcp.kill()
        await world.app.state.runtime.look()
        assert (await world.client.get("/readyz")).status_code == 200
        assert (await world.score(BODY)).json()["degraded"] == ["history"]
        own_valkey_tcp.start()
        assert (await world.score(BODY)).json()["degraded"] == []


DAMAGE = {
    "snapshot": (b"\x09 what is this", ["snapshot_damaged"]),
    "features": (b"\x01\xc1", ["features_damaged"]),
    "recent": (b"x" * 21, ["recent_damaged"]),
}


@pytest.mark.parametrize("part", DAMAGE)
async def test_a_damaged_blob_costs_that_part_alone(
    tcp_world: World, own_valkey_tcp: ValkeyTcp, part: str
) -> None:
    blob, degraded = DAMAGE[part]
    keys = {
        "snapshot": snapshot_key(USER, SNAPSHOT_ID),
        "features": features_key(USER, SNAPSHOT_ID),
        "recent": recent_key(USER),
    }
    own_valkey_tcp.client().set(keys[part], blob)
    response = await tcp_world.score(BODY, "both")
    assert_scores(
        response,
        model_of(USER, "both", tcp_world.plan),
        CANDIDATES,
        domain="both",
        user_id=USER,
        features={} if part == "features" else {"loyalty": loyalty_of(USER)},
        clusters=() if part == "snapshot" else tcp_world.clusters[USER],
    )
    assert response.json()["degraded"] == degraded
    metrics = (await tcp_world.client.get("/metrics")).text
    assert f'twinstar_degraded_total{{reason="{degraded[0]}"}} 1.0' in metrics


@pytest.mark.parametrize("length", [*range(0, 60, 7), 10_000])
async def test_a_snapshot_cut_at_any_place_is_damaged_or_none(
    tcp_world: World, own_valkey_tcp: ValkeyTcp, length: int
) -> None:
    key = snapshot_key(USER, SNAPSHOT_ID)
    whole = own_valkey_tcp.client().get(key)
    assert isinstance(whole, bytes)
    cut = whole[:length] if length < len(whole) else whole + bytes(length)
    own_valkey_tcp.client().set(key, cut)
    response = await tcp_world.score(BODY)
    assert response.status_code == 200
    assert response.json()["degraded"] == ([] if length == 0 else ["snapshot_damaged"])


async def test_catalogue_ids_newer_than_the_artefact_are_cold_items_of_the_history(
    tcp_world: World, own_valkey_tcp: ValkeyTcp
) -> None:
    """A snapshot made after the catalogue grew: no error, and no row of another item."""
    grown = make_catalogue([*CATALOGUE_ITEMS, *(f"new-{i}" for i in range(100_000))])
    clusters = [Past("new-5", size=2), Past("new-99999", size=3)]
    own_valkey_tcp.client().set(snapshot_key(USER, SNAPSHOT_ID), snapshot_of(grown, clusters))
    response = await tcp_world.score(BODY, "both")
    assert_scores(
        response,
        model_of(USER, "both", tcp_world.plan),
        CANDIDATES,
        domain="both",
        user_id=USER,
        features={"loyalty": loyalty_of(USER)},
        clusters=[Past("nowhere", past.size, AGE_BUCKET_OF_A_DAY) for past in clusters],
    )
    assert response.json()["degraded"] == []


async def test_an_embedded_store_that_cannot_start_leaves_the_service_ready_without_history(
    worlds: Worlds, tmp_path_factory: pytest.TempPathFactory
) -> None:
    registry = build_registry(tmp_path_factory.mktemp("own"))
    async with worlds("memory://", registry) as world:
        runtime = world.app.state.runtime
        await runtime.store.close()
        blocked = tmp_path_factory.mktemp("blocked") / "file"
        blocked.write_text("")
        runtime.store._url = f"embedded://{blocked}/store"
        await runtime.look()
        response = await world.client.get("/readyz")
        assert response.status_code == 200
        assert response.json()["degraded"] == ["history"]
        assert (await world.score(BODY)).json()["degraded"] == ["history"]
        metrics = (await world.client.get("/metrics")).text
        assert 'twinstar_store_errors_total{kind="missing"} 1.0' in metrics
