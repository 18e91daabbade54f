"""Which fits there are, in which order, and running them: several processes at a time, within a budget.

Knows nothing of what a fit does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from training.study.config import StudyConfig
from training.study.display import Display, Running
from training.study.fitting import FitPlan

TICK_S = 1.0
REASON_CHARACTERS_MAX = 10_000  # what a pipe holds without a reader


@dataclass
class Outcome:
    """What came of running fits: how long each took, which failed and why, which were not started in time."""

    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    not_started: tuple[str, ...] = ()


@dataclass
class _Worker:
    plan: FitPlan
    process: ForkProcess
    share_done: Synchronized[float]
    errors: Any  # the receiving end of a pipe
    started_s: float


def in_order(config: StudyConfig, names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Return (row, seed) of all fits: the first seed of every row, headline rows first, then the other seeds."""
    rows = {name: config.rows[name] for name in names}
    names = sorted(rows, key=lambda name: not rows[name].headline)  # stable
    more = ((name, seed) for name in names for seed in rows[name].seeds[1:])
    return (*((name, rows[name].seeds[0]) for name in names), *more)


def run_fits(
    plans: Sequence[FitPlan],
    work: Callable[[FitPlan, Callable[[float], None]], None],
    *,
    processes: int,
    budget_s: float,
    display: Display,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run `work` for each plan in a forked process, and return what came of it.

    None is started once the budget is spent; those that run then are waited for. A fit that fails, or is killed,
    is told with its reason and ends no other. A fork shares what was made before it without a copy.
    """
    began, outcome = clock(), Outcome()
    waiting, running = list(plans), list[_Worker]()
    try:
        while waiting or running:
            while waiting and len(running) < processes and clock() - began < budget_s:
                running.append(_start(waiting.pop(0), work, clock()))
            if not running:
                break
            ended = wait([worker.process.sentinel for worker in running], timeout=TICK_S)
            for worker in [w for w in running if w.process.sentinel in ended]:
                running.remove(worker)
                seconds = clock() - worker.started_s
                _finish(worker, outcome, seconds)
                display.finished(worker.plan.name, outcome.failed.get(worker.plan.name), seconds)
            now = clock()
            display.tick(
                [Running(w.plan.name, w.share_done.value, now - w.started_s) for w in running],
                waiting=[plan.name for plan in waiting],
                left_s=budget_s - (now - began),
            )
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.join()
    outcome.not_started = tuple(plan.name for plan in waiting)
    return outcome


def _start(plan: FitPlan, work: Callable[[FitPlan, Callable[[float], None]], None], now_s: float) -> _Worker:
    context = multiprocessing.get_context("fork")
    share_done: Synchronized[float] = context.Value("d", 0.0)
    receiving, sending = context.Pipe(duplex=False)

    parent = os.getpid()

    def run() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us

        def tell(share: float) -> None:
            share_done.value = share
            if os.getppid() != parent:  # it was killed: nobody waits for this fit any more
                os._exit(1)

        try:
            work(plan, tell)
        except Exception as error:
            sending.send(traceback.format_exc()[-REASON_CHARACTERS_MAX:])
            raise SystemExit(1) from error

    process = context.Process(target=run, name=plan.name, daemon=True)
    process.start()
    sending.close()
    return _Worker(plan, process, share_done, receiving, now_s)


def _finish(worker: _Worker, outcome: Outcome, seconds: float) -> None:
    worker.process.join()
    code = worker.process.exitcode
    if code == 0:
        outcome.seconds[worker.plan.name] = seconds
        return
    reason = f"ended with exit code {code}" + (" (killed, perhaps for memory)" if code == -9 else "")
    try:
        if worker.errors.poll():
            reason = worker.errors.recv()
    except EOFError:
        pass
    outcome.failed[worker.plan.name] = reason
