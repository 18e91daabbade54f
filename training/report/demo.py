"""The demo: the whole main job on real data, then real requests to a real service, shown for a person."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from service.contract.features import Side
from training.config import PipelineConfig
from training.errors import StageError
from training.pipeline import StepResult, run_steps, steps_of
from training.workbench import Workbench

READY_TIMEOUT_S = 60.0
CANDIDATES_SHOWN = 5
CANDIDATES_COUNT = 20
LATENCY_CANDIDATES_COUNT = 200
LATENCY_REQUESTS_COUNT = 200
HOUR_MS = 3_600_000
FILE_WIDTH = 140
"""Characters of a line where the output is no terminal, whose width is known."""

Show = Callable[[Iterable[StepResult]], list[StepResult]]


def run_demo(config: PipelineConfig, *, show: Show) -> None:
    """Run the pipeline, serve what it published, and print what came of it.

    Raises:
        StageError: the service did not start, or did not answer a request.
    """
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    started = time.perf_counter()
    results = show(run_steps(config, steps_of(config)))
    bench = Workbench(config)
    console.rule("data")
    counts = bench.dataset.spec.counts
    console.print(
        "   ".join(
            f"{name} [bold]{counts[name]:,}[/]" for name in ("users", "exposures", "behaviors", "items")
        )
    )
    for model in config.models:
        console.print(metrics_table(bench, model))
    with serving(config, bench.config.workspace / "service.log") as url, httpx.Client(base_url=url) as client:
        console.rule("live requests")
        requests = _Requests(bench)
        for domain in bench.dataset.spec.domains:
            for user in requests.users_of_both_arms(client, domain):
                _show_request(console, client, requests, user, domain)
        _show_latency(console, client, requests)
    console.rule("go on")
    example = json.dumps(requests.body(requests.users[0], bench.dataset.spec.domains[0], 3))
    console.print(
        f"pipeline {sum(r.seconds for r in results if r.ran):.0f} s, all {time.perf_counter() - started:.0f} s.\n"
        "Serve it:                make serve\n"
        "Look at the API:         http://127.0.0.1:8000/docs\n"
        f"Reliability diagrams:    {config.workspace}/evaluate/<model>/reliability.png\n"
        "Score by hand, while it serves:",
        highlight=False,
    )
    sys.stdout.write(
        f"curl -s http://127.0.0.1:8000/score -H 'X-Domain: {bench.dataset.spec.domains[0]}' "
        f"-H 'Content-Type: application/json' -d '{example}'\n"
    )


def metrics_table(bench: Workbench, model: str) -> Table:
    """Return natural test metrics of a model per domain and task."""
    table = Table(title=f"{model}: test weeks, at natural rates", title_justify="left")
    for column in ("task", "domain"):
        table.add_column(column)
    for column in ("rows", "positives", "AUC", "GAUC", "log-loss", "predicted/observed", "calibration error"):
        table.add_column(column, justify="right")
    rows = json.loads((bench.done("evaluate", model) / "metrics.json").read_text())
    for row in rows:
        if row["split"] == "test" and row["weighting"] == "natural":
            table.add_row(
                row["task"],
                row["domain"],
                f"{row['rows_count']:,}",
                f"{row['positives_count']:,}",
                *(_number(row[name], 4) for name in ("auc", "gauc")),
                _number(row["log_loss"], 6),
                *(_number(row[name], 2) for name in ("pcoc", "calibration_error")),
                end_section=row["domain"] == bench.dataset.spec.domains[-1],
            )
    return table


@contextmanager
def serving(config: PipelineConfig, log: Path) -> Iterator[str]:
    """Run the service on a free port until the block ends; yields its URL and leaves no process behind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "TWINSTAR_PORT": str(port),
        "TWINSTAR_REGISTRY": str(config.publish.registry),
        "TWINSTAR_STORE_URL": config.publish.store,
    }
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    reason = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StageError(f"the service ended with exit code {process.returncode}: see {log}")
        try:
            answer = httpx.get(f"{url}/readyz")
            if answer.status_code == 200:
                return
            reason = answer.text
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise StageError(f"the service was not ready within {READY_TIMEOUT_S:.0f} s ({reason}): see {log}")


