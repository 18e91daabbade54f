"""POST /events: what is told is stored once, seen by the next /score, and counted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.contract.history import decode_behaviors
from tests.integration.service.conftest import World, Worlds
from tests.integration.service.test_refusals import assert_problem
from tests.support.known_artefact import AT_MS, Past
from tests.support.known_registry import SNAPSHOT_AT_MS, model_of

pytestmark = pytest.mark.anyio


def behavior(event_id: str | int = "e1", **changes: Any) -> dict[str, Any]:
    return {"type": "behavior", "event_id": event_id, "user_id": "ann", "item_id": "apple", **changes}


async def send(world: World, *events: dict[str, Any]) -> httpx.Response:
    return await world.client.post("/events", json={"events": list(events)})


async def sent(world: World, *events: dict[str, Any]) -> dict[str, Any]:
    response = await send(world, *events)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def stored(world: World, user_id: str = "ann") -> list[tuple[int, int]]:
    """Return time and catalogue id of a user's recent behaviors, oldest first."""
    behaviors = decode_behaviors((await world.store.read_user(user_id, None)).recent)
    return list(zip(behaviors.at_ms.tolist(), behaviors.item.tolist(), strict=True))


async def test_the_next_score_sees_a_behavior_just_told(world: World) -> None:
    model = model_of("ann", "mailer", world.plan)
    for i in range(20):
        await sent(world, behavior(f"e{i}", at_ms=AT_MS - 1 - i, strength=0.0))
        past = [Past("apple")] * (i + 1)
        response = await world.score({"user_id": "ann", "candidates": ["corn", "apple"]})
        for result in response.json()["results"]:
            item_id = result["item_id"]  # an apple was had before, as often as that; corn never
            right, _ = model.probability(item_id, domain="mailer", clusters=past, recents=past)
            assert result["click"] == pytest.approx(right, abs=2e-6)


async def test_a_behavior_without_a_time_is_now(world: World) -> None:
    await sent(world, behavior())
    assert await stored(world) == [(AT_MS, 1)]


async def test_events_told_again_change_nothing(world: World) -> None:
    first = await sent(world, behavior("e1"), behavior("e2"))
    assert first["behaviors"] == {"appended": 2, "duplicates": 0, "dropped": 0, "unknown_items": 0}
    again = await sent(world, behavior("e1"), behavior("e2"), behavior("e3"))
    assert again["behaviors"] == {"appended": 1, "duplicates": 2, "dropped": 0, "unknown_items": 0}
    assert len(await stored(world)) == 3


async def test_an_integer_as_event_id_is_its_decimal_text(world: World) -> None:
    await sent(world, behavior(7))
    assert (await sent(world, behavior("7")))["behaviors"]["duplicates"] == 1


async def test_one_batch_may_tell_of_many_users(world: World) -> None:
    events = [behavior(f"e{i}", user_id=f"user-{i % 40}", at_ms=AT_MS + i) for i in range(200)]
    assert (await sent(world, *events))["behaviors"]["appended"] == 200
    assert [at_ms for at_ms, _ in await stored(world, "user-3")] == [AT_MS + 3 + 40 * i for i in range(5)]


async def test_a_behavior_of_an_unknown_item_is_kept_as_one_and_counted(world: World) -> None:
    answer = await sent(world, behavior("e1", item_id="new"), behavior("e2", item_id="corn"))
    assert answer["behaviors"] == {"appended": 2, "duplicates": 0, "dropped": 0, "unknown_items": 1}
    assert await stored(world) == [(AT_MS, 0), (AT_MS, 3)]


async def test_the_cap_is_a_setting_and_what_falls_off_is_counted(worlds: Worlds) -> None:
    async with worlds("memory://", recent_max_count=3) as world:
        app_store = world.app.state.runtime.store._store
        events = [behavior(f"e{i}", at_ms=SNAPSHOT_AT_MS + i) for i in range(5)]
        assert (await sent(world, *events))["behaviors"]["dropped"] == 2
        kept = decode_behaviors((await app_store.read_user("ann", None)).recent)
        assert kept.at_ms.tolist() == [SNAPSHOT_AT_MS + i for i in (2, 3, 4)]
        old = [behavior(f"old{i}", user_id="bob", at_ms=SNAPSHOT_AT_MS - 1 - i) for i in range(5)]
        assert (await sent(world, *old))["behaviors"]["dropped"] == 0
        assert (
            'twinstar_events_total{outcome="dropped",type="behavior"} 2.0'
            in (await world.client.get("/metrics")).text
        )


