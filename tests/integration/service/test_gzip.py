"""Compressed bodies are taken up to their limit; answers are compressed where setting and caller both say so."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.service.conftest import World, Worlds
from tests.integration.service.test_refusals import assert_problem
from tests.integration.service.test_refusals import small_world as small_world

pytestmark = pytest.mark.anyio

BODY: dict[str, Any] = {"user_id": "u3", "candidates": ["apple", "corn"]}
LONG: dict[str, Any] = {"user_id": "u3", "candidates": ["apple", "corn"] * 100}


async def send(world: World, content: bytes, *, coding: str = "gzip", path: str = "/score") -> httpx.Response:
    headers = {"X-Domain": "mailer", "Content-Encoding": coding, "X-Request-Id": "r"}
    return await world.client.post(path, content=content, headers=headers)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
async def test_a_compressed_body_is_scored_as_a_plain_one(small_world: World, coding: str) -> None:
    plain = await send(small_world, json.dumps(BODY).encode(), coding="identity")
    compressed = await send(small_world, gzip.compress(json.dumps(BODY).encode()), coding=coding)
    assert compressed.status_code == 200
    assert compressed.content == plain.content


async def test_events_may_be_compressed_too(small_world: World) -> None:
    event = {"type": "behavior", "event_id": "e", "user_id": "u1", "item_id": "apple"}
    content = gzip.compress(json.dumps({"events": [event]}).encode())
    response = await send(small_world, content, path="/events")
    assert response.json()["behaviors"]["appended"] == 1


async def test_a_body_counts_decompressed_up_to_the_limit(small_world: World) -> None:
    whole = json.dumps(BODY).encode()
    at_limit = whole + b" " * (4096 - len(whole))
    assert (await send(small_world, gzip.compress(at_limit))).status_code == 200
    assert_problem(await send(small_world, gzip.compress(at_limit + b" ")), 413, "body-too-large")


async def test_a_few_bytes_that_hold_many_are_too_large(small_world: World) -> None:
    bomb = gzip.compress(b" " * (3 * 2**20))
    assert len(bomb) < 4096
    assert_problem(await send(small_world, bomb), 413, "body-too-large")
    assert (await small_world.score(BODY)).status_code == 200


WHOLE = gzip.compress(json.dumps(BODY).encode())
DAMAGED = {
    "empty": b"",
    "no gzip": json.dumps(BODY).encode(),
    "cut off": WHOLE[:-9],
    "cut in the checksum": WHOLE[:-1],
    "wrong checksum": WHOLE[:-8] + b"\0" * 8,
    "trailing": WHOLE + b"x",
    "two members": WHOLE + WHOLE,
    "zlib": b"\x78\x9c" + WHOLE[10:],
    "no JSON": gzip.compress(b"canary-4f1d"),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_body_that_is_no_whole_gzip_of_json_is_malformed(small_world: World, name: str) -> None:
    assert_problem(await send(small_world, DAMAGED[name]), 400, "malformed-body")


@pytest.fixture
async def compressing(worlds: Worlds) -> AsyncIterator[World]:
    """A service that compresses answers of 2000 bytes or more for those who take it."""
    async with worlds("memory://", gzip_min_bytes=2000) as running_world:
        yield running_world


async def ask(world: World, content: Any, accept_encoding: str, path: str = "/score") -> httpx.Response:
    headers = {"X-Domain": "mailer", "X-Request-Id": "r", "Accept-Encoding": accept_encoding}
    return await world.client.post(path, json=content, headers=headers)


async def test_by_default_nothing_is_compressed_whatever_clients_say(small_world: World) -> None:
    response = await ask(small_world, {**LONG, "candidates": ["apple"] * 50}, "gzip")
    assert len(response.content) > 2000
    assert "Content-Encoding" not in response.headers
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("path", ["/score", "/score/batch"])
async def test_a_long_answer_is_compressed_for_who_takes_it(compressing: World, path: str) -> None:
    content = LONG if path == "/score" else {"requests": [LONG, LONG]}
    plain = await ask(compressing, content, "identity", path)
    assert "Content-Encoding" not in plain.headers
    compressed = await ask(compressing, content, "gzip, deflate", path)
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert int(compressed.headers["Content-Length"]) < len(plain.content) / 2
    assert compressed.json() == plain.json()
    assert plain.headers["Vary"] == compressed.headers["Vary"] == "Accept, Accept-Encoding"


async def test_short_answers_problems_and_refused_codings_are_not_compressed(compressing: World) -> None:
    for content, accepted, status in (
        (BODY, "gzip", 200),
        (LONG, "gzip;q=0", 200),
        (LONG, "br", 200),
        ({}, "gzip", 422),
    ):
        response = await ask(compressing, content, accepted)
        assert response.status_code == status
        assert "Content-Encoding" not in response.headers
