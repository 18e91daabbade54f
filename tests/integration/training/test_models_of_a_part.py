"""Models of some domains, that read some features and the raw life cycle: trained, sealed, published, served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import polars as pl
import pytest

from service.app import create_app
from service.contract.artefact import SEARCH_FILE, read_artefact
from service.contract.features import Side
from service.contract.golden import read_golden
from service.contract.manifest import Manifest, SearchSpec
from service.contract.served_inputs import BEHAVIOR_ITEM, RECENT_ITEM, read_item_tables
from service.settings import Settings
from tests.support.pipelines import changed, copied, run
from training.config import PipelineConfig
from training.data.encoded import COUNTED_SIDES
from training.export.parity import reference_logits
from training.export.raw_requests import Case, RawRequests
from training.fit import probabilities
from training.pipeline import steps_of
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

QUIET = Progress(quiet=True)
FIT = {"epochs": 1, "batch_rows": 256}
LEFT_OUT = ("years", "category", "position", "match_any_days", "popularity")
MODELS: dict[str, dict[str, Any]] = {
    "one": {
        "backbone": {"name": "mlp", "hidden": [6], "domain_width": 0},
        "interests": [{"name": "din", "hidden": [4], "last": 20, "part": "behaviors"}],
        "domains": ["search"],
        "leave_out": list(LEFT_OUT),
        "embedding_width": 3,
        "fit": FIT,
    },
    "two": {
        "backbone": {"name": "star", "hidden": [6], "auxiliary_width": 3, "domain_width": 2},
        "interests": [
            {"name": "twin_v2", "keep": 2, "heads": 2, "head_width": 4, "out_width": 3},
            {"name": "short_term", "heads": 2, "head_width": 4, "out_width": 3},
        ],
        "domains": ["mail", "home"],
        "leave_out": ["match", "device"],
        "embedding_width": 3,
        "fit": FIT,
    },
}
DOMAINS = {"one": ("search",), "two": ("home", "mail")}  # in the dataset's order
BEHAVIORS_MAX = 30


@pytest.fixture(scope="module")
def sealed(finished_pipeline: PipelineConfig, tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """A pipeline of these models alone, published."""
    config = copied(finished_pipeline, tmp_path_factory.mktemp("part"))
    config = changed(config, {"models": MODELS, "history.limits.behaviors_max": BEHAVIORS_MAX})
    run(config, *(step for step in steps_of(config) if step.stage != "prepare"))
    return config


def artefact_of(config: PipelineConfig, name: str) -> tuple[Path, Manifest]:
    folder = config.workspace / "verify" / name / "artefact"
    return folder, read_artefact(folder)


@pytest.mark.parametrize("name", MODELS)
def test_an_artefact_names_the_domains_and_features_of_its_model_alone(
    sealed: PipelineConfig, name: str
) -> None:
    bench = Workbench(sealed)
    _, manifest = artefact_of(sealed, name)
    assert manifest.domains == DOMAINS[name]
    left_out = set(MODELS[name]["leave_out"])
    kept = bench.features_of(sealed.models[name])
    assert not {f.name for f in kept} & left_out and not {f.side.value for f in kept} & left_out
    assert manifest.features == tuple(f for f in kept if f.side is not Side.ITEM)
    assert [f.name for f in manifest.item_features] == [f.name for f in kept if f.side is Side.ITEM]


def test_an_artefact_asks_for_raw_behaviors_only_where_its_graph_reads_them(sealed: PipelineConfig) -> None:
    for name, count in (("one", BEHAVIORS_MAX), ("two", 0)):
        _, manifest = artefact_of(sealed, name)
        assert manifest.history.behaviors_max == count
        assert (BEHAVIOR_ITEM in manifest.graph_inputs) == (count > 0)
        reads_recents = RECENT_ITEM in manifest.graph_inputs
        assert manifest.history.recents_max == reads_recents * sealed.history.limits.recents_max


def test_an_artefact_carries_the_graph_of_its_searches_alone(sealed: PipelineConfig) -> None:
    folder, manifest = artefact_of(sealed, "one")
    assert manifest.searches is None and SEARCH_FILE not in manifest.files
    folder, manifest = artefact_of(sealed, "two")
    assert manifest.searches is not None and (folder / SEARCH_FILE).is_file()
    assert SEARCH_FILE in manifest.files
    expected = SearchSpec(interest="twin_v2", part="clusters", keep=2, newest_first=False)
    assert manifest.searches.each == (expected,)


def test_item_tables_have_the_domains_and_the_keys_of_the_model(sealed: PipelineConfig) -> None:
    for name, levels_count in (("one", 2), ("two", 0)):
        folder, manifest = artefact_of(sealed, name)
        tables = read_item_tables(folder)
        assert len(tables.by_domain) == len(manifest.domains)
        assert tables.match_keys.shape == (manifest.items_count, levels_count)


@pytest.mark.parametrize("name", MODELS)
def test_golden_requests_and_metrics_are_of_its_domains(sealed: PipelineConfig, name: str) -> None:
    folder, manifest = artefact_of(sealed, name)
    assert {request.domain for request in read_golden(folder)} == set(DOMAINS[name])
    exposures = Workbench(sealed).dataset.exposures_of("test")
    rows = orjson.loads((sealed.workspace / "evaluate" / name / "metrics.json").read_bytes())
    found = {
        row["domain"]: row["rows_count"]
        for row in rows
        if (row["split"], row["weighting"], row["task"]) == ("test", "natural", "click")
    }
    expected = {d: len(exposures.filter(pl.col("domain") == d)) for d in DOMAINS[name]}
    assert {domain: found[domain] for domain in expected} == expected
    assert found["all"] == sum(expected.values()) and set(found) <= {"all", *expected}
    assert {metrics.domain for metrics in manifest.metrics} <= {"all", *expected}


@pytest.mark.parametrize("name", MODELS)
def test_a_fit_reads_the_rows_of_its_domains_alone(sealed: PipelineConfig, name: str) -> None:
    exposures = Workbench(sealed).dataset.exposures_of("train")
    expected = len(exposures.filter(pl.col("domain").is_in(DOMAINS[name])))
    record = orjson.loads((sealed.workspace / "train" / name / "stage.json").read_bytes())
    assert record["summary"]["rows"] == expected


@asynccontextmanager
async def serving(config: PipelineConfig, folder: Path, model: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run the service over what a config publishes, with one of its models."""
    plan = folder / f"{model}.yaml"
    plan.write_text(f"version: 1\ndefault_model: {model}\n")
    settings = Settings(
        registry=config.publish.registry,
        experiments_file=plan,
        store_url=config.publish.store,
        store_timeout_ms=20_000,
        retry_interval_ms=3_600_000,
    )
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://twinstar") as client,
    ):
        yield client


