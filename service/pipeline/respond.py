"""Respond: probabilities to the bytes of an answer, in the request's order."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from service.contract.history import F32
from service.pipeline.route import Route


def respond(
    route: Route,
    item_ids: Sequence[str],
    probability: F32,
    *,
    request_id: str,
    degraded: Sequence[str],
    unknown_items: Sequence[str],
) -> bytes:
    """Return the JSON of an answer. `probability` is (N, T), T all tasks of the model."""
    results: list[dict[str, str | float]] = [{"item_id": item_id} for item_id in item_ids]
    for task, column in route.tasks:
        for result, value in zip(results, probability[:, column].tolist(), strict=True):
            result[task] = value
    manifest = route.model.manifest
    return orjson.dumps(
        {
            "request_id": request_id,
            "domain": route.domain,
            "model": {"name": manifest.name, "version": manifest.version, "backbone": manifest.backbone},
            "arms": route.arms,
            "degraded": degraded,
            "unknown_items": unknown_items,
            "results": results,
        }
    )
