"""What cannot be answered is refused: a bounded problem (RFC 9457) that repeats nothing, and life goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.service.conftest import World, Worlds

pytestmark = pytest.mark.anyio

CANARY = "canary-4f1d"


def assert_problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """Check the form of a problem, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert len(response.content) <= 4096
    assert CANARY not in response.text
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:twinstar:problem:{name}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["request_id"] == response.headers["X-Request-Id"]
    return problem


@pytest.fixture
async def small_world(worlds: Worlds) -> AsyncIterator[World]:
    """A service that takes little, without a store process."""
    limits = {"candidates_max_count": 50, "new_items_max_count": 10, "body_max_bytes": 4096}
    async with worlds("memory://", **limits) as running_world:
        yield running_world


async def post(world: World, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    sent = {"X-Domain": "mailer", "Content-Type": "application/json", **(headers or {})}
    return await world.client.post("/score", content=body, headers=sent)


async def assert_lives(world: World) -> None:
    response = await world.score({"user_id": "u1", "candidates": ["apple"]})
    assert response.status_code == 200, response.text


def body(**changes: Any) -> dict[str, Any]:
    """Return a good body with changes; `...` takes a field out."""
    whole = {"user_id": "u1", "candidates": ["apple"], **changes}
    return {name: value for name, value in whole.items() if value is not ...}


INVALID: dict[str, tuple[Any, str]] = {
    "no candidates": (body(candidates=[]), "body.candidates"),
    "candidates missing": (body(candidates=...), "body"),
    "candidates null": (body(candidates=None), "body.candidates"),
    "candidates no array": (body(candidates="apple"), "body.candidates"),
    "too many candidates": (body(candidates=["a"] * 51), "body.candidates"),
    "candidate null": (body(candidates=["apple", None]), "body.candidates[1]"),
    "candidate array": (body(candidates=[["apple"]]), "body.candidates[0]"),
    "candidate without id": (body(candidates=[{"context": {}}]), "body.candidates[0]"),
    "candidate with unknown field": (
        body(candidates=[{"item_id": "a", CANARY: 1}]),
        "body.candidates[0]",
    ),
    "features null": (body(candidates=[{"item_id": "a", "features": None}]), "body.candidates[0].features"),
    "feature nested": (
        body(candidates=["a", {"item_id": "a", "features": {"aisle": ["fresh"]}}]),
        "body.candidates[1].features[...]",
    ),
    "too many candidates with features": (
        body(candidates=[{"item_id": "a", "features": {"aisle": "fresh"}}] * 11),
        "body.candidates",
    ),
    "user missing": (body(user_id=...), "body"),
    "user null": (body(user_id=None), "body.user_id"),
    "user empty": (body(user_id=""), "body.user_id"),
    "user too long": (body(user_id="x" * 257), "body.user_id"),
    "user boolean": (body(user_id=True), "body.user_id"),
    "user negative": (body(user_id=-1), "body.user_id"),
    "user fractional": (body(user_id=1.5), "body.user_id"),
    "user whole float": (body(user_id=1.0), "body.user_id"),
    "user over 63 bits": (body(user_id=2**63), "body.user_id"),
    "user over 64 bits": (body(user_id=2**64), "body.user_id"),
    "user of 3000 digits": (body(user_id=10**2999), "body.user_id"),
    "user object": (body(user_id={CANARY: 1}), "body.user_id"),
    "item boolean": (body(candidates=[False]), "body.candidates[0]"),
    "item negative": (body(candidates=[-7]), "body.candidates[0]"),
    "item fractional": (body(candidates=[0.5]), "body.candidates[0]"),
    "item over 63 bits": (body(candidates=[2**63]), "body.candidates[0]"),
    "item empty": (body(candidates=[""]), "body.candidates[0]"),
    "item too long": (body(candidates=["x" * 257]), "body.candidates[0]"),
    "unknown field": (body(**{CANARY: CANARY}), "body"),
    "explain, later": (body(explain=True), "body"),
    "context array": (body(context=[]), "body.context"),
    "context nested": (body(context={CANARY: {CANARY: 1}}), "body.context[...]"),
    "context integer over 64 bits": (body(context={"store_id": 2**64}), "body.context[...]"),
    "context integer under 64 bits": (body(context={"store_id": -(2**63) - 1}), "body.context[...]"),
    "tasks empty": (body(tasks=[]), "body.tasks"),
    "task unknown": (body(tasks=["click", CANARY]), "body.tasks[1]"),
    "task no text": (body(tasks=[1]), "body.tasks[0]"),
    "time negative": (body(at_ms=-1), "body.at_ms"),
    "time fractional": (body(at_ms=1.5), "body.at_ms"),
    "time text": (body(at_ms=CANARY), "body.at_ms"),
    "time after the year 9999": (body(at_ms=253_402_300_800_000), "body.at_ms"),
    "array": ([CANARY], "body"),
    "null": (None, "body"),
    "text": (CANARY, "body"),
    "number": (7, "body"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_json_of_another_form_is_refused_where_it_is_wrong(small_world: World, name: str) -> None:
    content, where = INVALID[name]
    problem = assert_problem(await post(small_world, json.dumps(content).encode()), 422, "invalid-request")
    (error,) = problem["errors"]
    assert error["where"] == where
    assert error["reason"]
    await assert_lives(small_world)


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "cut off": b'{"user_id": "u1", "candidates": ["apple"',
    "trailing": b'{"user_id": "u1", "candidates": ["apple"]} x',
    "two documents": b'{"user_id": 1, "candidates": [1]}{"user_id": 1, "candidates": [1]}',
    "NaN": b'{"user_id": NaN, "candidates": ["apple"]}',
    "NaN in context": b'{"user_id": "u1", "candidates": ["apple"], "context": {"store_id": NaN}}',
    "Infinity": b'{"user_id": "u1", "candidates": ["apple"], "context": {"store_id": -Infinity}}',
    "byte order mark": b'\xef\xbb\xbf{"user_id": "u1", "candidates": ["apple"]}',
    "UTF-16": '{"user_id": "u1", "candidates": ["apple"]}'.encode("utf-16"),
    "not UTF-8": b'{"user_id": "\xff", "candidates": ["apple"]}',
    "overlong UTF-8": b'{"user_id": "\xc0\xaf", "candidates": ["apple"]}',
    "lone surrogate": b'{"user_id": "\\ud800", "candidates": ["apple"]}',
    "low surrogate first": b'{"user_id": "\\udc00", "candidates": ["apple"]}',
    "encoded surrogate": b'{"user_id": "\xed\xa0\x80", "candidates": ["apple"]}',
    "raw newline in text": b'{"user_id": "a\nb", "candidates": ["apple"]}',
    "single quotes": b"{'user_id': 'u1'}",
    "leading zero": b'{"user_id": 01, "candidates": ["apple"]}',
    "form": b"user_id=u1&candidates=apple",
    "random": bytes(range(256)),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_json_is_malformed(small_world: World, name: str) -> None:
    assert_problem(await post(small_world, MALFORMED[name]), 400, "malformed-body")
    await assert_lives(small_world)


@pytest.mark.parametrize(
    "content",
    [
        b'{"user_id": "u1", "candidates": ["apple"], "context": {"store_id": 1e400}}',
        b'{"user_id": "u1", "candidates": ["apple"], "context": {"store_id": ' + b"9" * 3000 + b"}}",
        b'{"user_id": "u1", "candidates": ' + b"[" * 2000,
        b'{"user_id": ' + b"[" * 2000,
        b'{"context": {"a": ' + b'{"a": ' * 500,
        b'{"later": ' + b"[" * 3000,
    ],
    ids=["1e400", "3000 digits", "deep arrays", "deep user", "deep objects", "deep unknown"],
)
async def test_extreme_json_is_refused_as_invalid(small_world: World, content: bytes) -> None:
    assert_problem(await post(small_world, content), 422, "invalid-request")
    await assert_lives(small_world)


async def test_a_number_in_context_that_is_large_or_fractional_is_only_unknown(small_world: World) -> None:
    for value in (1e300, -1e300, 5e-324, 0.1, 2**63 - 1, -(2**63), True, None, "", "x" * 300):
        response = await small_world.score(body(context={"store_id": value, "no such feature": value}))
        assert response.status_code == 200, response.text


async def test_a_repeated_key_counts_once_and_harms_nothing(small_world: World) -> None:
    response = await post(small_world, b'{"user_id": "u1", "user_id": "u2", "candidates": ["apple"]}')
    assert response.status_code == 200


async def test_ids_with_control_characters_are_scored_and_stay_in_json(small_world: World) -> None:
    item_id = "a\r\nX-Injected: 1\0"
    response = await small_world.score({"user_id": "u\r\n1", "candidates": [item_id]})
    assert response.json()["unknown_items"] == [item_id]
    assert "X-Injected" not in response.headers


@pytest.mark.parametrize("domain", [None, "", " ", "no-such-domain", "Mailer", "mailer,display", "x" * 3000])
async def test_a_domain_that_is_missing_or_unknown_is_refused_with_those_there_are(
    small_world: World, domain: str | None
) -> None:
    problem = assert_problem(await small_world.score(body(), domain), 422, "invalid-request")
    assert problem["errors"][0]["where"] == "header.X-Domain"
    if domain and domain.strip():
        assert "mailer" in problem["errors"][0]["reason"]


async def test_a_body_at_the_limit_is_read_and_one_byte_more_is_not(small_world: World) -> None:
    whole = json.dumps(body()).encode()
    at_limit = whole + b" " * (4096 - len(whole))
    assert (await post(small_world, at_limit)).status_code == 200
    assert_problem(await post(small_world, at_limit + b" "), 413, "body-too-large")


async def test_a_large_body_is_refused_before_it_is_read(small_world: World) -> None:
    pulled = []

    async def chunks() -> AsyncIterator[bytes]:
        for i in range(1000):
            pulled.append(i)
            yield b" " * 1024

    response = await small_world.client.post(
        "/score", content=chunks(), headers={"X-Domain": "mailer", "Content-Length": str(1000 * 1024)}
    )
    assert_problem(response, 413, "body-too-large")
    assert response.headers["Connection"] == "close"
    assert pulled == []


async def test_a_large_body_that_hides_its_length_is_cut_off_at_the_limit(small_world: World) -> None:
    pulled = []

    async def chunks() -> AsyncIterator[bytes]:
        for i in range(1000):
            pulled.append(i)
            yield b" " * 1024

    response = await small_world.client.post("/score", content=chunks(), headers={"X-Domain": "mailer"})
    assert_problem(response, 413, "body-too-large")
    assert len(pulled) == 5


@pytest.mark.parametrize("length", ["99999999999999999999999", "9" * 5000])
async def test_an_absurd_length_is_too_large(small_world: World, length: str) -> None:
    response = await post(small_world, b"{}", {"Content-Length": length})
    assert_problem(response, 413, "body-too-large")


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "identity, gzip"])
async def test_a_body_compressed_otherwise_than_by_gzip_is_not_taken(
    small_world: World, encoding: str
) -> None:
    content = gzip.compress(json.dumps(body()).encode())
    response = await post(small_world, content, {"Content-Encoding": encoding})
    assert_problem(response, 415, "unsupported-media-type")
    assert response.headers["Accept-Encoding"] == "gzip"
    await assert_lives(small_world)


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_a_body_of_another_type_is_not_taken(small_world: World, media_type: str) -> None:
    content = json.dumps(body()).encode()
    assert_problem(
        await post(small_world, content, {"Content-Type": media_type}), 415, "unsupported-media-type"
    )


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
async def test_json_under_any_of_its_names_is_taken(small_world: World, media_type: str) -> None:
    content = json.dumps(body()).encode()
    assert (await post(small_world, content, {"Content-Type": media_type})).status_code == 200


async def test_a_body_of_no_type_is_taken_as_json(small_world: World) -> None:
    content = json.dumps(body()).encode()
    response = await small_world.client.post("/score", content=content, headers={"X-Domain": "mailer"})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/", "/scores", f"/{CANARY}", "/score/", "/docs/x"])
async def test_a_path_that_is_not_there_is_a_problem(small_world: World, path: str) -> None:
    assert_problem(await small_world.client.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/score", "POST"), ("DELETE", "/events", "POST"), ("POST", "/livez", "GET")],
)
async def test_a_method_that_is_not_there_is_a_problem(
    small_world: World, method: str, path: str, allowed: str
) -> None:
    response = await small_world.client.request(method, path)
    assert_problem(response, 405, "method-not-allowed")
    assert allowed in response.headers["Allow"]


async def test_a_bug_is_answered_without_its_trace(
    small_world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError(CANARY)

    monkeypatch.setattr("service.api.score.score_request", broken)
    problem = assert_problem(await small_world.score(body()), 500, "internal-error")
    assert "detail" not in problem
    monkeypatch.undo()
    await assert_lives(small_world)
