"""From logs to `/score`: a pipeline that ran, what it published, and the service as it is run, in a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from service.contract.features import Side
from tests.support.pipelines import copied, run
from tests.support.synthetic_dataset import DOMAINS, USERS_COUNT, user_id
from training.config import PipelineConfig
from training.data.dataset import BEHAVIORS_FILE, EXPOSURES_FILE, Dataset
from training.data.encoded import EncodedData, encode_dataset
from training.export.new_items import with_new_items
from training.export.parity import reference_logits
from training.export.raw_requests import Case, RawRequests
from training.fit import probabilities
from training.model import CtrModel
from training.pipeline import Step
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

PLAN = """
version: 1
default_model: pepnet
layers:
  - name: ranker
    salt: end-to-end
    domains: [home, search]
    arms:
      - {name: control, model: star, share: 0.5}
      - {name: treatment, model: pepnet, share: 0.5}
"""
PROBABILITY_DIFFERENCE_LIMIT = 1e-4
HOUR_MS = 3_600_000
STOP_TIMEOUT_S = 60


@dataclass(frozen=True)
class Future:
    """A visit of every user an hour after the data's end, with a request in each domain, as training sees it."""

    bench: Workbench
    dataset: Dataset
    data: EncodedData

    def bodies(self) -> Iterator[tuple[int, np.ndarray, str, dict[str, Any]]]:
        """Yield each request: its number, its rows, its domain, and the body that asks for it."""
        spec, data = self.dataset.spec, self.data
        context = [feature.name for feature in spec.features_of(Side.CONTEXT)]
        candidate = [feature.name for feature in spec.features_of(Side.CANDIDATE)]
        for request in range(len(data.domain)):
            rows = np.flatnonzero(data.row_request == request)
            table = self.dataset.exposures[rows]
            visit = data.request_visit[request]
            body = {
                "user_id": data.users[data.visit_user[visit]],
                "at_ms": int(data.visit_at_ms[visit]),
                "context": table.select(context).to_dicts()[0],
                "candidates": [
                    {"item_id": row["item_id"], "context": {name: row[name] for name in candidate}}
                    for row in table.to_dicts()
                ],
            }
            yield request, rows, spec.domains[data.domain[request]], body

    def expected(self, model: CtrModel, request: int, rows: np.ndarray) -> np.ndarray:
        """Return the torch model's probabilities (N, T)."""
        logits = reference_logits(model, self.data, Case(request, rows))
        return probabilities(logits, self.bench.tasks)


def future_of(config: PipelineConfig, folder: Path, events: list[dict[str, Any]] | None = None) -> Future:
    """Return the visits after the data's end, and after some events that came in before them."""
    bench = Workbench(config)
    shutil.copytree(config.workspace / "prepare", folder)
    at_ms = bench.dataset.spec.splits.end_ms + HOUR_MS
    exposures = (
        bench.dataset.exposures.filter(
            pl.col("request_id") == pl.col("request_id").max().over("user_id", "domain")
        )
        .with_columns(pl.lit(at_ms).alias("shown_at_ms"))
        .sort("user_id", "shown_at_ms", "request_id", "item_id")
    )
    exposures.write_parquet(folder / EXPOSURES_FILE)
    if events:
        new = pl.DataFrame(events).select(
            pl.col(name).cast(t) for name, t in bench.dataset.behaviors.schema.items()
        )
        behaviors = pl.concat([bench.dataset.behaviors, new]).sort("user_id", "at_ms", maintain_order=True)
        behaviors.write_parquet(folder / BEHAVIORS_FILE)
    dataset = Dataset(folder)
    data = encode_dataset(
        dataset,
        bench.features,
        limits=config.history.limits,
        find_snapshot=bench.snapshots.newest_before,
        popularity=bench.popularity_counts,  # the events come after the last midnight
    )
    return Future(bench, dataset, data)