class _Requests:
    """Requests for real users with candidates that were really shown in the test weeks."""

    def __init__(self, bench: Workbench) -> None:
        spec = bench.dataset.spec
        self._spec = spec
        self._shown = bench.dataset.exposures_of("test")
        self._rng = np.random.default_rng(3)
        self._at_ms = int(bench.snapshot_moments_ms[-1]) + HOUR_MS
        self._placement = [f.name for f in spec.features_of(Side.CANDIDATE)]
        self._context = [f.name for f in spec.features_of(Side.CONTEXT)]
        named = [
            f.name for f in spec.features_of(Side.ITEM) if f.name in ("product_type", "brand", "package_size")
        ]
        names = (
            pl.concat_str([pl.col(n) for n in named], separator=", ", ignore_nulls=True)
            if named
            else pl.lit("")
        )
        self.names = dict(bench.dataset.items.select("item_id", names.alias("name")).iter_rows())
        self.users: list[str] = self._shown["user_id"].unique(maintain_order=True).to_list()

    def body(self, user: str, domain: str, count: int) -> dict[str, Any]:
        """Return a request body."""
        of_domain = self._shown.filter(pl.col("domain") == domain)
        own = of_domain.filter(pl.col("user_id") == user)
        context = (own if len(own) else of_domain)[:1].select(self._context).to_dicts()[0]
        chosen = of_domain[np.sort(self._rng.choice(len(of_domain), count))]
        candidates = [
            {"item_id": row["item_id"], "context": {k: row[k] for k in self._placement if row[k] is not None}}
            for row in chosen.iter_rows(named=True)
        ]
        return {"user_id": user, "at_ms": self._at_ms, "context": context, "candidates": candidates}

    def users_of_both_arms(self, client: httpx.Client, domain: str) -> list[str]:
        """Return one user for each arm that answers, by asking."""
        by_arm: dict[str, str] = {}
        for user in self.users[:50]:
            answer = post(client, self.body(user, domain, 1), domain)
            by_arm.setdefault(answer.headers["X-Experiment-Arms"], user)
        return list(by_arm.values())


def post(client: httpx.Client, body: dict[str, Any], domain: str) -> httpx.Response:
    """Send one request.

    Raises:
        StageError: the answer is not 200.
    """
    answer = client.post("/score", json=body, headers={"X-Domain": domain})
    if answer.status_code != 200:
        raise StageError(f"/score answered {answer.status_code}: {answer.text}")
    return answer


def _show_request(
    console: Console, client: httpx.Client, requests: _Requests, user: str, domain: str
) -> None:
    started = time.perf_counter()
    answer = post(client, requests.body(user, domain, CANDIDATES_COUNT), domain)
    milliseconds = (time.perf_counter() - started) * 1000
    content = answer.json()
    table = Table(
        title=f"{domain} · user {user} · arm {answer.headers['X-Experiment-Arms']} · "
        f"model {answer.headers['X-Model-Version']} · {milliseconds:.1f} ms"
        + (f" · degraded {content['degraded']}" if content["degraded"] else ""),
        title_justify="left",
    )
    results = sorted(content["results"], key=lambda r: -r[next(k for k in r if k != "item_id")])
    tasks = [key for key in results[0] if key != "item_id"]
    table.add_column(f"best {CANDIDATES_SHOWN} of {len(results)} candidates", min_width=44)
    for task in tasks:
        table.add_column(task, justify="right")
    for row in results[:CANDIDATES_SHOWN]:
        table.add_row(
            requests.names.get(row["item_id"], row["item_id"]), *(f"{row[task]:.5f}" for task in tasks)
        )
    console.print(table)


def _show_latency(console: Console, client: httpx.Client, requests: _Requests) -> None:
    domains = requests._spec.domains
    bodies = [
        (requests.body(user, domains[i % len(domains)], LATENCY_CANDIDATES_COUNT), domains[i % len(domains)])
        for i, user in enumerate(requests.users[:20])
    ]
    times_ms = []
    for i in range(LATENCY_REQUESTS_COUNT):
        body, domain = bodies[i % len(bodies)]
        started = time.perf_counter()
        answer = post(client, body, domain)
        times_ms.append((time.perf_counter() - started) * 1000)
    p50, p99 = np.percentile(times_ms, [50, 99])
    console.print(
        f"latency of {LATENCY_REQUESTS_COUNT} requests with {LATENCY_CANDIDATES_COUNT} candidates each, one at a "
        f"time, this client included: p50 [bold]{p50:.1f} ms[/], p99 [bold]{p99:.1f} ms[/]; "
        f"the last one's Server-Timing: {answer.headers['Server-Timing']}",
        highlight=False,
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
