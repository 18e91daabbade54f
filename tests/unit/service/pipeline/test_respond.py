"""Both forms of an answer hold the numbers of the model, bit for bit."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.form import Form
from service.pipeline.respond import respond

MANIFEST = SimpleNamespace(name="star", version="1", backbone="star")


def route(*tasks: tuple[str, int]) -> Any:
    return SimpleNamespace(
        model=SimpleNamespace(manifest=MANIFEST), domain="mailer", tasks=tasks, arms={"l": "a"}
    )


def answered(way: Any, item_ids: list[str], probability: Any, form: Form) -> Any:
    body = respond(
        way,
        item_ids,
        probability,
        form=form,
        request_id="r",
        degraded=("history",),
        unknown_items=item_ids[:1],
    )
    return json.loads(body) if form is Form.JSON else msgspec.msgpack.decode(body)


probabilities = st.floats(0, 1, width=32)
rows = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), probabilities, probabilities),
    min_size=1,
    max_size=8,
)


@given(rows=rows)
def test_every_number_parses_to_the_number_of_the_model(rows: list[tuple[str, float, float]]) -> None:
    item_ids = [row[0] for row in rows]
    probability = np.array([row[1:] for row in rows], np.float32)
    way = route(("buy-2", 1), ("click", 0))
    in_json = answered(way, item_ids, probability, Form.JSON)
    in_msgpack = answered(way, item_ids, probability, Form.MSGPACK)
    for name, column in way.tasks:
        parsed = np.array([result[name] for result in in_json["results"]])
        np.testing.assert_array_equal(parsed, probability[:, column].astype(np.float64))
        bits = np.frombuffer(in_msgpack["results"][name], "<f4")
        np.testing.assert_array_equal(bits, probability[:, column])
    assert [list(result) for result in in_json["results"]] == [["item_id", "buy-2", "click"]] * len(rows)
    assert [result["item_id"] for result in in_json["results"]] == item_ids
    assert list(in_msgpack["results"]) == ["item_id", "buy-2", "click"]
    assert in_msgpack["results"]["item_id"] == item_ids
    assert list(in_json) == list(in_msgpack)
    assert {**in_json, "results": None} == {**in_msgpack, "results": None}


def test_json_is_written_as_a_plain_encoder_writes_it() -> None:
    probability = np.array([[0.25, 1e-9], [1.0, 0.1]], np.float32)
    body = respond(
        route(("click", 0), ("2nd", 1)),
        ['a"\n', "ü\\"],
        probability,
        request_id="r",
        degraded=(),
        unknown_items=["ü\\"],
    )
    content = {
        "request_id": "r",
        "domain": "mailer",
        "model": {"name": "star", "version": "1", "backbone": "star"},
        "arms": {"l": "a"},
        "degraded": [],
        "unknown_items": ["ü\\"],
        "results": [
            {"item_id": 'a"\n', "click": 0.25, "2nd": float(np.float32(1e-9))},
            {"item_id": "ü\\", "click": 1.0, "2nd": float(np.float32(0.1))},
        ],
    }
    plain = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    assert body.decode() == plain


@pytest.mark.parametrize("form", Form)
def test_only_tasks_that_are_asked_for_are_answered(form: Form) -> None:
    results = answered(route(("click", 1)), ["a"], np.array([[0.5, 0.25]], np.float32), form)["results"]
    if form is Form.JSON:
        assert results == [{"item_id": "a", "click": 0.25}]
    else:
        assert results == {"item_id": ["a"], "click": np.array([0.25], "<f4").tobytes()}
