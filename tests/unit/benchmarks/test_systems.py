from __future__ import annotations

import numpy as np
import orjson
import pytest

from benchmarks.systems import (
    INFER_PATH,
    DisagreementError,
    System,
    difference,
    scores_of,
    unwrapped,
    wrapped,
)
from benchmarks.workload import Ask


def answers(ours, other):
    """Return the scores of two candidates with one task from our service and from the plain handler."""
    return (
        scores_of({"results": [{"item_id": str(i), "click": p} for i, p in enumerate(ours)]}),
        scores_of(
            {"results": [{"item_id": str(i), "probabilities": {"click": p}} for i, p in enumerate(other)]}
        ),
    )


def test_equal_answers_do_not_differ():
    found = difference(*answers([0.25, 0.5], [0.25, 0.5]))

    assert (found.probability, found.relative) == (0, 0)


def test_the_greatest_difference_as_it_is_and_relative_may_be_of_different_candidates():
    found = difference(*answers([0.5, 0.003], [0.75, 0.001]))

    assert found.probability == 0.25
    assert found.relative == pytest.approx(2.0)


def test_below_a_ten_thousandth_the_relative_difference_is_relative_to_that():
    found = difference(*answers([3e-6], [1e-6]))

    assert found.relative == pytest.approx(0.02)


def test_answers_in_another_order_are_refused():
    ours, other = answers([0.1, 0.2], [0.1, 0.2])
    other.item_ids.reverse()

    with pytest.raises(DisagreementError):
        difference(ours, other)


def test_answers_to_ready_tensors_name_no_items_and_must_have_as_many_rows():
    ours, _ = answers([0.1, 0.2], [0.1, 0.2])

    assert difference(ours, scores_of({"probabilities": [[0.1], [0.2]]})).probability == 0
    with pytest.raises(DisagreementError):
        difference(ours, scores_of({"probabilities": [[0.1]]}))


def test_tasks_are_columns_in_their_order():
    scores = scores_of({"results": [{"item_id": "a", "click": 0.5, "buy": 0.25}]})

    np.testing.assert_array_equal(scores.probability, [[0.5, 0.25]])


def test_ids_are_sent_as_they_are_with_their_domain():
    call = System("one", ()).call(Ask("both", b'{"a":1}'))

    assert call.http() == (
        b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Domain: both\r\n"
        b'Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
    )


def test_a_wrapped_body_is_a_tensor_of_bytes_after_a_head_of_stated_length():
    body = b'{"a":1}'
    call = System("one", (), wrapped=True).call(Ask("both", body))

    length = int(dict(call.headers)["Inference-Header-Content-Length"])
    head, data = orjson.loads(call.body[:length]), call.body[length:]
    assert call.path == INFER_PATH
    assert head["inputs"][0]["parameters"]["binary_data_size"] == len(data)
    assert data == len(body).to_bytes(4, "little") + body


def test_a_wrapped_answer_is_what_follows_its_head_whatever_bytes_it_has():
    answer = '{"é":"}{"}'.encode()
    _, data = wrapped(answer)

    assert unwrapped('{"outputs":[{"name":"é{"}]}'.encode() + data) == answer
