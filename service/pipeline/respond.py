"""Respond: probabilities to the bytes of an answer, in the request's order.

In JSON `results` is an array of objects, one a candidate: its `item_id`, and a probability under the name of
each task. A number's text is that of the single-precision number the model gave, written as a double.

In MessagePack `results` is one object of columns: `item_id`, an array of N texts, and under the name of each task
a bin of 4 N bytes, N IEEE 754 single-precision numbers, little-endian, in the same order: what the model gave,
byte by byte (`numpy.frombuffer(column, "<f4")`). All else is as in JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from service.contract.history import F32
from service.pipeline.form import Form
from service.pipeline.route import Route

ENCODERS: Final[dict[Form, Callable[[Any], bytes]]] = {
    Form.JSON: msgspec.json.Encoder().encode,
    Form.MSGPACK: msgspec.msgpack.Encoder().encode,
}


def respond(
    route: Route,
    item_ids: Sequence[str],
    probability: F32,
    *,
    form: Form = Form.JSON,
    request_id: str,
    degraded: Sequence[str],
    unknown_items: Sequence[str],
) -> bytes:
    """Return the bytes of an answer. `probability` is (N, T), T all tasks of the model."""
    manifest = route.model.manifest
    results = _rows if form is Form.JSON else _columns
    return ENCODERS[form](
        {
            "request_id": request_id,
            "domain": route.domain,
            "model": {"name": manifest.name, "version": manifest.version, "backbone": manifest.backbone},
            "arms": route.arms,
            "degraded": degraded,
            "unknown_items": unknown_items,
            "results": results(route.tasks, item_ids, probability),
        }
    )


def _rows(
    tasks: tuple[tuple[str, int], ...], item_ids: Sequence[str], probability: F32
) -> list[msgspec.Struct]:
    columns = (probability[:, column].tolist() for _, column in tasks)
    return list(map(_row_type(tuple(task for task, _ in tasks)), item_ids, *columns))


@lru_cache(maxsize=256)
def _row_type(tasks: tuple[str, ...]) -> type[msgspec.Struct]:
    """Return what a row is: encoded in half the time of a dict, and unknown to the garbage collector."""
    fields = {f"task_{i}": task for i, task in enumerate(tasks)}  # a task's name may be no identifier
    return msgspec.defstruct(
        "Row", [("item_id", str), *((field, float) for field in fields)], rename=fields, gc=False
    )


def _columns(
    tasks: tuple[tuple[str, int], ...], item_ids: Sequence[str], probability: F32
) -> dict[str, object]:
    columns = np.ascontiguousarray(probability.T, "<f4")
    return {"item_id": item_ids, **{task: columns[column].data for task, column in tasks}}
