"""JSON and MessagePack decode to the same request, which is what a plain reading of the body gives."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, MalformedBody
from service.pipeline.decode import decode_batch, decode_score
from service.pipeline.form import Form

ENCODE = {Form.JSON: lambda content: json.dumps(content).encode(), Form.MSGPACK: msgspec.msgpack.encode}

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8) | st.integers(0, 2**63 - 1)
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
contexts = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), values, max_size=3)
candidates = ids | st.fixed_dictionaries(
    {"item_id": ids}, optional={"context": contexts, "features": contexts}
)
bodies = st.fixed_dictionaries(
    {"user_id": ids, "candidates": st.lists(candidates, min_size=1, max_size=6)},
    optional={
        "context": contexts,
        "tasks": st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=3) | st.none(),
        "at_ms": st.integers(0, 253_402_300_799_999) | st.none(),
    },
)


@given(content=bodies)
def test_both_forms_decode_to_what_a_plain_reading_gives(content: dict[str, Any]) -> None:
    for form, encode in ENCODE.items():
        decoded = decode_score(encode(content), form, candidates_max_count=10, new_items_max_count=10)
        objects = [c if isinstance(c, dict) else {"item_id": c} for c in content["candidates"]]
        assert decoded.user_id == str(content["user_id"])
        assert decoded.item_ids == [str(c["item_id"]) for c in objects]
        assert decoded.candidate_contexts == [c.get("context", {}) for c in objects]
        assert decoded.item_features == {i: c["features"] for i, c in enumerate(objects) if "features" in c}
        assert decoded.context == content.get("context", {})
        assert decoded.tasks == content.get("tasks")
        assert decoded.at_ms == content.get("at_ms")


@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_request_or_refused(content: bytes) -> None:
    for form in Form:
        for decode in (decode_score_of_at_most_10, decode_batch_of_at_most_10):
            with suppress(MalformedBody, InvalidRequest):
                decode(content, form)


def decode_score_of_at_most_10(content: bytes, form: Form) -> None:
    decode_score(content, form, candidates_max_count=10, new_items_max_count=10)


def decode_batch_of_at_most_10(content: bytes, form: Form) -> None:
    decode_batch(content, form, requests_max_count=10)


@pytest.mark.parametrize("form", Form)
def test_the_requests_of_a_batch_decode_as_alone(form: Form) -> None:
    contents = [
        {"user_id": "u", "candidates": ["a", {"item_id": 7, "context": {"x": 1.5}}]},
        {"user_id": 3, "candidates": ["ü"], "tasks": ["click"], "at_ms": 5},
    ]
    parts = decode_batch(ENCODE[form]({"requests": contents}), form, requests_max_count=2)
    for part, content in zip(parts, contents, strict=True):
        alone = decode_score(ENCODE[form](content), form, candidates_max_count=10, new_items_max_count=10)
        assert decode_score(part, form, candidates_max_count=10, new_items_max_count=10) == alone


@pytest.mark.parametrize(
    ("content", "where", "reason"),
    [
        ({1: 2}, "body", "expected str, got int as a key"),
        (
            {"user_id": "u", "candidates": ["a"], "context": {b"k": 1}},
            "body.context",
            "expected str, got bytes as a key",
        ),
        ({"user_id": b"u", "candidates": ["a"]}, "body.user_id", "expected int | str, got bytes"),
        (
            {"user_id": "u", "candidates": ["a"], "context": {"k": msgspec.msgpack.Ext(5, b"x")}},
            "body.context[...]",
            "expected bool | int | float | str | null, got ext",
        ),
    ],
)
def test_what_json_cannot_hold_is_refused_where_it_is(content: Any, where: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_score(
            msgspec.msgpack.encode(content), Form.MSGPACK, candidates_max_count=10, new_items_max_count=10
        )
    (violation,) = refused.value.violations
    assert (violation.where, violation.reason) == (where, reason)
