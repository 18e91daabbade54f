"""Items of the dataset as if they were new: the item encoder and the whole path against torch.

Their features are sent instead of their ids, and torch is told that it does not know their ids.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from service.contract.features import Side
from service.contract.golden import GoldenCandidate, GoldenRequest
from service.contract.history import F32, I64
from service.contract.match import ITEM
from service.contract.statistics import level_of
from training.data.encoded import COUNTED_SIDES, EncodedData, nothing_counted_ids
from training.export.raw_requests import Case, RawRequests
from training.export.served_graph import ServedGraph
from training.export.served_scorer import ServedScorer
from training.fit import batch_builder
from training.model import CtrModel

ROW_DIFFERENCE_LIMIT: Final = 1e-5
"""Of a table's values, where they exceed 1 relative to them."""

NEW: Final = "new to every catalogue: "


def encoded_rows_difference(
    served: ServedGraph,
    scorer: ServedScorer,
    model: CtrModel,
    data: EncodedData,
    raw: RawRequests,
    items: I64,
) -> float:
    """Return how far what the item encoder makes of the raw features of item rows is from torch; NaN if any is.

    Hashes of items (ETA, SDIM) are compared too: of a million bits one may lie so near to 0 that rounding decides.
    So ask for thousands of items, not for millions.
    """
    got = served.encode_items(served.encoder.item_feature_ids(raw.item_features_of(items)))
    with torch.inference_mode():
        expected = scorer.item_rows(model.item(_as_new(data, items)))
    return float(
        np.max(
            [
                (np.abs(one - other) / np.maximum(1.0, np.abs(other))).max(initial=0.0)
                for one, other in zip(got, (rows.numpy() for rows in expected), strict=True)
            ]
        )
    )


def with_new_items(
    case: Case, model: CtrModel, data: EncodedData, raw: RawRequests
) -> tuple[GoldenRequest, F32]:
    """Return a case as a request in which every other candidate is a new item, and the logits (N, T) of torch."""
    request = raw.request_of(case)
    new = np.arange(0, len(case.rows), 2)
    items = data.item[case.rows[new]]
    candidates = list(request.candidates)
    for place, features in zip(new.tolist(), raw.item_features_of(items), strict=True):
        context = candidates[place].context
        candidates[place] = GoldenCandidate(item_id=f"{NEW}{place}", context=context, features=features)
    request = request.model_copy(update={"candidates": tuple(candidates)})

    batch = batch_builder(data).one_request(case.request, case.rows)
    counted = [f for side in COUNTED_SIDES for f in data.features if f.side is side]
    unmatched = [f.side is Side.POPULARITY or level_of(f) == ITEM for f in counted]
    columns = batch.candidate_ids.shape[1] - len(counted) + np.flatnonzero(unmatched)
    batch.candidate_ids[np.ix_(new, columns)] = torch.tensor(nothing_counted_ids(data.features))[unmatched]
    batch.item[new] = torch.arange(len(new)) + len(data.item_ids)
    known = model.item_ids
    try:
        model.item_ids = torch.cat([known, _as_new(data, items)])
        with torch.inference_mode():
            return request, model.natural_logits(batch).numpy()
    finally:
        model.item_ids = known


def _as_new(data: EncodedData, items: I64) -> Tensor:
    """Return the feature ids of item rows, (len(items), FI), with the item itself unknown."""
    ids = data.item_ids[items]
    ids[:, [f.name == ITEM for f in data.features if f.side is Side.ITEM]] = 0
    return torch.from_numpy(ids)
