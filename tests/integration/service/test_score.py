"""POST /score gives the probabilities that are right by construction, for each user, domain and candidate."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from tests.integration.service.conftest import World
from tests.support.known_artefact import AT_MS, HOUR_AT_MS, KnownModel, Past
from tests.support.known_registry import (
    CATALOGUE_ITEMS,
    DAY_MS,
    DOMAINS,
    SNAPSHOT_AT_MS,
    USERS,
    loyalty_of,
    model_of,
)

pytestmark = pytest.mark.anyio

TOLERANCE = 2e-6  # single precision, on either side of a sigmoid


def assert_scores(
    response: httpx.Response, model: KnownModel, candidates: Sequence[Mapping[str, Any]], **known: Any
) -> None:
    """Check that an answer holds, for each candidate (`item_id` and perhaps `location`), what is right."""
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [result["item_id"] for result in results] == [c["item_id"] for c in candidates]
    for result, candidate in zip(results, candidates, strict=True):
        click, multi = model.probability(**candidate, **known)
        assert result["click"] == pytest.approx(click, abs=TOLERANCE)
        assert result["multi"] == pytest.approx(multi, abs=TOLERANCE)


@pytest.mark.parametrize("domain", DOMAINS)
async def test_every_user_gets_the_right_probabilities_of_the_model_of_his_arm(
    world: World, domain: str
) -> None:
    candidates = [{"item_id": item_id} for item_id in CATALOGUE_ITEMS]
    seen = set()
    for user in USERS:
        model = model_of(user, domain, world.plan)
        seen.add(model.name)
        response = await world.score({"user_id": user, "candidates": list(CATALOGUE_ITEMS)}, domain)
        assert_scores(
            response,
            model,
            candidates,
            domain=domain,
            user_id=user,
            features={"loyalty": loyalty_of(user)},
            clusters=world.clusters[user],
        )
        assert response.json()["degraded"] == []
    assert seen == ({"star"} if domain == "both" else {"star", "pepnet"})


async def test_two_artefacts_with_different_vocabularies_score_from_one_store(world: World) -> None:
    """The same user in a domain of the layer and in one of the default model: other rows, same history."""
    user = next(u for u in USERS if model_of(u, "mailer", world.plan).name == "pepnet" and world.clusters[u])
    for domain, name in (("mailer", "pepnet"), ("both", "star")):
        model = model_of(user, domain, world.plan)
        assert model.name == name
        response = await world.score({"user_id": user, "candidates": ["corn", "apple", "dill"]}, domain)
        assert_scores(
            response,
            model,
            [{"item_id": "corn"}, {"item_id": "apple"}, {"item_id": "dill"}],
            domain=domain,
            user_id=user,
            features={"loyalty": loyalty_of(user)},
            clusters=world.clusters[user],
        )


async def test_context_of_request_and_candidates_is_used(world: World) -> None:
    candidates: list[Any] = [
        {"item_id": "apple", "context": {"location": "A"}},
        {"item_id": "apple", "context": {"location": "B"}},
        {"item_id": "apple", "context": {"location": "nowhere"}},
        "apple",
    ]
    body = {"user_id": "nobody", "context": {"store_id": 8}, "candidates": candidates}
    for domain in DOMAINS:
        assert_scores(
            await world.score(body, domain),
            model_of("nobody", domain, world.plan),
            [
                {"item_id": "apple", "location": "A"},
                {"item_id": "apple", "location": "B"},
                {"item_id": "apple"},
                {"item_id": "apple"},
            ],
            domain=domain,
            user_id="nobody",
            context={"store_id": "8"},
        )


async def test_what_everyone_took_to_counts_in_the_requests_store_and_altogether(world: World) -> None:
    for store_id in (7, "8", "9", None):
        body = {"user_id": "nobody", "context": {"store_id": store_id}, "candidates": list(CATALOGUE_ITEMS)}
        for domain in DOMAINS:
            assert_scores(
                await world.score(body, domain),
                model_of("nobody", domain, world.plan),
                [{"item_id": item_id} for item_id in CATALOGUE_ITEMS],
                domain=domain,
                context={"store_id": None if store_id is None else str(store_id)},
            )


async def test_an_unknown_user_is_a_cold_start(world: World) -> None:
    response = await world.score({"user_id": "nobody", "candidates": ["apple"]})
    assert_scores(response, model_of("nobody", "mailer", world.plan), [{"item_id": "apple"}], domain="mailer")
    assert response.json()["degraded"] == []


async def test_unknown_items_are_scored_cold_and_listed_once_in_order(world: World) -> None:
    body = {"user_id": "nobody", "candidates": ["new-2", "apple", "new-1", "new-2", "egg"]}
    response = await world.score(body, "both")
    assert_scores(
        response,
        model_of("nobody", "both", world.plan),
        [{"item_id": item_id} for item_id in body["candidates"]],
        domain="both",
    )
    # egg is in the catalogue; the artefact has no row of it.
    assert response.json()["unknown_items"] == ["new-2", "new-1", "egg"]


async def test_duplicate_candidates_are_scored_alike(world: World) -> None:
    response = await world.score({"user_id": "u3", "candidates": ["apple", "corn", "apple"]})
    first, _, last = response.json()["results"]
    assert first == last


async def test_a_score_does_not_depend_on_the_other_candidates(world: World) -> None:
    many = [*CATALOGUE_ITEMS, *(f"new-{i}" for i in range(150))]
    together = (await world.score({"user_id": "u3", "candidates": many})).json()["results"]
    for item_id in CATALOGUE_ITEMS:
        alone = (await world.score({"user_id": "u3", "candidates": [item_id]})).json()["results"]
        assert alone[0]["click"] == pytest.approx(together[many.index(item_id)]["click"], abs=1e-6)


async def test_integers_as_ids_are_their_decimal_text(world: World) -> None:
    ids = [7, 2**63 - 1, {"item_id": 0}]
    response = await world.score({"user_id": 12, "candidates": ids})
    assert [r["item_id"] for r in response.json()["results"]] == ["7", str(2**63 - 1), "0"]
    same = await world.score({"user_id": "12", "candidates": ["7"]})
    assert same.json()["results"][0] == response.json()["results"][0]


async def test_tasks_asked_for_are_those_answered(world: World) -> None:
    body = {"user_id": "u3", "candidates": ["apple"], "tasks": ["multi", "multi"]}
    (result,) = (await world.score(body)).json()["results"]
    assert sorted(result) == ["item_id", "multi"]


async def test_a_replay_is_scored_at_its_own_hour(world: World) -> None:
    body = {"user_id": "nobody", "candidates": ["apple"], "at_ms": AT_MS + 4 * 3600 * 1000}
    assert_scores(
        await world.score(body, "both"),
        model_of("nobody", "both", world.plan),
        [{"item_id": "apple"}],
        domain="both",
        hour=(HOUR_AT_MS + 4) % 24,
    )


async def test_a_replay_from_before_the_snapshot_sees_none_of_it_and_says_so(world: World) -> None:
    user = next(user for user in USERS if len(world.clusters[user]) == 3)
    body = {"user_id": user, "candidates": ["apple"], "at_ms": SNAPSHOT_AT_MS - 6 * DAY_MS}
    response = await world.score(body, "both")
    assert_scores(
        response,
        model_of(user, "both", world.plan),
        [{"item_id": "apple"}],
        domain="both",
        user_id=user,
        features={"loyalty": loyalty_of(user)},
    )
    assert response.json()["degraded"] == ["snapshot_newer_than_request"]


async def test_the_answer_and_its_headers_say_what_answered(world: World) -> None:
    user = next(user for user in USERS if model_of(user, "mailer", world.plan).name == "pepnet")
    body = {"user_id": user, "candidates": ["apple"]}
    response = await world.score(body, headers={"X-Request-Id": "abc-1"})
    version = world.registry.versions["pepnet"]
    assert response.headers["X-Request-Id"] == "abc-1"
    assert response.headers["X-Model-Version"] == f"pepnet-{version}"
    assert response.headers["X-Experiment-Arms"] == "ranker=treatment"
    stages = re.findall(r"(\w+);dur=(\d+\.\d{3})", response.headers["Server-Timing"])
    assert [stage for stage, _ in stages] == ["decode", "route", "hydrate", "encode", "score", "respond"]
    answer = response.json()
    assert answer["request_id"] == "abc-1"
    assert answer["domain"] == "mailer"
    assert answer["model"] == {"name": "pepnet", "version": version, "backbone": "known"}
    assert answer["arms"] == {"ranker": "treatment"}


async def test_a_domain_without_a_layer_has_no_arms(world: World) -> None:
    response = await world.score({"user_id": "u1", "candidates": ["apple"]}, "both")
    assert response.json()["arms"] == {}
    assert "X-Experiment-Arms" not in response.headers


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "ü"])
async def test_a_request_id_that_is_not_sane_is_replaced(world: World, sent: str) -> None:
    response = await world.client.post(
        "/score",
        json={"user_id": "u1", "candidates": ["apple"]},
        headers=[(b"X-Domain", b"mailer"), (b"X-Request-Id", sent.encode())],
    )
    made = response.json()["request_id"]
    assert made != sent
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    assert response.headers["X-Request-Id"] == made


async def test_a_recent_behavior_counts_as_a_cluster_of_one_and_as_a_recent(world: World) -> None:
    event = {
        "type": "behavior",
        "event_id": "e",
        "user_id": "nobody",
        "item_id": "apple",
        "at_ms": AT_MS - 90_000,
        "strength": 0.5,
    }
    assert (await world.client.post("/events", json={"events": [event]})).status_code == 200
    past = Past("apple", 1, age_bucket=1, strength_bucket=8)  # 85 s <= 90 s < 120 s; .5 is 8 sixteenths
    for domain in ("mailer", "both"):
        assert_scores(
            await world.score({"user_id": "nobody", "candidates": ["corn"]}, domain),
            model_of("nobody", domain, world.plan),
            [{"item_id": "corn"}],
            domain=domain,
            clusters=[past],
            recents=[past],
        )


async def test_requests_at_once_get_each_its_own_answer(world: World) -> None:
    async def one(i: int) -> None:
        user, domain = USERS[i % len(USERS)], DOMAINS[i % len(DOMAINS)]
        candidates = list(CATALOGUE_ITEMS[i % 4 :])
        assert_scores(
            await world.score({"user_id": user, "candidates": candidates}, domain),
            model_of(user, domain, world.plan),
            [{"item_id": item_id} for item_id in candidates],
            domain=domain,
            user_id=user,
            features={"loyalty": loyalty_of(user)},
            clusters=world.clusters[user],
        )

    await asyncio.gather(*(one(i) for i in range(120)))
