"""MessagePack in and out says what JSON says; errors are problems in JSON either way."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from tests.integration.service.conftest import World
from tests.integration.service.test_refusals import INVALID, assert_problem
from tests.integration.service.test_refusals import small_world as small_world
from tests.support.known_registry import CATALOGUE_ITEMS, DOMAINS, USERS

pytestmark = pytest.mark.anyio

MSGPACK = "application/msgpack"
BODY: dict[str, Any] = {
    "user_id": USERS[3],
    "context": {"store_id": 8},
    "candidates": [
        *CATALOGUE_ITEMS,
        {"item_id": "apple", "context": {"location": "A"}},
        {"item_id": 7, "context": {"location": None}},
        "new",
    ],
}


async def ask(
    world: World,
    content: bytes,
    *,
    sent: str = MSGPACK,
    accept: str | None = MSGPACK,
    domain: str = "mailer",
    path: str = "/score",
) -> httpx.Response:
    headers = {"X-Domain": domain, "Content-Type": sent, "X-Request-Id": "r"}
    headers |= {} if accept is None else {"Accept": accept}
    return await world.client.post(path, content=content, headers=headers)


def as_json(answer: Any) -> Any:
    """Return an answer of columns as JSON has it."""
    columns = dict(answer["results"])
    item_ids = columns.pop("item_id")
    tasks = {task: np.frombuffer(column, "<f4").astype(float) for task, column in columns.items()}
    assert all(len(numbers) == len(item_ids) for numbers in tasks.values())
    rows = [
        {"item_id": item_id, **{task: numbers[i] for task, numbers in tasks.items()}}
        for i, item_id in enumerate(item_ids)
    ]
    return {**answer, "results": rows}


@pytest.mark.parametrize("domain", DOMAINS)
async def test_in_and_out_it_says_what_json_says(world: World, domain: str) -> None:
    in_json, in_msgpack = msgspec.json.encode(BODY), msgspec.msgpack.encode(BODY)
    expected = (await ask(world, in_json, sent="application/json", accept=None, domain=domain)).json()
    assert len(expected["results"]) == len(BODY["candidates"])
    for sent, content in (("application/json", in_json), (MSGPACK, in_msgpack)):
        plain = await ask(world, content, sent=sent, accept="application/json", domain=domain)
        assert plain.headers["Content-Type"] == "application/json"
        assert plain.json() == expected
        binary = await ask(world, content, sent=sent, domain=domain)
        assert binary.headers["Content-Type"] == MSGPACK
        assert as_json(msgspec.msgpack.decode(binary.content)) == expected
        assert binary.headers["Vary"] == plain.headers["Vary"] == "Accept"
        for header in ("X-Model-Version", "X-Experiment-Arms", "X-Request-Id"):
            assert binary.headers.get(header) == plain.headers.get(header)
        assert "score;dur=" in binary.headers["Server-Timing"]


@pytest.mark.parametrize("name", ["application/vnd.msgpack", "application/x-msgpack"])
async def test_its_other_names_are_taken_and_answered(world: World, name: str) -> None:
    response = await ask(world, msgspec.msgpack.encode(BODY), sent=name, accept=name)
    assert response.headers["Content-Type"] == name
    assert msgspec.msgpack.decode(response.content)["domain"] == "mailer"


async def test_the_tasks_asked_for_are_the_columns(world: World) -> None:
    response = await ask(world, msgspec.msgpack.encode({**BODY, "tasks": ["multi"]}))
    assert list(msgspec.msgpack.decode(response.content)["results"]) == ["item_id", "multi"]


PACKABLE = {name: case for name, case in INVALID.items() if "over 64" not in name and "under 64" not in name}
PACKABLE.pop("user of 3000 digits")


@pytest.mark.parametrize("name", PACKABLE)
async def test_what_json_would_be_refused_for_is_refused_alike(small_world: World, name: str) -> None:
    content, where = PACKABLE[name]
    in_json = await ask(small_world, msgspec.json.encode(content), sent="application/json")
    in_msgpack = await ask(small_world, msgspec.msgpack.encode(content))
    problem = assert_problem(in_msgpack, 422, "invalid-request")
    assert problem["errors"][0]["where"] == where
    assert problem == in_json.json()


GOOD = msgspec.msgpack.encode({"user_id": "u1", "candidates": ["apple"]})
MALFORMED = {
    "empty": b"",
    "cut off": GOOD[:-2],
    "trailing": GOOD + b"canary-4f1d",
    "reserved byte": b"\xc1",
    "not UTF-8": GOOD.replace(b"apple", b"app\xffe"),
    "array of four billion": b"\x82\xa7user_id\xa1u\xaacandidates\xdd\xff\xff\xff\xff\xa1a",
    "text of four billion": b"\x81\xa7user_id\xdb\xff\xff\xff\xffcanary-4f1d",
    "JSON": b'{"user_id": "u1", "candidates": ["apple"]}',
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_messagepack_is_a_problem_without_echo(small_world: World, name: str) -> None:
    response = await ask(small_world, MALFORMED[name])
    assert response.status_code in (400, 422)
    status, kind = (422, "invalid-request") if name == "JSON" else (400, "malformed-body")
    assert_problem(response, status, kind)  # `{` alone is the integer 123


async def test_deep_messagepack_is_refused(small_world: World) -> None:
    for content in (b"\x91" * 3000, b"\x81\xa7user_id" + b"\x91" * 3000, b"\x81\xa5later" + b"\x91" * 3000):
        assert (await ask(small_world, content)).status_code in (400, 422)


async def test_a_number_that_json_cannot_hold_is_only_unknown(small_world: World) -> None:
    for value in (float("nan"), float("inf")):
        body = {"user_id": "u1", "candidates": ["apple"], "context": {"store_id": value}}
        assert (await ask(small_world, msgspec.msgpack.encode(body))).status_code == 200


async def test_events_are_taken_in_json_alone(small_world: World) -> None:
    assert_problem(
        await ask(small_world, msgspec.msgpack.encode({"events": []}), path="/events"),
        415,
        "unsupported-media-type",
    )