@contextmanager
def serve(config: PipelineConfig, folder: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run `python -m service` over what a config publishes to."""
    plan = folder / "experiments.yaml"
    plan.write_text(PLAN)
    settings = {
        "REGISTRY": str(config.publish.registry),
        "STORE_URL": config.publish.store,
        "EXPERIMENTS_FILE": str(plan),
        "PORT": "0",
        "STORE_TIMEOUT_MS": "20000",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={**os.environ, **{f"TWINSTAR_{name}": value for name, value in settings.items()}},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        told: list[str] = []
        for line in process.stderr:
            told.append(json.loads(line)["message"])
            if told[-1].startswith("Uvicorn running on"):
                break
        assert process.poll() is None and told, f"the service ended; its log: {told}"
        with httpx.Client(base_url=told[-1].split()[3], timeout=60) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def processes_of(store: Path) -> list[str]:
    """Return the command lines of running processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if str(store) in command:
            found.append(command)
    return found


def compare(future: Future, models: dict[str, CtrModel], client: httpx.Client) -> dict[tuple[str, str], Any]:
    """Ask for every request and compare its probabilities with torch; returns the answers by user and domain."""
    answers = {}
    for request, rows, domain, body in future.bodies():
        response = client.post("/score", json=body, headers={"X-Domain": domain})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer["degraded"], answer["unknown_items"], answer["domain"]) == ([], [], domain)
        assert [result["item_id"] for result in answer["results"]] == [
            candidate["item_id"] for candidate in body["candidates"]
        ]
        got = [[result[task.name] for task in future.bench.tasks] for result in answer["results"]]
        expected = future.expected(models[answer["model"]["name"]], request, rows)
        np.testing.assert_allclose(got, expected, rtol=0, atol=PROBABILITY_DIFFERENCE_LIMIT)
        answers[body["user_id"], domain] = answer
    return answers


def compare_new_items(future: Future, models: dict[str, CtrModel], client: httpx.Client) -> None:
    """Ask for a few requests with every other candidate as if it were new, told by its features."""
    bench = SimpleNamespace(
        dataset=future.dataset,
        catalogue_ids=future.bench.catalogue_ids,
        snapshots=future.bench.snapshots,
        popularity_levels=future.bench.popularity_levels,
        popularity_counts=future.bench.popularity_counts,
    )
    raw = RawRequests(bench, future.data)  # type: ignore[arg-type]
    for request, rows, domain, body in list(future.bodies())[:12]:
        encoded = {
            name: with_new_items(Case(request, rows), model, future.data, raw)
            for name, model in models.items()
        }
        candidates = [c.model_dump() for c in next(iter(encoded.values()))[0].candidates]
        response = client.post(
            "/score", json={**body, "candidates": candidates}, headers={"X-Domain": domain}
        )
        answer = response.json()
        assert response.status_code == 200
        nothing_told = [c["item_id"] for c in candidates if set(c["features"].values()) == {None}]
        assert answer["unknown_items"] == nothing_told  # the logs have one item without features
        got = [[result[task.name] for task in future.bench.tasks] for result in answer["results"]]
        expected = probabilities(encoded[answer["model"]["name"]][1], future.bench.tasks)
        np.testing.assert_allclose(got, expected, rtol=0, atol=PROBABILITY_DIFFERENCE_LIMIT)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_the_service_answers_as_torch_does_sees_events_and_stops_with_its_store(
    finished_pipeline: PipelineConfig, tmp_path: Path
) -> None:
    config = copied(finished_pipeline, tmp_path)
    run(config, Step("publish"))
    bench = Workbench(config)
    models = {name: load_model(bench, name, Progress(quiet=True)) for name in config.models}
    end_ms = bench.dataset.spec.splits.end_ms
    future = future_of(config, tmp_path / "future")
    with serve(config, tmp_path) as (process, client):
        assert client.get("/readyz").status_code == 200
        assert processes_of(tmp_path / "store"), "the store's server runs, and is found"
        first = compare(future, models, client)
        assert len(first) == USERS_COUNT * len(DOMAINS)
        compare_new_items(future, models, client)
        for domain in ("home", "search"):
            in_arms = {user: a["arms"]["ranker"] for (user, of), a in first.items() if of == domain}
            assert set(in_arms.values()) == {"control", "treatment"}
            assert all(
                first[user, domain]["model"]["name"] == {"control": "star", "treatment": "pepnet"}[arm]
                for user, arm in in_arms.items()
            )
        assert {a["model"]["name"] for (_, domain), a in first.items() if domain == "mail"} == {"pepnet"}

        run(config, Step("publish"))  # beside the service, which goes on
        assert {key: a["results"] for key, a in compare(future, models, client).items()} == {
            key: a["results"] for key, a in first.items()
        }

        events = [
            {
                "type": "behavior",
                "event_id": f"{user_id(user)}-{number}",
                "user_id": user_id(user),
                "item_id": f"i{(7 * user + 3 * number) % 30:02d}",
                "at_ms": end_ms + number * HOUR_MS // 10,
                "strength": 0.25 * (number + 1),
            }
            for user in range(USERS_COUNT)
            for number in range(3)
        ]
        answer = client.post("/events", json={"events": events}).json()
        assert (answer["behaviors"]["appended"], answer["rejected"]) == (len(events), 0)
        later = future_of(config, tmp_path / "later", events)
        after = compare(later, models, client)
        moved = [key for key in after if after[key]["results"] != first[key]["results"]]
        assert len(moved) == len(after), "every user did something since"

        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0
    assert processes_of(tmp_path / "store") == []
