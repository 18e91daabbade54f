"""Encode: ids to rows and buckets, laid out as the served graph's tensors.

An item that the catalogue or the artefact lacks is scored from the features that the request has of it, else as the
cold-start item; the latter is named, never an error.
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
    """A request as tensors, the item ids of which nothing is known, each once, and how many candidates were
    encoded from their features."""

    feeds: Feeds
    unknown_items: list[str]
    encoded_items_count: int


def encode(request: ScoreRequest, route: Route, user: User, *, at_ms: int) -> Encoded:
    """Return the tensors of a request."""
    model, encoder = route.model, route.model.encoder
    candidates = model.catalogue.ids_of(request.item_ids)
    rows = encoder.tables.rows_of(candidates)
    new_items = encoder.new_items(rows, request.item_features) if request.item_features else None
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
        new_items=new_items,
    )
    unknown, encoded_count = np.flatnonzero(rows == 0), 0
    if new_items is not None:
        unknown, encoded_count = np.setdiff1d(unknown, new_items.places), len(new_items.places)
    return Encoded(feeds, list(dict.fromkeys(request.item_ids[i] for i in unknown.tolist())), encoded_count)
