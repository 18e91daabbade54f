"""Metrics for Prometheus. Labels are bounded names: routes, stages, models, arms; never users, items.

With several workers each writes to files in PROMETHEUS_MULTIPROC_DIR, and any of them answers for all. The
variable must be set before this module is imported: the client looks for it once.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.models.live import Serving
from service.pipeline.run import STAGES, Answer
from service.stores.base import CacheWatch
from service.stores.cache import RESET_REASONS

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

_REQUEST_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)
_STAGE_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1)
_CANDIDATES_BUCKETS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000)


class StoreCacheMetrics(CacheWatch):
    """What the store's cache of one worker does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        lookups = Counter(
            "twinstar_store_cache_lookups",
            "Keys that requests read, by whether the worker held them; all of them a miss while its cache is shut.",
            ["outcome"],
            registry=registry,
        )
        self._hits, self._misses = lookups.labels("hit"), lookups.labels("miss")
        self._held_bytes = Gauge(
            "twinstar_store_cache_bytes",
            "What the caches of all workers take.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._invalidations = Counter(
            "twinstar_store_cache_invalidations",
            "Keys that the store said were written, held or not.",
            registry=registry,
        )
        resets = Counter(
            "twinstar_store_cache_resets",
            "Times that the cache was emptied, by why.",
            ["reason"],
            registry=registry,
        )
        self._resets = {reason: resets.labels(reason) for reason in RESET_REASONS}

    def looked_up(self, hits_count: int, misses_count: int) -> None:
        if hits_count:
            self._hits.inc(hits_count)
        if misses_count:
            self._misses.inc(misses_count)

    def holds(self, held_bytes: int) -> None:
        self._held_bytes.set(held_bytes)

    def invalidated(self, keys_count: int) -> None:
        self._invalidations.inc(keys_count)

    def was_reset(self, reason: str) -> None:
        self._resets[reason].inc()


class Metrics:
    """What one worker counts."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        requests = Counter(
            "twinstar_requests", "Answers by route and status code.", ["route", "code"], registry=registry
        )
        request_seconds = Histogram(
            "twinstar_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_REQUEST_BUCKETS_S,
            registry=registry,
        )
        stage_seconds = Histogram(
            "twinstar_stage_duration_seconds",
            "Stages of a scored request.",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        self._candidates = Histogram(
            "twinstar_candidates",
            "Candidates in a scored request.",
            buckets=_CANDIDATES_BUCKETS,
            registry=registry,
        )
        self._unknown_items = Counter(
            "twinstar_unknown_items", "Item ids of candidates that were scored as unknown.", registry=registry
        )
        self._encoded_items = Counter(
            "twinstar_encoded_items",
            "Candidates without a row of their own that were scored from features.",
            registry=registry,
        )
        self._degraded = Counter(
            "twinstar_degraded", "Answers given with less, by what lacked.", ["reason"], registry=registry
        )
        scored = Counter(
            "twinstar_scored", "Scored requests by domain and model.", ["domain", "model"], registry=registry
        )
        assignments = Counter(
            "twinstar_assignments", "Scored requests by layer and arm.", ["layer", "arm"], registry=registry
        )
        self.store_errors = Counter(
            "twinstar_store_errors",
            "Calls that the store did not serve, by kind.",
            ["kind"],
            registry=registry,
        )
        self.store_cache = StoreCacheMetrics(registry)
        self.events = Counter(
            "twinstar_events",
            "Events by type and what became of them.",
            ["type", "outcome"],
            registry=registry,
        )
        self.load_failures = Counter(
            "twinstar_load_failures", "Attempts to load artefacts that failed.", registry=registry
        )
        self.ready = Gauge(
            "twinstar_ready",
            "1 once artefacts are loaded, in every worker.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.model_info = Gauge(
            "twinstar_model_info",
            "1 for each model version that scores.",
            ["name", "version", "backbone", "precision"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        # Looking a label up takes longer than counting. There are few: they are looked up once.
        self._requests, self._request_seconds = cache(requests.labels), cache(request_seconds.labels)
        self._scored, self._assignments = cache(scored.labels), cache(assignments.labels)
        self._stage_seconds = tuple(stage_seconds.labels(stage) for stage in STAGES)
        if not self._is_shared:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)

    @property
    def _is_shared(self) -> bool:
        return MULTIPROCESS_VARIABLE in os.environ

    def note_request(self, route: str, status: int, took_s: float) -> None:
        """Count an answer of any route."""
        self._requests(route, status).inc()
        self._request_seconds(route).observe(took_s)

    def note_answer(self, answer: Answer) -> None:
        """Count a scored request."""
        self._scored(answer.domain, answer.model).inc()
        self._candidates.observe(answer.candidates_count)
        for histogram, seconds in zip(self._stage_seconds, answer.stages_s, strict=True):
            histogram.observe(seconds)
        for layer, arm in answer.arms.items():
            self._assignments(layer, arm).inc()
        for reason in answer.degraded:
            self._degraded.labels(reason).inc()
        if answer.unknown_items_count:
            self._unknown_items.inc(answer.unknown_items_count)
        if answer.encoded_items_count:
            self._encoded_items.inc(answer.encoded_items_count)

    def note_serving(self, serving: Serving | None) -> None:
        """Tell what scores now, None where nothing does."""
        self.ready.set(0 if serving is None else 1)
        for model in () if serving is None else serving.models.values():
            manifest = model.manifest
            self.model_info.labels(
                manifest.name, manifest.version, manifest.backbone, model.scorer.precision
            ).set(1)

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        if not self._is_shared:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def close(self) -> None:
        """Take this worker's gauges out of the shared ones."""
        if self._is_shared:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
