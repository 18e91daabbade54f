"""Metrics: what was answered is counted under names that are bounded."""

from __future__ import annotations

import pytest

from tests.integration.service.conftest import World, Worlds
from tests.support.eventually import eventually
from tests.support.known_artefact import AT_MS
from tests.support.known_registry import USERS, model_of
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio


async def metrics_of(world: World) -> dict[str, float]:
    """Return each sample by its name and labels."""
    text = (await world.client.get("/metrics")).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_answers_are_counted_by_route_and_code_and_strange_paths_are_one(worlds: Worlds) -> None:
    async with worlds("memory://") as world:
        for _ in range(3):
            await world.score({"user_id": "u1", "candidates": ["apple"]})
        await world.score({})
        await world.client.get("/score")
        for path in ("/a", "/b", "/score/x"):
            await world.client.get(path)
        await world.client.get("/livez")
        metrics = await metrics_of(world)
        counted = {name: value for name, value in metrics.items() if "twinstar_requests_total" in name}
        assert counted == {
            'twinstar_requests_total{code="200",route="/score"}': 3,
            'twinstar_requests_total{code="422",route="/score"}': 1,
            'twinstar_requests_total{code="405",route="/score"}': 1,
            'twinstar_requests_total{code="404",route="unmatched"}': 3,
            'twinstar_requests_total{code="200",route="/livez"}': 1,
        }
        assert metrics['twinstar_request_duration_seconds_count{route="/score"}'] == 5


async def test_scored_requests_are_counted_by_model_arm_stage_and_candidates(world: World) -> None:
    for user in USERS:
        await world.score({"user_id": user, "candidates": ["apple", "new", "new"]})
    metrics = await metrics_of(world)
    arms = {"star": "control", "pepnet": "treatment"}
    for name, version in world.registry.versions.items():
        count = sum(model_of(user, "mailer", world.plan).name == name for user in USERS)
        assert metrics[f'twinstar_assignments_total{{arm="{arms[name]}",layer="ranker"}}'] == count
        assert metrics[f'twinstar_scored_total{{domain="mailer",model="{name}-{version}"}}'] == count
    for stage in ("decode", "route", "hydrate", "encode", "score", "respond"):
        assert metrics[f'twinstar_stage_duration_seconds_count{{stage="{stage}"}}'] == len(USERS)
    assert metrics["twinstar_candidates_sum"] == 3 * len(USERS)
    assert metrics["twinstar_unknown_items_total"] == len(USERS)


async def test_items_scored_from_their_features_are_counted_apart_from_unknown_ones(worlds: Worlds) -> None:
    async with worlds("memory://") as world:
        new = {"item_id": "new", "features": {"aisle": "fresh"}}
        for candidates in ([new, "apple", new, "cold"], ["apple"], [{**new, "item_id": "apple"}]):
            await world.score({"user_id": "u1", "candidates": candidates})
        metrics = await metrics_of(world)
    assert metrics["twinstar_encoded_items_total"] == 2
    assert metrics["twinstar_unknown_items_total"] == 1


async def test_no_id_of_a_user_or_item_is_a_label(world: World) -> None:
    await world.score({"user_id": "canary-user", "candidates": ["canary-item"]}, "canary-domain")
    new = {"item_id": "canary-item", "features": {"canary-name": "canary-value", "aisle": "fresh"}}
    await world.score({"user_id": "canary-user", "candidates": ["canary-item", new]})
    await world.client.get("/canary-path")
    assert "canary" not in (await world.client.get("/metrics")).text


async def test_what_the_store_cache_does_is_counted(worlds: Worlds, own_valkey_tcp: ValkeyTcp) -> None:
    body = {"user_id": USERS[3], "candidates": ["apple", "corn"]}
    behavior = {
        "type": "behavior",
        "event_id": "e1",
        "user_id": USERS[3],
        "item_id": "corn",
        "strength": 1,
        "at_ms": AT_MS - 1000,
    }
    async with worlds(own_valkey_tcp.url, store_cache_max_bytes=1 << 20) as world:
        cache = world.app.state.runtime.store._store._cache
        await eventually(lambda: cache.is_open)
        first, second = await world.score(body), await world.score(body)
        assert first.json()["results"] == second.json()["results"]
        metrics = await metrics_of(world)
        assert metrics['twinstar_store_cache_lookups_total{outcome="miss"}'] == 3
        assert metrics['twinstar_store_cache_lookups_total{outcome="hit"}'] == 3
        assert metrics["twinstar_store_cache_bytes"] == cache.held_bytes > 0
        assert (await world.client.post("/events", json={"events": [behavior]})).status_code < 300
        assert (await world.score(body)).json()["results"] != first.json()["results"]
        with own_valkey_tcp.client() as other:
            other.flushall()
        await eventually(lambda: not len(cache))
        metrics = await metrics_of(world)
        assert metrics['twinstar_store_cache_lookups_total{outcome="miss"}'] == 4
        assert metrics["twinstar_store_cache_invalidations_total"] >= 1
        assert metrics['twinstar_store_cache_resets_total{reason="flushed"}'] == 1
        assert metrics['twinstar_store_cache_resets_total{reason="lost"}'] == 0
        assert metrics["twinstar_store_cache_bytes"] == 0