def requests_of(bench: Workbench, name: str) -> list[tuple[str, dict[str, Any], np.ndarray]]:
    """Return each request of a model's domains: its domain, its body, and torch's probabilities."""
    config = bench.config.models[name]
    data = bench.encoded_for(config, QUIET)
    trained, raw = load_model(bench, name, QUIET), RawRequests(bench, data)
    found = []
    for request in range(len(data.domain)):
        rows = np.flatnonzero(data.row_request == request)
        case = Case(request, rows)
        made = raw.request_of(case)
        body = {
            "user_id": made.user_id,
            "at_ms": made.at_ms,
            "context": made.context,
            "candidates": [c.model_dump() for c in made.candidates],
        }
        found.append((made.domain, body, probabilities(reference_logits(trained, data, case), bench.tasks)))
    return found


@pytest.mark.anyio
async def test_a_model_of_one_domain_is_served_there_and_refuses_the_others(
    sealed: PipelineConfig, tmp_path: Path
) -> None:
    """Asked for users without behaviors: the store's snapshots, of the data's end, are later than the requests."""
    bench = Workbench(sealed)
    quiet_users = set(bench.dataset.users["user_id"]) - set(bench.dataset.behaviors["user_id"])
    assert quiet_users
    async with serving(sealed, tmp_path, "one") as client:
        ready = await client.get("/readyz")
        assert ready.status_code == 200, ready.text
        compared = 0
        for domain, body, expected in requests_of(bench, "one"):
            assert domain == "search"
            if body["user_id"] not in quiet_users:
                continue
            response = await client.post("/score", json=body, headers={"X-Domain": domain})
            assert response.status_code == 200, response.text
            got = [[result[task.name] for task in bench.tasks] for result in response.json()["results"]]
            np.testing.assert_allclose(got, expected, atol=1e-5)
            compared += 1
            for other in ("home", "mail", "nowhere"):
                refused = await client.post("/score", json=body, headers={"X-Domain": other})
                assert refused.status_code == 422
                assert refused.json()["errors"][0]["reason"] == "no such domain; there are search"
        assert compared > 3


@pytest.mark.anyio
async def test_a_model_of_two_domains_scores_each_by_its_own_network(
    sealed: PipelineConfig, tmp_path: Path
) -> None:
    async with serving(sealed, tmp_path, "two") as client:
        ready = await client.get("/readyz")
        assert ready.status_code == 200, ready.text
        body = {"user_id": "u05", "candidates": ["i00", "i07"]}
        answers = {}
        for domain in ("home", "mail", "search"):
            response = await client.post("/score", json=body, headers={"X-Domain": domain})
            answers[domain] = response.json().get("results")
            assert response.status_code == (422 if domain == "search" else 200)
        assert answers["home"] != answers["mail"]


def test_features_that_are_counted_are_left_out_by_side_or_by_name(finished_pipeline: PipelineConfig) -> None:
    bench = Workbench(finished_pipeline)
    star = finished_pipeline.models["star"]

    def kept(*leave_out: str) -> set[str]:
        return {f.name for f in bench.features_of(star.model_copy(update={"leave_out": leave_out}))}

    everything = {f.name for f in bench.features}
    of_side = {side: {f.name for f in bench.features if f.side is side} for side in COUNTED_SIDES}
    assert kept() == everything
    assert kept("match") == everything - of_side[Side.MATCH]
    assert kept("match", "popularity") == everything - of_side[Side.MATCH] - of_side[Side.POPULARITY]
    assert kept("match_item_id_count") == everything - {"match_item_id_count"}
