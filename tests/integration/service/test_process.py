"""`python -m service` as it is run: a process, a port, workers, signals."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from service.stores import valkey_server
from tests.support.known_registry import KnownRegistry, build_registry

START_TIMEOUT_S = 60.0
CANARY = "canary-9c2e"


class Served:
    """A running service, its lines of log, and a client to it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert process.stderr is not None
        threading.Thread(target=self._read, args=(process.stderr,), daemon=True).start()
        running = self.wait_for("Uvicorn running on")
        self.client = httpx.Client(base_url=running.split()[3], timeout=30)

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._queue.put(line)
        self._queue.put("")

    def wait_for(self, message: str, count: int = 1) -> str:
        """Read the log until a message was there so often, and return it."""
        while True:
            line = self._queue.get(timeout=START_TIMEOUT_S)
            assert line, f"the service ended; its log: {self.lines}"
            self.lines.append(json.loads(line))  # every line is JSON
            if self.lines[-1]["message"].startswith(message):
                count -= 1
                if not count:
                    found: str = self.lines[-1]["message"]
                    return found

    def drain(self) -> list[dict[str, Any]]:
        """Return all lines up to the end of the process."""
        while line := self._queue.get(timeout=START_TIMEOUT_S):
            self.lines.append(json.loads(line))
        return self.lines


@contextmanager
def serve(registry: KnownRegistry, store: Path, **settings: Any) -> Iterator[Served]:
    variables = {
        "registry": registry.folder,
        "experiments_file": registry.plan_file,
        "store_url": f"embedded://{store}",
        "port": 0,
        "store_timeout_ms": 20_000,
        **settings,
    }
    environment = {f"TWINSTAR_{name.upper()}": str(value) for name, value in variables.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        served = Served(process)
        yield served
        served.client.close()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def score(served: Served, user_id: str = "u1") -> httpx.Response:
    return served.client.post(
        "/score", json={"user_id": user_id, "candidates": ["apple", "new"]}, headers={"X-Domain": "mailer"}
    )


def test_a_process_scores_takes_events_and_stops_with_its_store(
    known_registry: KnownRegistry, tmp_path: Path
) -> None:
    with serve(known_registry, tmp_path, log_sample_ratio=1) as served:
        assert score(served).json()["degraded"] == []
        event = {"type": "behavior", "event_id": CANARY, "user_id": CANARY, "item_id": CANARY}
        assert served.client.post("/events", json={"events": [event]}).status_code == 200
        assert score(served, CANARY).status_code == 200
        assert served.client.post("/score", json={CANARY: CANARY}).status_code == 422
        assert served.client.get(f"/{CANARY}").status_code == 404
        assert "python_info" in served.client.get("/metrics").text
        served.process.send_signal(signal.SIGTERM)
        lines = served.drain()
        assert served.process.wait(START_TIMEOUT_S) == 0
    told = [line for line in lines if line["message"] == "request"]
    assert [line["status"] for line in told] == [200, 200, 200, 422, 404, 200]
    assert told[0]["arms"] and told[0]["model"].startswith(("star-", "pepnet-"))
    assert CANARY not in json.dumps(lines)
    handle = os.open(tmp_path / "server.lock", os.O_RDWR)
    assert valkey_server._lock_at_once(handle), "the store's server still runs"
    os.close(handle)


def test_workers_share_the_store_and_the_metrics(known_registry: KnownRegistry, tmp_path: Path) -> None:
    with serve(known_registry, tmp_path, workers=2) as served:
        served.wait_for("ready", count=2)
        requests_count = 40
        for i in range(requests_count):
            with httpx.Client(base_url=served.client.base_url, timeout=30) as client:  # a connection each
                event = {"type": "behavior", "event_id": i, "user_id": "ann", "item_id": "apple"}
                assert client.post("/events", json={"events": [event]}).json()["behaviors"]["duplicates"] == 0
                assert client.post("/events", json={"events": [event]}).json()["behaviors"]["duplicates"] == 1
        metrics = served.client.get("/metrics").text
        assert f'twinstar_requests_total{{code="200",route="/events"}} {2 * requests_count}.0' in metrics
        assert f'twinstar_events_total{{outcome="appended",type="behavior"}} {requests_count}.0' in metrics
        assert "twinstar_ready 1.0" in metrics
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(START_TIMEOUT_S) == 0


def test_a_large_body_is_refused_over_a_socket_and_the_service_lives(
    known_registry: KnownRegistry, tmp_path: Path
) -> None:
    with serve(known_registry, tmp_path, body_max_bytes=4096) as served:
        for _ in range(3):
            response = served.client.post("/score", content=b" " * 10_000, headers={"X-Domain": "mailer"})
            assert response.status_code == 413
            assert score(served).status_code == 200
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(START_TIMEOUT_S) == 0


def test_without_artefacts_it_runs_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    registry = build_registry(tmp_path)
    hidden = registry.folder.rename(tmp_path / "hidden")
    with serve(registry, tmp_path / "store", retry_interval_ms=20) as served:
        assert served.client.get("/livez").status_code == 200
        response = served.client.get("/readyz")
        assert response.status_code == 503
        assert "no model 'star'" in response.json()["errors"][0]["reason"]
        assert any(line["message"] == "not ready" and line["reasons"] for line in served.lines)
        hidden.rename(registry.folder)
        served.wait_for("ready")
        assert served.client.get("/readyz").status_code == 200
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(START_TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store-url", "rocks://x"], "no store of scheme 'rocks'"),
        (["--experiments-file", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--port", "70000"], "port: "),
        (["--workers", "2", "--store-url", "memory://"], "several workers"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_settings_that_cannot_be_end_it_with_a_line_that_says_why(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


WHAT_IS_LOADED = """
import asyncio, json, sys
import httpx
from service.app import create_app
from service.settings import Settings
import service.__main__

async def main():
    app = create_app(Settings(store_url="memory://"))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x") as client,
    ):
        body = {"user_id": "u1", "candidates": ["apple"]}
        response = await client.post("/score", json=body, headers={"X-Domain": "mailer"})
        assert response.status_code == 200, response.text
        assert (await client.get("/openapi.json")).status_code == 200
    print(json.dumps(sorted(sys.modules)))

asyncio.run(main())
"""


def test_serving_a_request_loads_nothing_of_training(known_registry: KnownRegistry) -> None:
    variables = {
        "TWINSTAR_REGISTRY": str(known_registry.folder),
        "TWINSTAR_EXPERIMENTS_FILE": str(known_registry.plan_file),
    }
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_LOADED],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    unwanted = {"torch", "onnx", "onnxscript", "pandas", "polars", "pyarrow", "sklearn", "scipy", "training"}
    assert not loaded & unwanted
    assert "onnxruntime" in loaded
