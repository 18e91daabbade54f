"""What the handlers of one worker share: what scores now, the store, the clock, the counters.

Artefacts and store are looked for at the start and, while they lack, again and again; what was once loaded
stays until the process ends. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Final

from service.breaker import Breaker
from service.clock import Clock
from service.errors import NotReady
from service.experiments.plan import read_plan
from service.guarded_store import GuardedStore
from service.models.live import Serving, load_serving
from service.settings import Settings
from service.telemetry.metrics import Metrics

COLLECT_AFTER_COUNT: Final = 10_000
"""Objects made and not yet gone from which on the garbage collector looks for cycles among them."""

_log: Final = logging.getLogger(__name__)


class Runtime:
    """One worker's state. Handlers read `serving` once a request."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.metrics = Metrics()
        self.plan = read_plan(settings.experiments_file)
        breaker = Breaker(
            clock,
            failures_count=settings.breaker_failures_count,
            open_min_ms=settings.breaker_open_min_ms,
            open_max_ms=settings.breaker_open_max_ms,
        )
        self.store = GuardedStore(
            settings.store_url,
            settings.store_settings(),
            breaker,
            lambda kind: self.metrics.store_errors.labels(kind).inc(),
            self.metrics.store_cache,
        )
        self._serving: Serving | None = None
        self._threshold_before: tuple[int, int, int] | None = None
        self._reasons: tuple[str, ...] = ("artefacts are being loaded",)

    @property
    def serving(self) -> Serving:
        """What scores now.

        Raises:
            NotReady: nothing does, and why.
        """
        if self._serving is None:
            raise NotReady(self._reasons)
        return self._serving

    async def look(self) -> None:
        """Load artefacts and open the store, whichever lack."""
        await self.store.open()
        if self._serving is None:
            try:
                self._serving = await asyncio.to_thread(
                    load_serving,
                    self.settings.registry,
                    self.plan,
                    precision=self.settings.precision,
                    threads_count=self.settings.threads_count,
                )
            except NotReady as error:
                if error.reasons != self._reasons:
                    _log.error("not ready", extra={"reasons": error.reasons})
                self._reasons = error.reasons
                self.metrics.load_failures.inc()
            self.metrics.note_serving(self._serving)
            if self._serving is not None:
                self._spare_the_collector()
                for model in self._serving.models.values():
                    if model.why_fp32 is not None:
                        _log.warning("in fp32", extra={"model": model.label, "reason": model.why_fp32})
                _log.info("ready", extra={"models": [m.label for m in self._serving.models.values()]})

    async def keep_looking(self) -> None:
        """Look again and again until it is cancelled."""
        while True:
            await asyncio.sleep(self.settings.retry_interval_ms / 1000)
            await self.look()

    async def close(self) -> None:
        """Give back what is held; the process may go on and make another app."""
        await self.store.close()
        self.metrics.close()
        self._serving = None
        if self._threshold_before is not None:
            gc.unfreeze()  # else what was loaded, and all that was beside it, is never collected
            gc.set_threshold(*self._threshold_before)
            self._threshold_before = None

    def _spare_the_collector(self) -> None:
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not walk it again and again
        # Nor for the hundreds of contexts that one request may have: none is part of a cycle.
        self._threshold_before = gc.get_threshold()
        gc.set_threshold(COLLECT_AFTER_COUNT)
