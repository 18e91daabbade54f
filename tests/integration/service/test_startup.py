"""Without artefacts that are whole, the service runs, says why it is not ready, and becomes ready by itself."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.contract import artefact
from service.contract.artefact import SnapshotRef, current_version, model_folder
from service.contract.catalogue import Catalogue
from service.errors import StartupError
from tests.integration.service.conftest import ManualClock, World, Worlds, make_settings, running
from tests.integration.service.test_refusals import assert_problem
from tests.support.known_artefact import LINE, make_catalogue, publish_catalogue
from tests.support.known_registry import PLAN, SNAPSHOT_ID, STAR, KnownRegistry, build_registry

pytestmark = pytest.mark.anyio

BODY = {"user_id": "u1", "candidates": ["apple"]}


@pytest.fixture
def own_registry(tmp_path: Path) -> KnownRegistry:
    """A registry for one test that damages it."""
    return build_registry(tmp_path)


@asynccontextmanager
async def started(registry: KnownRegistry) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    app = create_app(make_settings(registry, "memory://"), clock=ManualClock())
    async with running(app) as client:
        yield app, client


def folder_of(registry: KnownRegistry, name: str) -> Path:
    return model_folder(registry.folder, name) / registry.versions[name]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def longer_catalogue_ref(registry: KnownRegistry) -> None:
    other = make_catalogue(["other"])
    ref = SnapshotRef(snapshot_id="s", at_ms=1, users_count=0, catalogue=other.ref())
    artefact.write_snapshot_ref(registry.folder, LINE, ref)


DAMAGE: dict[str, tuple[Callable[[KnownRegistry], object], str]] = {
    "no registry": (lambda r: shutil.rmtree(r.folder), "no model 'star'"),
    "no model": (lambda r: shutil.rmtree(model_folder(r.folder, "pepnet")), "no model 'pepnet'"),
    "version gone": (lambda r: shutil.rmtree(folder_of(r, "star")), "no readable manifest.json"),
    "torn manifest": (
        lambda r: (folder_of(r, "star") / "manifest.json").write_text('{"format_version": 3, "na'),
        "manifest.json",
    ),
    "altered manifest": (
        lambda r: (folder_of(r, "star") / "manifest.json").write_text(
            (folder_of(r, "star") / "manifest.json").read_text().replace('"known"', '"other"')
        ),
        "was altered",
    ),
    "manifest of an older format": (
        lambda r: (folder_of(r, "star") / "manifest.json").write_text(
            (folder_of(r, "star") / "manifest.json")
            .read_text()
            .replace('"format_version": 3', '"format_version": 2')
        ),
        "this service reads format 3",
    ),
    "altered graph": (
        lambda r: flip_a_byte(folder_of(r, "star") / "scorer/mailer.onnx"),
        "scorer/mailer.onnx",
    ),
    "weights gone": (lambda r: (folder_of(r, "star") / "scorer/weights.bin").unlink(), "weights.bin"),
    "altered table": (lambda r: flip_a_byte(folder_of(r, "star") / "items/shared.npy"), "items/shared.npy"),
    "table gone": (
        lambda r: (folder_of(r, "star") / "items/history_recents.npy").unlink(),
        "history_recents.npy",
    ),
    "pointer into nothing": (
        lambda r: (model_folder(r.folder, "star") / "current").write_text("../../etc"),
        "names no version",
    ),
    "no catalogue": (lambda r: shutil.rmtree(r.folder / "catalogues"), "no catalogue"),
    "snapshot of another catalogue": (longer_catalogue_ref, "catalogue"),
    "snapshot reference torn": (
        lambda r: (r.folder / "snapshots" / LINE / "current").write_text("{"),
        "no snapshot reference",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_a_registry_that_is_not_whole_is_a_reason_and_a_503(
    own_registry: KnownRegistry, name: str
) -> None:
    damage, reason = DAMAGE[name]
    damage(own_registry)
    async with started(own_registry) as (_, client):
        assert (await client.get("/livez")).status_code == 200
        for response in (
            await client.get("/readyz"),
            await client.post("/score", json=BODY, headers={"X-Domain": "mailer"}),
            await client.post("/events", json={"events": []}),
        ):
            problem = assert_problem(response, 503, "not-ready")
            assert response.headers["Retry-After"] == "2"
            assert any(reason in error["reason"] for error in problem["errors"]), problem
        assert "twinstar_ready 0.0" in (await client.get("/metrics")).text


async def reseal(registry: KnownRegistry, change: Callable[[Path], object], tmp_path: Path) -> None:
    """Publish a version of star that is whole by its hashes and wrong in itself."""
    work = tmp_path / "wrong"
    manifest = STAR.write(work, registry.catalogue)
    change(work)
    sealed = artefact.seal_artefact(work, manifest)
    artefact.install_artefact(registry.folder, work)
    artefact.activate_artefact(registry.folder, "star", sealed.version)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "graph is no ONNX": (
        lambda w: (w / "scorer/display.onnx").write_bytes(b"not a graph"),
        "display.onnx: ONNX Runtime",
    ),
    "graph of another domain": (
        lambda w: (w / "scorer/display.onnx").write_bytes((w / "scorer/mailer.onnx").read_bytes()),
        "golden request 1",
    ),
    "golden of other answers": (
        lambda w: (w / "golden.json").write_text(
            (w / "golden.json").read_text().replace('"item_id":"apple"', '"item_id":"corn"')
        ),
        "golden request 0",
    ),
    "golden torn": (lambda w: (w / "golden.json").write_text("[{"), "golden.json"),
    "tables of other lengths": (
        lambda w: np.save(w / "items/shared.npy", np.zeros((2, 1), np.float32)),
        "different numbers of rows",
    ),
    "table is no array": (lambda w: (w / "items/shared.npy").write_bytes(b"junk"), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_an_artefact_that_is_wrong_in_itself_is_not_served(
    own_registry: KnownRegistry, tmp_path: Path, name: str
) -> None:
    change, reason = WRONG[name]
    await reseal(own_registry, change, tmp_path)
    async with started(own_registry) as (_, client):
        problem = assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert reason in problem["errors"][0]["reason"]


def popularity_file(registry: KnownRegistry) -> Path:
    return registry.folder / "snapshots" / LINE / f"popularity-{SNAPSHOT_ID}.npz"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "is missing: publish again"),
        (lambda path: path.write_bytes(b""), "is not the table that was published"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not the table that was published"),
    ],
    ids=["missing", "empty", "cut"],
)
async def test_models_that_read_popularity_are_not_served_without_the_table_that_was_published(
    own_registry: KnownRegistry, change: Callable[[Path], object], reason: str
) -> None:
    change(popularity_file(own_registry))
    async with started(own_registry) as (_, client):
        problem = assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert reason in problem["errors"][0]["reason"]


async def test_where_no_table_was_published_nothing_is_popular(own_registry: KnownRegistry) -> None:
    ref = artefact.read_snapshot_ref(own_registry.folder, LINE)
    assert ref is not None
    bare = ref.model_copy(update={"popularity_sha256": None})
    artefact.write_snapshot_ref(own_registry.folder, LINE, bare)
    popularity_file(own_registry).unlink()
    async with started(own_registry) as (_, client):
        response = await client.post("/score", json=BODY, headers={"X-Domain": "both"})
        right, _ = STAR.probability("apple", domain="both", user_id="u1", popular={})
        assert response.json()["results"][0]["click"] == pytest.approx(right, abs=2e-6)


async def test_a_model_that_gives_no_number_for_one_user_is_a_503_for_that_user_alone(
    own_registry: KnownRegistry, tmp_path: Path
) -> None:
    wrong = replace(STAR, user_effects={**STAR.user_effects, "u7": float("nan")})
    wrong.publish(own_registry.folder, own_registry.catalogue, tmp_path / "wrong")
    async with started(own_registry) as (_, client):
        for user, status in (("u6", 200), ("u7", 503), ("u8", 200)):
            body = {**BODY, "user_id": user}
            response = await client.post("/score", json=body, headers={"X-Domain": "both"})
            assert response.status_code == status
            if status == 503:
                assert_problem(response, 503, "scoring-failed")
                assert response.headers["Retry-After"] == "2"


async def test_a_small_probability_keeps_its_digits(own_registry: KnownRegistry, tmp_path: Path) -> None:
    rare = replace(STAR, domain_effects={**STAR.domain_effects, "both": -30.0})
    rare.publish(own_registry.folder, own_registry.catalogue, tmp_path / "rare")
    async with started(own_registry) as (_, client):
        response = await client.post("/score", json=BODY, headers={"X-Domain": "both"})
        right, _ = rare.probability("apple", domain="both", user_id="u1")
        assert right < 1e-10
        assert response.json()["results"][0]["click"] == pytest.approx(right, rel=1e-4)


async def test_models_of_different_catalogues_are_not_served_together(
    own_registry: KnownRegistry, tmp_path: Path
) -> None:
    other = Catalogue("other", own_registry.catalogue.item_ids)
    publish_catalogue(own_registry.folder, other)
    STAR.publish(own_registry.folder, other, tmp_path / "other")
    (own_registry.folder / "snapshots" / LINE / "current").unlink()
    async with started(own_registry) as (_, client):
        problem = assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert "different catalogues (other, shop)" in problem["errors"][0]["reason"]


async def test_a_plan_that_routes_to_a_model_without_the_domain_is_not_served(tmp_path: Path) -> None:
    registry = build_registry(tmp_path, plan=PLAN.replace("mailer, display", "mailer, popup"))
    async with started(registry) as (_, client):
        problem = assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert "popup" in problem["errors"][0]["reason"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("version: 1", "default_model"),
        (PLAN.replace("share: 0.5", "share: 0.4"), "sum to 0.8"),
        (PLAN + "surprise: 1\n", "surprise"),
        ("version: [", "no YAML"),
    ],
)
async def test_a_plan_that_cannot_be_is_refused_at_once(tmp_path: Path, plan: str, message: str) -> None:
    registry = build_registry(tmp_path, plan=plan)
    with pytest.raises(StartupError, match=message):
        create_app(make_settings(registry, "memory://"))


async def test_it_becomes_ready_when_what_lacked_is_published(tmp_path: Path) -> None:
    registry = build_registry(tmp_path)
    hidden = registry.folder.rename(tmp_path / "hidden")
    async with started(registry) as (app, client):
        assert (await client.get("/readyz")).status_code == 503
        hidden.rename(registry.folder)
        await app.state.runtime.look()
        assert (await client.get("/readyz")).json()["status"] == "ready"
        response = await client.post("/score", json=BODY, headers={"X-Domain": "mailer"})
        assert response.status_code == 200


async def test_an_app_that_ended_leaves_nothing_in_its_process(own_registry: KnownRegistry) -> None:
    before = gc.get_threshold()
    async with started(own_registry) as (app, client):
        assert (await client.get("/readyz")).status_code == 200
        encoders = [weakref.ref(model.encoder) for model in app.state.runtime.serving.models.values()]
        assert all(encoder() is not None for encoder in encoders)
    del app, client
    gc.collect()
    assert not any(encoder() is not None for encoder in encoders)
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before)


async def test_ready_names_the_models_and_metrics_do_too(worlds: Worlds) -> None:
    async with worlds("memory://") as world:
        ready = (await world.client.get("/readyz")).json()
        assert {m["name"]: m["version"] for m in ready["models"]} == world.registry.versions
        metrics = (await world.client.get("/metrics")).text
        assert "twinstar_ready 1.0" in metrics
        for name, version in world.registry.versions.items():
            assert (
                f'twinstar_model_info{{backbone="known",name="{name}",precision="fp32",version="{version}"}} 1.0'
                in metrics
            )


async def test_nothing_tears_when_current_moves_while_it_runs(
    own_registry: KnownRegistry, worlds: Worlds, tmp_path: Path
) -> None:
    """A new version, another catalogue state and a new snapshot in force: the running one answers as before."""
    async with worlds("memory://", own_registry) as world:
        before = await both(world)
        changed = STAR.domain_effects | {"mailer": 9.0, "both": 9.0}
        grown = own_registry.catalogue.extended(["fig"])
        publish_catalogue(own_registry.folder, grown)
        new = replace(STAR, domain_effects=changed)
        version = new.publish(own_registry.folder, grown, tmp_path / "new").version
        ref = SnapshotRef(snapshot_id="s-2", at_ms=2, users_count=0, catalogue=grown.ref())
        artefact.write_snapshot_ref(own_registry.folder, LINE, ref)
        assert current_version(own_registry.folder, "star") == version != own_registry.versions["star"]
        await world.app.state.runtime.look()
        assert await both(world) == before
    async with started(own_registry) as (_, client):
        response = await client.post("/score", json=BODY, headers={"X-Domain": "both"})
        assert response.headers["X-Model-Version"] == f"star-{version}"


async def both(world: World) -> list[object]:
    """Return what is answered in two domains, but for the request's id."""
    answers = []
    for domain in ("mailer", "both"):
        answer = (await world.score(BODY, domain)).json()
        del answer["request_id"]
        answers.append(answer)
    return answers
