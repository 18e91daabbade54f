"""A file through the stages of a request: route → hydrate → encode → score, users read many at once.

Knows nothing of Parquet and of HTTP.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from service.breaker import Breaker
from service.clock import SystemClock
from service.contract.features import TIME_FEATURES, Side
from service.contract.history import F32
from service.errors import InputFileError, InvalidRequest, ScoringError
from service.experiments.plan import Plan, read_plan
from service.guarded_store import GuardedStore
from service.models.live import Serving, load_serving
from service.pipeline.decode import ScoreRequest
from service.pipeline.encode import encode
from service.pipeline.hydrate import NO_HISTORY, hydrate_many
from service.pipeline.route import route
from service.pipeline.run import Asked
from service.score_file.parquet import CandidateFile, Columns, FileRequest, Part, written_whole
from service.score_file.settings import ScoreFileSettings
from service.stores.base import StoreUnavailable

USERS_TOGETHER: Final = 64
"""Requests whose users are read together."""


@dataclass
class Counted:
    """What a run came upon. `models` and `degraded` count rows."""

    requests: int = 0
    unknown_items: int = 0
    models: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Scored:
    """The scores of one request: probabilities (N, T) of its model's tasks."""

    probability: F32
    tasks: tuple[str, ...]
    model: str
    degraded: tuple[str, ...]


async def score_file(settings: ScoreFileSettings) -> dict[str, Any]:
    """Score a file, and return what is to be told of it.

    Raises:
        StartupError, NotReady: there is nothing to score with.
        InputFileError: the file is not one that can be scored, or the output cannot be written.
        StoreUnavailable: the store failed, and that is not accepted.
        ScoringError: the model gave no probabilities.
    """
    began_s = time.perf_counter()
    clock = SystemClock()
    at_ms = clock.now_ms() if settings.at_ms is None else settings.at_ms
    file = CandidateFile(settings.input_file, _columns(settings, at_ms), keep=settings.keep)
    plan = _plan(settings)
    serving = load_serving(
        settings.registry, plan, precision=settings.precision, threads_count=settings.threads_count
    )
    missing = file.use_features(*features_sent(serving))
    store = GuardedStore(
        settings.store_url,
        settings.store_settings(),
        Breaker(clock, failures_count=5, open_min_ms=500, open_max_ms=30_000),
        lambda kind: None,
    )
    counted = Counted()
    rows_count = file.rows_count if settings.limit is None else min(settings.limit, file.rows_count)
    loaded_s = time.perf_counter()
    await store.open()
    try:
        if not settings.accept_missing_history and not await store.is_up():
            raise StoreUnavailable(f"the store does not answer; {_WHAT_TO_DO}")
        tasks = tuple(dict.fromkeys(task for model in serving.models.values() for task in model.tasks))
        columns = [settings.prefix + task for task in tasks]
        with (
            tqdm(total=rows_count, unit=" rows", unit_scale=True, disable=None) as progress,
            written_whole(settings.output_file, file, columns) as output,
        ):
            for part in file.parts(limit=settings.limit, candidates_max_count=settings.candidates_max_count):
                probability = np.full((part.rows.num_rows, len(tasks)), np.nan, np.float32)
                models: list[str] = []
                degraded: list[Sequence[str]] = []
                for requests in _chunks(part):
                    for scored in await _score(requests, serving, store, settings, counted):
                        first, count = len(models), len(scored.probability)
                        places = [tasks.index(task) for task in scored.tasks]
                        probability[first : first + count, places] = scored.probability
                        models += [scored.model] * count
                        degraded += [scored.degraded] * count
                        progress.update(count)
                output.write(part, probability, models, degraded)
    finally:
        await store.close()
    ended_s = time.perf_counter()
    return {
        "input": str(settings.input_file),
        "output": str(settings.output_file),
        "rows": counted.models.total(),
        "requests": counted.requests,
        "unknown_items": counted.unknown_items,
        "degraded": dict(counted.degraded),
        "models": dict(counted.models),
        "features_without_column": missing,
        "seconds": round(ended_s - began_s, 3),
        "processor_seconds": round(time.process_time(), 3),
        "rows_per_second": round(counted.models.total() / (ended_s - loaded_s), 1),
    }


