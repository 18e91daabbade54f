"""Encode: ids to rows and buckets, laid out as the served graph's tensors.

An item that the catalogue or the artefact lacks has the cold-start row; it is named, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.contract.served_inputs import Feeds
from service.pipeline.decode import ScoreRequest
from service.pipeline.hydrate import User
from service.pipeline.route import Route


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request as tensors, and the item ids that have no row of their own, each once."""

    feeds: Feeds
    unknown_items: list[str]


def encode(request: ScoreRequest, route: Route, user: User, *, at_ms: int) -> Encoded:
    """Return the tensors of a request."""
    model, encoder = route.model, route.model.encoder
    candidates = model.catalogue.ids_of(request.item_ids)
    rows = encoder.tables.rows_of(candidates)
    feeds = encoder.encode(
        route.domain,
        user_id=request.user_id,
        user_features=user.features,
        context=request.context,
        candidates=candidates,
        rows=rows,
        candidate_contexts=request.candidate_contexts,
        history=user.history,
        popularity=model.popularity,
        at_ms=at_ms,
    )
    unknown = np.flatnonzero(rows == 0).tolist()
    return Encoded(feeds, list(dict.fromkeys(request.item_ids[i] for i in unknown)))