async def test_an_event_from_the_future_is_refused_alone(world: World) -> None:
    limit = AT_MS + 60_000
    answer = await sent(
        world, behavior("e1", at_ms=limit), behavior("e2", at_ms=limit + 1), behavior("e3", at_ms=AT_MS)
    )
    assert answer["behaviors"]["appended"] == 2
    assert answer["rejected"] == 1
    assert answer["rejections"] == [{"index": 1, "reason": "at_ms lies in the future"}]


async def test_rejections_are_counted_all_and_told_few(world: World) -> None:
    answer = await sent(world, *(behavior(i, at_ms=AT_MS * 2) for i in range(100)))
    assert answer["rejected"] == 100
    assert [rejection["index"] for rejection in answer["rejections"]] == list(range(20))


async def test_impressions_and_labels_are_counted_and_not_used_yet(world: World) -> None:
    answer = await sent(
        world,
        {"type": "impression", "request_id": "r1", "item_id": "apple", "position": 0},
        {"type": "impression", "request_id": "r1", "item_id": 7, "position": 1, "at_ms": AT_MS},
        {"type": "label", "request_id": "r1", "item_id": "apple", "task": "click", "value": 1},
    )
    assert answer["not_used_yet"] == {"impressions": 2, "labels": 1}
    assert answer["behaviors"]["appended"] == 0
    metrics = (await world.client.get("/metrics")).text
    assert 'twinstar_events_total{outcome="not_used_yet",type="impression"} 2.0' in metrics


INVALID: dict[str, tuple[Any, str]] = {
    "no events": ({"events": []}, "body.events"),
    "no array": ({"events": {}}, "body.events"),
    "events missing": ({}, "body"),
    "unknown field": ({"events": [behavior()], "later": 1}, "body"),
    "unknown type": ({"events": [behavior(type="purchase")]}, "body.events[0].type"),
    "no type": ({"events": [{"event_id": "e"}]}, "body.events[0]"),
    "no event id": (
        {"events": [behavior(), {"type": "behavior", "user_id": 1, "item_id": 1}]},
        "body.events[1]",
    ),
    "negative strength": ({"events": [behavior(strength=-0.1)]}, "body.events[0].strength"),
    "huge strength": ({"events": [behavior(strength=64)]}, "body.events[0].strength"),
    "boolean user": ({"events": [behavior(user_id=True)]}, "body.events[0].user_id"),
    "negative item": ({"events": [behavior(item_id=-1)]}, "body.events[0].item_id"),
    "event id over 64 bits": ({"events": [behavior(2**64)]}, "body.events[0].event_id"),
    "negative time": ({"events": [behavior(at_ms=-1)]}, "body.events[0].at_ms"),
    "field of another type": ({"events": [behavior(position=1)]}, "body.events[0]"),
    "label over 1": (
        {"events": [{"type": "label", "request_id": "r", "item_id": 1, "task": "click", "value": 2}]},
        "body.events[0].value",
    ),
    "impression without position": (
        {"events": [{"type": "impression", "request_id": "r", "item_id": 1}]},
        "body.events[0]",
    ),
    "too many": ({"events": [behavior()] * 1001}, "body.events"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_a_batch_of_another_form_is_refused_whole(world: World, name: str) -> None:
    content, where = INVALID[name]
    problem = assert_problem(await world.client.post("/events", json=content), 422, "invalid-request")
    assert problem["errors"][0]["where"] == where
    assert await stored(world) == []


async def test_without_a_store_events_are_to_be_sent_again(tcp_world: World, own_valkey_tcp: Any) -> None:
    own_valkey_tcp.kill()
    response = await send(tcp_world, behavior())
    assert_problem(response, 503, "store-unavailable")
    assert response.headers["Retry-After"] == "2"
    own_valkey_tcp.start()
    assert (await sent(tcp_world, behavior()))["behaviors"]["appended"] == 1
