"""Encode: ids to rows and buckets, laid out as the served graph's tensors.

An item that the catalogue or the artefact lacks has the cold-start row; it is named, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.contract.served_inputs import Feeds, assemble
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
    model = route.model
    candidates = model.catalogue.ids_of(request.item_ids)
    unknown = np.flatnonzero(model.tables.rows_of(candidates) == 0).tolist()
    feeds = assemble(
        model.tables,
        domain=model.domains[route.domain],
        user_ids=model.encoder.user_ids(request.user_id, user.features, request.context, at_ms=at_ms),
        candidates=candidates,
        candidate_ids=model.encoder.candidate_ids(request.candidate_contexts),
        counted_ids=model.encoder.counted_ids(
            model.tables,
            model.popularity,
            candidates=candidates,
            history=user.history,
            context=request.context,
            at_ms=at_ms,
        ),
        history=user.history,
    )
    return Encoded(feeds, list(dict.fromkeys(request.item_ids[i] for i in unknown)))
