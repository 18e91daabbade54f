"""Whatever is sent: an answer or a bounded problem, never a 5xx, and the next request is fine."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.app import create_app
from tests.integration.service.conftest import ManualClock, make_settings, running
from tests.support.known_registry import KnownRegistry

BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

GOOD = {"user_id": "u1", "candidates": ["apple"]}


class Served:
    """A service on a loop of its own, for tests that are no coroutines."""

    def __init__(self, registry: KnownRegistry) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        app = create_app(make_settings(registry, "memory://"), clock=ManualClock())
        self.client = self.loop.run_until_complete(self.stack.enter_async_context(running(app)))

    def post(self, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.loop.run_until_complete(self.client.post(path, content=content, headers=headers))

    def close(self) -> None:
        self.loop.run_until_complete(self.stack.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture(scope="module")
def served(known_registry: KnownRegistry) -> Iterator[Served]:
    service = Served(known_registry)
    yield service
    service.close()


def check(served: Served, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
    response = served.post(path, content, {"X-Domain": "mailer", **(headers or {})})
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert len(response.content) <= 4096
        assert response.json()["status"] == response.status_code
    again = served.post("/score", json.dumps(GOOD).encode(), {"X-Domain": "mailer"})
    assert again.status_code == 200


text = st.text(max_size=12)
scalars = st.none() | st.booleans() | st.floats() | text | st.integers(-(2**70), 2**70)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
ids = st.sampled_from(["apple", "corn", "u1", "new"]) | st.integers(-2, 2**64 + 1) | anything
contexts = st.dictionaries(
    st.sampled_from(["store_id", "location", "hour_of_day", "user_id"]) | text, scalars
)
features = st.dictionaries(st.sampled_from(["aisle", "price", "item_id"]) | text, scalars)
candidates = ids | st.fixed_dictionaries(
    {"item_id": ids}, optional={"context": contexts, "features": features | anything}
)
score_bodies = st.fixed_dictionaries(
    {"user_id": ids, "candidates": st.lists(candidates, max_size=6) | anything},
    optional={
        "context": contexts | anything,
        "tasks": st.lists(st.sampled_from(["click", "multi", "other"]), max_size=3) | anything,
        "at_ms": st.integers(-1, 2**48) | anything,
        "explain": anything,
    },
)
event_bodies = st.fixed_dictionaries(
    {
        "events": st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["behavior", "impression", "label", "other"]), "event_id": ids},
                optional={
                    "user_id": ids,
                    "item_id": ids,
                    "at_ms": st.integers(-1, 2**48) | anything,
                    "strength": st.floats(0, 64) | anything,
                    "request_id": text | anything,
                    "position": st.integers(-1, 5) | anything,
                    "task": text,
                    "value": st.floats(0, 1) | anything,
                },
            ),
            max_size=4,
        )
    }
)


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


@BOUNDED
@given(content=score_bodies)
def test_bodies_shaped_like_scores(served: Served, content: Any) -> None:
    check(served, "/score", as_json(content))


@BOUNDED
@given(content=event_bodies)
def test_bodies_shaped_like_events(served: Served, content: Any) -> None:
    check(served, "/events", as_json(content))


@BOUNDED
@given(content=anything)
def test_any_json(served: Served, content: Any) -> None:
    check(served, "/score", as_json(content))
    check(served, "/events", as_json(content))


@BOUNDED
@given(content=st.binary(max_size=200))
def test_any_bytes(served: Served, content: bytes) -> None:
    check(served, "/score", content)


@BOUNDED
@given(content=st.binary(max_size=200), path=st.sampled_from(["/score", "/score/batch"]))
def test_any_bytes_as_messagepack_or_gzip(served: Served, content: bytes, path: str) -> None:
    check(served, path, content, {"Content-Type": "application/msgpack"})
    check(served, path, content, {"Content-Encoding": "gzip"})
    check(served, path, gzip.compress(content), {"Content-Encoding": "gzip"})


@BOUNDED
@given(content=st.lists(score_bodies | anything, max_size=3))
def test_batches_of_bodies_shaped_like_scores(served: Served, content: Any) -> None:
    check(served, "/score/batch", as_json({"requests": content}))


@BOUNDED
@given(data=st.data())
def test_good_messagepack_with_bytes_changed(served: Served, data: st.DataObject) -> None:
    content = bytearray(msgspec.msgpack.encode({"requests": [{**GOOD, "context": {"store_id": 7}}]}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(served, "/score/batch", bytes(content), {"Content-Type": "application/msgpack"})


@BOUNDED
@given(data=st.data())
def test_good_bodies_with_bytes_changed(served: Served, data: st.DataObject) -> None:
    content = bytearray(as_json({**GOOD, "context": {"store_id": 7}, "tasks": ["click"], "at_ms": 1}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(served, "/score", bytes(content))


header_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@BOUNDED
@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                "X-Domain",
                "X-Request-Id",
                "Content-Type",
                "Content-Encoding",
                "Content-Length",
                "Accept",
                "Accept-Encoding",
            ]
        ),
        header_text,
    )
)
def test_any_headers(served: Served, headers: dict[str, str]) -> None:
    check(served, "/score", as_json(GOOD), headers)
