"""The gate of long life cycles: scores from a sample of their clusters against those from all, on real rows.

Knows nothing of torch and of how a sample is drawn (`Snapshot.sampled`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from service.contract.golden import golden_feeds
from service.contract.manifest import SampledLifeCycles
from training.data.encoded import EncodedData
from training.export.raw_requests import Case, RawRequests
from training.export.served_graph import ServedGraph
from training.export.variants import distance, encoded_feeds
from training.workbench import Workbench


def are_sampled(bench: Workbench, data: EncodedData, cases: Sequence[Case]) -> list[bool]:
    """Return which cases are of life cycles of more clusters than `history.limits.clusters_max`."""
    clusters_max = bench.config.history.limits.clusters_max
    if clusters_max is None:
        return [False] * len(cases)

    def clusters_count(case: Case) -> int:
        visit = int(data.request_visit[case.request])
        user, at_ms = data.users[data.visit_user[visit]], int(data.visit_at_ms[visit])
        snapshot = bench.snapshots.newest_before(user, at_ms)
        return 0 if snapshot is None else len(snapshot.item)

    return [clusters_count(case) > clusters_max for case in cases]


def compared_with_whole(
    bench: Workbench,
    served: ServedGraph,
    data: EncodedData,
    cases: Sequence[Case],
    sampled: Sequence[bool],
    *,
    advance: Callable[[int], None],
) -> SampledLifeCycles:
    """Return how far the scores of cases are from those of whole life cycles; only those that are sampled differ."""
    limits = served.manifest.history.model_copy(update={"clusters_max": None})
    unlimited = served.manifest.model_copy(update={"history": limits})
    raw = RawRequests(bench, data)
    expected, got = [], []
    for case, is_sampled in zip(cases, sampled, strict=True):
        domain = data.domains[data.domain[case.request]]
        feeds = encoded_feeds(served.encoder.tables, data, bench.catalogue_ids, case)
        got.append(served.probabilities(domain, feeds))
        if is_sampled:
            request = raw.request_of(case)
            feeds = golden_feeds(
                request, manifest=unlimited, catalogue=bench.catalogue, encoder=served.encoder
            )
        expected.append(served.probabilities(domain, feeds) if is_sampled else got[-1])
        advance(len(case.rows))
    rows = np.concatenate([case.rows for case in cases])
    found = distance(data, rows, np.concatenate(expected), np.concatenate(got), served.manifest)
    sampled_rows = sum(len(case.rows) for case, is_sampled in zip(cases, sampled, strict=True) if is_sampled)
    return SampledLifeCycles(sampled_rows_count=sampled_rows, **found.model_dump())
