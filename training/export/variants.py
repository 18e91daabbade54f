"""The gate of a variant: graphs of less precision against those in fp32, on real rows of the test weeks.

Knows nothing of torch and of how a variant was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from service.contract import served_inputs as names
from service.contract.golden import GoldenRequest, log_odds_differences
from service.contract.history import F32, I64, U32, History
from service.contract.manifest import Distance, Manifest, Variant
from service.contract.served_inputs import Feeds, ItemTables, assemble
from training.data.encoded import EncodedData
from training.export.parity import LOGIT_DIFFERENCE_LIMIT
from training.export.raw_requests import Case
from training.export.served_graph import ServedGraph
from training.metrics.evaluate import MetricsRow, evaluate
from training.metrics.natural import natural_weights

AUC_DROP_LIMIT: Final = 1e-3
PCOC_CHANGE_LIMIT: Final = 1e-2
"""Of every task in every domain, and in all domains together."""
BY_CANDIDATE: Final = (names.CANDIDATE_IDS, names.ITEM_SHARED, names.ITEM_BY_DOMAIN)
"""Tensors that have a row a candidate."""


def requests_of_test_weeks(data: EncodedData, *, rows_max: int, rng: np.random.Generator) -> list[Case]:
    """Return the requests of the test weeks with the candidates that they had, some of them where they have more rows
    than `rows_max`."""
    rows = data.rows_of(data.visits_of("test"))
    requests, rows_counts = np.unique(data.row_request[rows], return_counts=True)
    order = rng.permutation(len(requests))
    kept = np.sort(order[np.cumsum(rows_counts[order]) <= rows_max])
    first = np.searchsorted(data.row_request, requests[kept])
    return [
        Case(int(request), np.arange(start, start + count))
        for request, start, count in zip(requests[kept], first, rows_counts[kept], strict=True)
    ]


def compared(
    fp32: ServedGraph,
    variant: ServedGraph,
    data: EncodedData,
    catalogue_ids: U32,
    cases: Sequence[Case],
    golden: Iterable[GoldenRequest],
    *,
    advance: Callable[[int], None],
) -> tuple[Variant, float]:
    """Return how far a variant is from fp32, and how far its logits move with the other candidates.

    Shapes:
        catalogue_ids: (I,) of the dataset's item rows.
    """
    expected, got, dependence = [], [], 0.0
    for case in cases:
        domain = data.domains[data.domain[case.request]]
        feeds = encoded_feeds(fp32.encoder.tables, data, catalogue_ids, case)
        expected.append(fp32.probabilities(domain, feeds))
        got.append(variant.probabilities(domain, feeds))
        dependence = float(np.maximum(dependence, _dependence(variant, domain, feeds)))  # NaN stays
        advance(len(case.rows))
    rows = np.concatenate([case.rows for case in cases])
    found = distance(data, rows, np.concatenate(expected), np.concatenate(got), variant.manifest)
    largest = found.log_odds_difference_max
    for request in golden:
        p = variant.probabilities(request.domain, variant.feeds(request))
        largest = max(largest, float(log_odds_differences(p, request.probability).max()))
    found = found.model_copy(update={"log_odds_difference_max": largest})
    return Variant(precision=variant.precision, **found.model_dump()), dependence


def encoded_feeds(tables: ItemTables, data: EncodedData, catalogue_ids: U32, case: Case) -> Feeds:
    """Return the tensors of a case from the dataset's ids: those that `RawRequests` come to, in far less time."""
    visit = data.request_visit[[case.request]]
    clusters, recents, behaviors = (
        data.parts[part].of(visit) for part in ("clusters", "recents", "behaviors")
    )
    return assemble(
        tables,
        domain=int(data.domain[case.request]),
        user_ids=data.user_ids[case.request].tolist(),
        rows=data.item[case.rows].astype(np.int32),
        candidate_ids=data.candidate_ids[case.rows],
        history=History(
            item=catalogue_ids[clusters.item],
            size=clusters.size,
            age=clusters.age,
            strength=clusters.strength,
            recent_item=catalogue_ids[recents.item],
            recent_age=recents.age,
            recent_strength=recents.strength,
            behavior_item=catalogue_ids[behaviors.item],
            behavior_age=behaviors.age,
            behavior_strength=behaviors.strength,
        ),
    )


def distance(data: EncodedData, rows: I64, expected: F32, got: F32, manifest: Manifest) -> Distance:
    """Return how far the probabilities (B, T) that were got for some rows (B,) of the dataset are from the expected.

    Natural metrics, as `evaluate` has them; what one class only leaves undefined is not compared.
    """

    def metrics(p: F32) -> list[MetricsRow]:
        requests = data.row_request[rows]
        return evaluate(
            data.labels[rows],
            p,
            natural_weights(data.labels[rows, 0], data.keep_probability[rows]),
            users=data.visit_user[data.request_visit[requests]],
            requests=requests,
            domains=data.domain[requests],
            domain_names=data.domains,
            task_names=[task.name for task in manifest.tasks],
        )

    pairs = list(zip(metrics(expected), metrics(got), strict=True))
    return Distance(
        rows_count=len(rows),
        auc_drop_max=max(
            (a.auc - b.auc for a, b in pairs if a.auc is not None and b.auc is not None), default=0.0
        ),
        pcoc_change_max=max(
            (abs(a.pcoc - b.pcoc) for a, b in pairs if a.pcoc is not None and b.pcoc is not None), default=0.0
        ),
        probability_difference_max=float(np.abs(got - expected).max()),
        log_odds_difference_max=float(log_odds_differences(got, expected).max()),
    )


def refusals(found: Distance, dependence: float = 0.0) -> list[str]:
    """Return why scores do not pass for those that they stand for, a line each; none where they do."""
    checked = (
        ("AUC drops by", found.auc_drop_max, AUC_DROP_LIMIT),
        ("predicted over observed moves by", found.pcoc_change_max, PCOC_CHANGE_LIMIT),
        ("a logit moves with the other candidates by", dependence, LOGIT_DIFFERENCE_LIMIT),
    )
    return [
        f"{what} {value:.2e}, the limit is {limit:.0e}"
        for what, value, limit in checked
        if not value <= limit
    ]


def _dependence(graph: ServedGraph, domain: str, feeds: Feeds) -> float:
    """Return how far the logits of every third candidate move when they are scored without the others."""
    together = graph.logits_of(domain, feeds)
    chosen = {name: feeds[name][::3] for name in BY_CANDIDATE}
    return float(np.abs(graph.logits_of(domain, feeds | chosen) - together[::3]).max())