_WHAT_TO_DO: Final = (
    "nothing was written; --accept-missing-history scores without life cycles, and says so in each row"
)


def features_sent(serving: Serving) -> tuple[list[str], list[str]]:
    """Return the features that requests and candidates have of their own, of all models.

    Raises:
        InputFileError: a name is the one to one model and the other to another.
    """
    contexts: dict[str, None] = {}
    candidates: dict[str, None] = {}
    for model in serving.models.values():
        contexts |= dict.fromkeys(feature.name for feature in model.manifest.features_of(Side.CONTEXT))
        candidates |= dict.fromkeys(feature.name for feature in model.manifest.features_of(Side.CANDIDATE))
    if both := contexts.keys() & candidates.keys():
        raise InputFileError(
            f"feature {min(both)!r} is of requests to one model and of candidates to another: score with --model"
        )
    return [name for name in contexts if name not in TIME_FEATURES], list(candidates)


async def _score(
    requests: Sequence[FileRequest],
    serving: Serving,
    store: GuardedStore,
    settings: ScoreFileSettings,
    counted: Counted,
) -> list[Scored]:
    asked = [_understood(request, serving, settings) for request in requests]
    scores: list[Scored] = []
    users = await hydrate_many(store, [one.wanted() for one in asked])
    for one, user, request in zip(asked, users, requests, strict=True):
        if NO_HISTORY in user.degraded and not settings.accept_missing_history:
            raise StoreUnavailable(f"the store failed at row {request.row} (from 0); {_WHAT_TO_DO}")
        encoded = encode(one.request, one.way, user, at_ms=one.at_ms)
        model = one.way.model
        try:
            probability = model.scorer.run(one.way.domain, encoded.feeds)
        except ScoringError as error:
            raise ScoringError(f"row {request.row} (from 0): {error}; nothing was written") from error
        scores.append(Scored(probability, model.tasks, model.label, user.degraded))
        counted.requests += 1
        counted.unknown_items += len(encoded.unknown_items)
        counted.models[model.label] += len(probability)
        for reason in user.degraded:
            counted.degraded[reason] += len(probability)
    return scores


def _understood(request: FileRequest, serving: Serving, settings: ScoreFileSettings) -> Asked:
    try:
        way = route(serving, domain=request.domain, user_id=request.user_id, tasks=None)
    except InvalidRequest as error:
        where = (
            "--domain"
            if settings.domain
            else f"row {request.row} (from 0), column {settings.domain_column!r}"
        )
        reason = error.violations[0].reason
        raise InputFileError(f"{settings.input_file}: {where}: {reason}; nothing was written") from error
    decoded = ScoreRequest(
        request.user_id,
        request.context,
        request.item_ids,
        request.candidate_contexts,
        item_features={},
        tasks=None,
        at_ms=request.at_ms,
    )
    return Asked(decoded, way, request.at_ms, decode_s=0.0, route_s=0.0)


def _plan(settings: ScoreFileSettings) -> Plan:
    if settings.model is not None:
        return Plan(version=1, default_model=settings.model)
    return read_plan(settings.experiments_file)


def _columns(settings: ScoreFileSettings, at_ms: int) -> Columns:
    return Columns(
        user=settings.user_column,
        item=settings.item_column,
        domain=settings.domain_column if settings.domain is None else None,
        at=settings.at_column if settings.at_ms is None else None,
        request=settings.request_column,
        domain_of_all=settings.domain or "",
        at_ms_of_all=at_ms,
    )


def _chunks(part: Part) -> Iterator[list[FileRequest]]:
    requests = iter(part.requests)
    while chunk := list(islice(requests, USERS_TOGETHER)):
        yield chunk
