"""POST /score/batch answers each request as /score does, and one that cannot be answered fails no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from service.errors import ScoringError
from service.pipeline.run import answer as answer_one
from tests.integration.service.conftest import World, Worlds
from tests.integration.service.test_metrics import metrics_of
from tests.integration.service.test_refusals import CANARY, assert_problem
from tests.support.known_artefact import AT_MS
from tests.support.known_registry import CATALOGUE_ITEMS, DOMAINS, SNAPSHOT_AT_MS, USERS, model_of
from tests.support.valkey_tcp import ValkeyTcp

pytestmark = pytest.mark.anyio

REQUESTS: list[dict[str, Any]] = [
    *({"user_id": user, "candidates": list(CATALOGUE_ITEMS)} for user in USERS[:6]),
    {"user_id": USERS[3], "candidates": ["new", "apple"], "context": {"store_id": 8}},
    {"user_id": 12, "candidates": [{"item_id": "apple", "context": {"location": "A"}}], "tasks": ["click"]},
    {"user_id": USERS[3], "candidates": ["corn"], "at_ms": SNAPSHOT_AT_MS - 1},
    {"user_id": "nobody", "candidates": ["corn"], "at_ms": AT_MS + 4 * 3600 * 1000},
]


@pytest.fixture
async def small_world(worlds: Worlds) -> AsyncIterator[World]:
    """A service that takes little, without a store process."""
    async with worlds(
        "memory://", batch_max_count=20, candidates_max_count=10, batch_candidates_max_count=25
    ) as running_world:
        yield running_world


async def post(
    world: World,
    content: Any,
    *,
    domain: str | None = "mailer",
    headers: dict[str, str] | None = None,
    path: str = "/score/batch",
) -> httpx.Response:
    sent = {"Content-Type": "application/json", "X-Request-Id": "b", **(headers or {})}
    sent |= {} if domain is None else {"X-Domain": domain}
    encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
    return await world.client.post(path, content=encoded, headers=sent)


def without_id(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "request_id"}


@pytest.mark.parametrize("domain", DOMAINS)
async def test_each_answer_is_that_of_the_request_alone(world: World, domain: str) -> None:
    response = await post(world, {"requests": REQUESTS}, domain=domain)
    assert response.status_code == 200, response.text
    answers = response.json()["answers"]
    assert len(answers) == len(REQUESTS)
    for answer, content in zip(answers, REQUESTS, strict=True):
        alone = await post(world, content, domain=domain, path="/score")
        assert without_id(answer) == without_id(alone.json())
    assert answers[8]["degraded"] == ["snapshot_newer_than_request"]


async def test_each_answer_in_messagepack_is_that_of_the_request_alone(world: World) -> None:
    headers = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
    response = await post(world, msgspec.msgpack.encode({"requests": REQUESTS}), headers=headers)
    assert response.headers["Content-Type"] == "application/msgpack"
    answers = msgspec.msgpack.decode(response.content)["answers"]
    for answer, content in zip(answers, REQUESTS, strict=True):
        alone = await post(world, msgspec.msgpack.encode(content), headers=headers, path="/score")
        assert without_id(answer) == without_id(msgspec.msgpack.decode(alone.content))


@pytest.mark.parametrize("sent", ["b", "x" * 64])
async def test_each_answer_has_an_id_of_its_own_that_events_take(world: World, sent: str) -> None:
    response = await post(world, {"requests": REQUESTS}, headers={"X-Request-Id": sent})
    assert response.json()["request_id"] == response.headers["X-Request-Id"] == sent
    made = [answer["request_id"] for answer in response.json()["answers"]]
    assert made == [f"{sent[:62]}.{i}" for i in range(10)]
    events = [{"type": "impression", "request_id": one, "item_id": "apple", "position": 0} for one in made]
    accepted = await world.client.post("/events", json={"events": events})
    assert accepted.json()["not_used_yet"]["impressions"] == len(made)


GOOD = {"user_id": "u1", "candidates": ["apple"]}
REFUSED: dict[str, tuple[Any, str, str | None]] = {
    "no object": (7, "invalid-request", "body.requests[1]"),
    "unknown field": ({**GOOD, CANARY: 1}, "invalid-request", "body.requests[1]"),
    "candidate null": (
        {"user_id": "u1", "candidates": ["apple", None]},
        "invalid-request",
        "body.requests[1].candidates[1]",
    ),
    "too many candidates": (
        {"user_id": "u1", "candidates": ["apple"] * 11},
        "invalid-request",
        "body.requests[1].candidates",
    ),
    "task unknown": ({**GOOD, "tasks": [CANARY]}, "invalid-request", "body.requests[1].tasks[0]"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_that_cannot_be_answered_has_a_problem_in_its_place(
    small_world: World, name: str
) -> None:
    content, kind, where = REFUSED[name]
    response = await post(small_world, {"requests": [GOOD, content, {**GOOD, "user_id": "u2"}]})
    assert response.status_code == 200
    assert CANARY not in response.text
    first, refused, last = response.json()["answers"]
    alone = (await post(small_world, content, path="/score")).json()
    assert refused["type"] == f"urn:twinstar:problem:{kind}"
    assert refused["errors"][0]["where"] == where
    assert refused["errors"][0]["reason"] == alone["errors"][0]["reason"]
    assert refused["request_id"] == "b.1"
    assert {**refused, "errors": 0, "request_id": 0} == {**alone, "errors": 0, "request_id": 0}
    for answer, user in ((first, "u1"), (last, "u2")):
        expected = await post(small_world, {**GOOD, "user_id": user}, path="/score")
        assert without_id(answer) == without_id(expected.json())


async def test_a_request_that_is_not_utf_8_has_a_problem_in_its_place(small_world: World) -> None:
    good = json.dumps(GOOD).encode()
    content = b'{"requests": [{"user_id": "\xff", "candidates": ["apple"]}, ' + good + b"]}"
    refused, answer = (await post(small_world, content)).json()["answers"]
    assert refused["type"] == "urn:twinstar:problem:malformed-body"
    assert answer["results"][0]["item_id"] == "apple"


async def test_a_request_that_the_model_fails_on_has_a_problem_in_its_place(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(asked: Any, *arguments: Any, **named: Any) -> Any:
        if asked.request.user_id == "u2":
            raise ScoringError("the model gave a probability that is no number")
        return answer_one(asked, *arguments, **named)

    monkeypatch.setattr("service.pipeline.batch.answer", failing)
    requests = [{**GOOD, "user_id": user} for user in ("u1", "u2", "u3")]
    first, failed, last = (await post(small_world, {"requests": requests})).json()["answers"]
    assert failed["type"] == "urn:twinstar:problem:scoring-failed"
    assert failed["status"] == 503
    monkeypatch.undo()
    for answer, content in ((first, requests[0]), (last, requests[2])):
        alone = await post(small_world, content, path="/score")
        assert without_id(answer) == without_id(alone.json())


WHOLLY_REFUSED: dict[str, tuple[Any, str]] = {
    "no requests": ({"requests": []}, "body.requests"),
    "requests missing": ({}, "body"),
    "requests no array": ({"requests": GOOD}, "body.requests"),
    "one request, not a batch": (GOOD, "body"),
    "unknown field": ({"requests": [GOOD], CANARY: 1}, "body"),
    "too many requests": ({"requests": [GOOD] * 21}, "body.requests"),
    "too many candidates altogether": (
        {"requests": [{"user_id": "u1", "candidates": ["apple"] * 10}] * 3},
        "body.requests",
    ),
}


@pytest.mark.parametrize("name", WHOLLY_REFUSED)
async def test_what_is_no_batch_or_too_large_a_one_is_refused_whole(small_world: World, name: str) -> None:
    content, where = WHOLLY_REFUSED[name]
    problem = assert_problem(await post(small_world, content), 422, "invalid-request")
    (error,) = problem["errors"]
    assert error["where"] == where
    assert (await post(small_world, {"requests": [GOOD] * 20})).status_code == 200


async def test_candidates_of_all_requests_may_be_as_many_as_is_said(small_world: World) -> None:
    requests = [{"user_id": "u1", "candidates": ["apple"] * count} for count in (10, 10, 5)]
    answers = (await post(small_world, {"requests": requests})).json()["answers"]
    assert [len(answer["results"]) for answer in answers] == [10, 10, 5]


@pytest.mark.parametrize("domain", [None, "", "no-such-domain"])
async def test_without_a_domain_that_is_known_the_batch_is_refused(
    small_world: World, domain: str | None
) -> None:
    response = await post(small_world, {"requests": [GOOD]}, domain=domain)
    problem = assert_problem(response, 422, "invalid-request")
    assert problem["errors"][0]["where"] == "header.X-Domain"


async def test_what_is_no_json_is_malformed(small_world: World) -> None:
    for content in (b"", b'{"requests": [', b'{"requests": [{"user_id": u1}]}'):
        assert_problem(await post(small_world, content), 400, "malformed-body")


async def test_each_request_is_counted_with_its_stages(world: World) -> None:
    response = await post(world, {"requests": [*REQUESTS, {}]})
    stages = response.headers["Server-Timing"].split(", ")
    assert [stage.partition(";")[0] for stage in stages] == [
        "decode", "route", "hydrate", "encode", "score", "respond",
    ]  # fmt: skip
    metrics = await metrics_of(world)
    assert metrics['twinstar_requests_total{code="200",route="/score/batch"}'] == 1
    for stage in ("decode", "route", "hydrate", "encode", "score", "respond"):
        assert metrics[f'twinstar_stage_duration_seconds_count{{stage="{stage}"}}'] == len(REQUESTS)
    assert metrics["twinstar_candidates_sum"] == sum(len(one["candidates"]) for one in REQUESTS)
    for name, version in world.registry.versions.items():
        users = [str(one["user_id"]) for one in REQUESTS]
        count = sum(model_of(user, "mailer", world.plan).name == name for user in users)
        assert metrics[f'twinstar_scored_total{{domain="mailer",model="{name}-{version}"}}'] == count


async def test_other_requests_get_their_turn_between_those_of_a_batch(small_world: World) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count_turns())
    requests = [{"user_id": user, "candidates": ["apple"]} for user in USERS]
    await post(small_world, {"requests": requests})
    counting.cancel()
    assert turns > 2 * (len(requests) - 1)  # one after it is understood, one after it is scored


async def test_without_a_store_each_answer_says_what_it_lacks(
    tcp_world: World, own_valkey_tcp: ValkeyTcp
) -> None:
    own_valkey_tcp.kill()
    answers = (await post(tcp_world, {"requests": REQUESTS})).json()["answers"]
    assert [answer["degraded"] for answer in answers] == [["history"]] * len(REQUESTS)
