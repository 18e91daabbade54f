"""Parity: the training graph in torch against the served graph in ONNX Runtime, on real requests.

The two sides meet only here. The reference reads the dataset's encoded rows; the served side starts from raw
values and from the store's own bytes, and goes through the contract: vocabularies, codecs, catalogue and all.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from service.contract.history import F32
from training.data.encoded import EncodedData
from training.export.raw_requests import Case
from training.fit import batch_builder
from training.model import CtrModel

LOGIT_DIFFERENCE_LIMIT: Final = 1e-4
CANDIDATES_COUNTS: Final = (1, 7, 100)
CLUSTERS_COUNT_BOUNDS: Final = (0, 1, 2, 10, 50)
"""Histories are drawn from between these: none, one, few, more, many clusters."""


def draw_cases(data: EncodedData, *, rows_min: int, rng: np.random.Generator) -> list[Case]:
    """Return cases over all domains, numbers of candidates and lengths of history, of `rows_min` rows or more.

    A case's own rows come first; where it has fewer than it needs, rows of other requests of its domain follow.
    """
    lengths = np.diff(data.parts["clusters"].starts)[data.request_visit]
    band = np.searchsorted(CLUSTERS_COUNT_BOUNDS, lengths, side="right")
    domains = np.unique(data.domain)
    rows_of_domain = {d: np.flatnonzero(data.domain[data.row_request] == d) for d in domains}
    pools = [
        pool
        for d in domains
        for b in np.unique(band)
        if len(pool := np.flatnonzero((data.domain == d) & (band == b)))
    ]
    first = np.searchsorted(data.row_request, np.arange(len(data.domain) + 1))
    cases: list[Case] = []
    rows_count = 0
    while rows_count < rows_min:
        for pool in pools:
            for candidates in CANDIDATES_COUNTS:
                request = int(rng.choice(pool))
                own = np.arange(first[request], first[request + 1])
                others = rng.choice(rows_of_domain[data.domain[request]], candidates)
                cases.append(Case(request, np.concatenate([own, others])[:candidates]))
                rows_count += candidates
    return cases


def reference_logits(model: CtrModel, data: EncodedData, case: Case) -> F32:
    """Return the training graph's natural-rate logits (N, T)."""
    with torch.inference_mode():
        logits: F32 = model.natural_logits(batch_builder(data).one_request(case.request, case.rows)).numpy()
        return logits
