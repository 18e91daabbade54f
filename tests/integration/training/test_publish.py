"""publish against the readers of the service: registry and store, crashes, and what grows in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pytest

from service.contract.artefact import (
    SnapshotRef,
    catalogue_folder,
    current_version,
    model_folder,
    read_artefact,
    read_popularity,
    read_snapshot_ref,
    seal_artefact,
    snapshot_folder,
)
from service.contract.catalogue import Catalogue, read_catalogue, write_catalogue
from service.contract.errors import ArtefactError, CatalogueError
from service.contract.history import decode_snapshot
from service.contract.manifest import Manifest
from service.contract.store_keys import decode_user_features
from service.stores import open_store
from service.stores.base import SnapshotRecord, Store, StoreSettings, StoreUnavailable, UserRecord
from service.stores.memory import MemoryStore
from tests.support.pipelines import changed, copied, run
from tests.support.synthetic_dataset import USERS_COUNT, tiny_config, user_id
from training.config import PipelineConfig
from training.errors import StageError
from training.history.storage import SnapshotTable, write_snapshots
from training.pipeline import Step
from training.stages import publish
from training.workbench import SNAPSHOTS_FILE, Workbench

T = TypeVar("T")
PUBLISH = Step("publish")
USERS = [user_id(user) for user in range(USERS_COUNT)]


class KeptStore(MemoryStore):
    """A store in memory that outlives those who close it."""

    async def close(self) -> None:
        return None


@pytest.fixture
def kept_store(monkeypatch: pytest.MonkeyPatch) -> KeptStore:
    """The store that `publish` opens as `memory://`."""
    store = KeptStore()

    async def open_kept(url: str, settings: StoreSettings | None = None) -> Store:
        return store if url == "memory://" else await open_store(url, settings)

    monkeypatch.setattr(publish, "open_store", open_kept)
    return store


@pytest.fixture
def config(finished_pipeline: PipelineConfig, tmp_path: Path) -> PipelineConfig:
    return copied(finished_pipeline, tmp_path, store="memory://")


def ref_of(config: PipelineConfig) -> SnapshotRef:
    ref = read_snapshot_ref(config.publish.registry, config.publish.snapshot_line)
    assert ref is not None
    return ref


def in_force(config: PipelineConfig, name: str) -> Manifest:
    registry = config.publish.registry
    return read_artefact(model_folder(registry, name) / current_version(registry, name))


async def read_all(store: Store, snapshot_id: str) -> dict[str, UserRecord]:
    return {user: await store.read_user(user, snapshot_id) for user in USERS}


def in_store(config: PipelineConfig, read: Callable[[Store], Awaitable[T]]) -> T:
    """Read from a config's store as the service would: opened anew by its URL."""

    async def opened() -> T:
        store = await open_store(config.publish.store)
        try:
            return await read(store)
        finally:
            await store.close()

    return asyncio.run(opened())


def check_published(config: PipelineConfig, records: dict[str, UserRecord]) -> None:
    """Compare what the service reads with what the pipeline made."""
    registry, bench, ref = config.publish.registry, Workbench(config), ref_of(config)
    catalogue = read_catalogue(catalogue_folder(registry, config.publish.catalogue))
    end_ms = bench.dataset.spec.splits.end_ms
    assert (ref.at_ms, ref.users_count, ref.catalogue) == (end_ms, USERS_COUNT, catalogue.ref())
    for name in config.models:
        manifest = in_force(config, name)
        catalogue.check(manifest.catalogue)
        assert manifest.snapshot_line == config.publish.snapshot_line
    features = {row.pop("user_id"): row for row in bench.dataset.users.to_dicts()}
    rows = bench.dataset.behaviors
    for user, record in records.items():
        assert record.features is not None
        assert decode_user_features(record.features) == features[user]
        mine = rows.filter(pl.col("user_id") == user)
        assert (record.snapshot is None) == mine.is_empty()
        if record.snapshot is None:
            continue
        snapshot = decode_snapshot(record.snapshot)
        assert snapshot.at_ms == end_ms
        assert snapshot.size.sum() == len(mine)
        tail = mine.tail(50)
        assert snapshot.tail.item.tolist() == catalogue.ids_of(tail["item_id"]).tolist()
        assert snapshot.tail.at_ms.tolist() == tail["at_ms"].to_list()
        assert set(snapshot.item.tolist()) <= set(catalogue.ids_of(mine["item_id"]).tolist())
        counted = dict(zip(snapshot.counts.item.tolist(), snapshot.counts.count.tolist(), strict=True))
        assert counted == Counter(catalogue.ids_of(mine["item_id"]).tolist())
    popularity = read_popularity(registry, config.publish.snapshot_line, ref)
    assert popularity.at_ms == end_ms
    level = popularity.levels["item_id"]
    everyones = Counter(catalogue.ids_of(rows.filter(pl.col("at_ms") < end_ms)["item_id"]).tolist())
    assert dict(zip((level.keys & 0xFFFF_FFFF).tolist(), level.count.tolist(), strict=True)) == everyones


def held_snapshots(config: PipelineConfig, store: KeptStore) -> set[str]:
    """Return the snapshots that the store holds; the registry has the tables of just those."""
    in_store = {key.rpartition(":")[2] for key in (*store.values, *store.sets)}
    folder = snapshot_folder(config.publish.registry, config.publish.snapshot_line)
    tables = {path.stem.removeprefix("popularity-") for path in folder.glob("popularity-*")}
    assert tables == in_store
    return in_store


def test_a_service_reads_from_an_embedded_store_and_the_registry_what_was_published(
    finished_pipeline: PipelineConfig, tmp_path: Path
) -> None:
    config = copied(finished_pipeline, tmp_path)
    result = run(config, PUBLISH)[0]
    ref = ref_of(config)
    assert result.summary["snapshot"] == ref.snapshot_id
    assert ref.previous_id is None
    check_published(config, in_store(config, lambda store: read_all(store, ref.snapshot_id)))
    run(config, PUBLISH)
    assert ref_of(config) == ref
    check_published(config, in_store(config, lambda store: read_all(store, ref.snapshot_id)))


def test_publishing_again_changes_nothing(config: PipelineConfig, kept_store: KeptStore) -> None:
    def state() -> tuple[object, ...]:
        files = {p: p.read_bytes() for p in config.publish.registry.rglob("*") if p.is_file()}
        return files, dict(kept_store.values), {key: set(users) for key, users in kept_store.sets.items()}

    run(config, PUBLISH)
    first = state()
    run(config, PUBLISH)
    assert state() == first
    check_published(config, asyncio.run(read_all(kept_store, ref_of(config).snapshot_id)))


def another_generation(config: PipelineConfig, folder: Path, *, earlier_ms: int) -> PipelineConfig:
    """Return a pipeline over the same items with models and a newest snapshot of its own: a bit earlier."""
    made = copied(config, folder, registry=str(config.publish.registry), store=config.publish.store)
    spec = Workbench(made).dataset.spec
    splits = spec.splits.model_copy(update={"end_ms": spec.splits.end_ms - earlier_ms})
    changed_spec = spec.model_copy(update={"splits": splits, "fingerprint": f"{earlier_ms:064x}"})
    (made.workspace / "prepare" / "dataset.json").write_text(changed_spec.model_dump_json())
    snapshots = SnapshotTable.load(made.workspace / "cluster" / SNAPSHOTS_FILE)
    newest = [
        (user, splits.end_ms, replace(decode_snapshot(blob), at_ms=splits.end_ms))
        for user, blob in snapshots.at(spec.splits.end_ms)
    ]
    write_snapshots(made.workspace / "cluster" / SNAPSHOTS_FILE, newest)
    for name in made.models:
        artefact = made.workspace / "verify" / name / "artefact"
        (artefact / "report" / "generation.txt").write_text(str(earlier_ms))
        seal_artefact(artefact, read_artefact(artefact))
    return made


@pytest.fixture
def generations(config: PipelineConfig, tmp_path: Path) -> list[PipelineConfig]:
    """Three pipelines that publish to one registry and store."""
    later = [another_generation(config, tmp_path / f"g{ms}", earlier_ms=ms) for ms in (1, 2)]
    return [config, *later]


def test_the_previous_snapshot_is_kept_and_older_ones_are_deleted(
    generations: list[PipelineConfig], kept_store: KeptStore
) -> None:
    ids = []
    for config in generations:
        publish_alone(config)
        ids.append(ref_of(config).snapshot_id)
        assert ref_of(config).previous_id == (ids[-2] if len(ids) > 1 else None)
    assert len(set(ids)) == 3
    assert held_snapshots(generations[0], kept_store) == set(ids[1:])
    publish_alone(generations[1])  # back to the previous one
    assert (ref_of(generations[1]).snapshot_id, ref_of(generations[1]).previous_id) == (ids[1], ids[2])
    assert all(record.features for record in asyncio.run(read_all(kept_store, ids[2])).values())


def publish_alone(config: PipelineConfig) -> None:
    """Run the stage itself: the records of stages whose files a test has changed would refuse it."""
    publish.run(Workbench(config), config.workspace, publish.Progress(quiet=True))


def versions_of(config: PipelineConfig) -> dict[str, str]:
    """Return the versions that a pipeline has verified."""
    return {
        name: read_artefact(config.workspace / "verify" / name / "artefact").version for name in config.models
    }


class Crash(BaseException):
    """The process is gone; nothing may catch it."""


def breaking(call: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return a call that a crash cuts off, before or after its effect."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        if after:
            call(*args, **kwargs)
        raise Crash

    return broken


def first_calls(call: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a call that works so often, and then is cut off."""
    done = iter(range(count))

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(done, None) is None:
            raise Crash
        return call(*args, **kwargs)

    return counted


def halfway(store: KeptStore, users_count: int) -> Callable[..., Awaitable[int]]:
    async def write_some(snapshot_id: str, records: Iterable[SnapshotRecord]) -> int:
        def some() -> Iterator[SnapshotRecord]:
            for number, record in enumerate(records):
                if number == users_count:
                    raise Crash
                yield record

        return await MemoryStore.write_snapshot(store, snapshot_id, some())

    return write_some


def points(store: KeptStore) -> dict[str, tuple[object, str, Callable[..., Any]]]:
    """Return every point of a publication at which a process may die: what to replace, and by what."""
    found: dict[str, tuple[object, str, Callable[..., Any]]] = {}
    for name in (
        "grow_catalogue",
        "install_artefact",
        "write_popularity",
        "write_snapshot_ref",
        "activate_artefact",
    ):
        for after in (False, True):
            call = breaking(getattr(publish, name), after=after)
            found[f"{'after' if after else 'before'} the first {name}"] = (publish, name, call)
    for name in ("install_artefact", "activate_artefact"):
        found[f"before the second {name}"] = (publish, name, first_calls(getattr(publish, name), 1))
    for count in (0, 1, USERS_COUNT // 2, USERS_COUNT - 1):
        found[f"after {count} users"] = (store, "write_snapshot", halfway(store, count))
    found["before deleting"] = (store, "delete_snapshot", breaking(store.delete_snapshot, after=False))
    found["before closing"] = (store, "close", breaking(store.close, after=False))
    return found


@pytest.mark.parametrize("point", list(points(KeptStore())))
def test_a_crash_leaves_what_was_live_whole_and_publishing_again_completes(
    generations: list[PipelineConfig], kept_store: KeptStore, point: str
) -> None:
    for config in generations[:2]:
        publish_alone(config)
    live = ref_of(generations[1])
    before = asyncio.run(read_all(kept_store, live.snapshot_id))
    newest = generations[2]
    old_versions, new_versions = versions_of(generations[1]), versions_of(newest)
    assert not set(old_versions.values()) & set(new_versions.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*points(kept_store)[point])
        with pytest.raises(Crash):
            publish_alone(newest)

    after = ref_of(newest)
    assert asyncio.run(read_all(kept_store, live.snapshot_id)) == before
    read_popularity(newest.publish.registry, newest.publish.snapshot_line, after)
    assert all(record.features for record in asyncio.run(read_all(kept_store, after.snapshot_id)).values())
    for name in newest.models:
        version = current_version(newest.publish.registry, name)
        assert version in (old_versions[name], new_versions[name])
        read_artefact(model_folder(newest.publish.registry, name) / version)
    if after == live:
        assert {n: current_version(newest.publish.registry, n) for n in newest.models} == old_versions

    publish_alone(newest)
    assert {n: current_version(newest.publish.registry, n) for n in newest.models} == new_versions
    check_published(newest, asyncio.run(read_all(kept_store, ref_of(newest).snapshot_id)))
    assert ref_of(newest).previous_id == live.snapshot_id
    assert held_snapshots(newest, kept_store) == {ref_of(newest).snapshot_id, live.snapshot_id}


@pytest.mark.parametrize(
    "point", ["before the first write_popularity", "after the first write_popularity", "after 12 users"]
)
def test_what_a_crashed_publication_wrote_is_deleted_when_another_one_follows(
    generations: list[PipelineConfig], kept_store: KeptStore, point: str
) -> None:
    publish_alone(generations[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*points(kept_store)[point])
        with pytest.raises(Crash):
            publish_alone(generations[1])
    publish_alone(generations[2])
    ref = ref_of(generations[0])
    assert held_snapshots(generations[0], kept_store) == {ref.snapshot_id, ref.previous_id}


def test_a_table_of_other_levels_does_not_take_the_place_of_the_one_that_is_read(
    config: PipelineConfig, kept_store: KeptStore
) -> None:
    run(config, PUBLISH)
    first = ref_of(config)
    fewer = changed(config, {"statistics.popularity": ["item_id"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "write_snapshot_ref", breaking(publish.write_snapshot_ref, after=False))
        with pytest.raises(Crash):
            publish_alone(fewer)
    line = config.publish.snapshot_line
    assert list(read_popularity(config.publish.registry, line, first).levels) == ["item_id", "device"]
    publish_alone(fewer)
    assert list(read_popularity(config.publish.registry, line, ref_of(config)).levels) == ["item_id"]
    publish_alone(changed(config, {"statistics.popularity": []}))
    assert read_popularity(config.publish.registry, line, ref_of(config)).levels == {}


def test_a_store_that_is_gone_switches_nothing(config: PipelineConfig, kept_store: KeptStore) -> None:
    run(config, PUBLISH)
    ref = ref_of(config)
    with pytest.raises(StoreUnavailable):
        run(changed(config, {"publish.store": "redis://127.0.0.1:1"}), PUBLISH)
    assert ref_of(config) == ref


def test_an_artefact_that_was_altered_is_not_published(config: PipelineConfig, kept_store: KeptStore) -> None:
    path = config.workspace / "verify" / "pepnet" / "artefact" / "items" / "shared.npy"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    with pytest.raises(ArtefactError, match=r"items/shared\.npy is not the one that was exported"):
        run(config, PUBLISH)
    assert not config.publish.registry.exists()
    assert not kept_store.values


def test_an_artefact_of_another_snapshot_line_is_not_published(config: PipelineConfig) -> None:
    with pytest.raises(StageError, match="reads snapshot line 'default', the config publishes 'other'"):
        run(changed(config, {"publish.snapshot_line": "other"}), PUBLISH)


def test_a_catalogue_that_grew_keeps_old_ids_and_takes_what_was_exported_before(
    config: PipelineConfig, kept_store: KeptStore, tmp_path: Path
) -> None:
    run(config, PUBLISH)
    folder, ref = catalogue_folder(config.publish.registry, config.publish.catalogue), ref_of(config)
    first, records = read_catalogue(folder), asyncio.run(read_all(kept_store, ref.snapshot_id))

    other = tiny_config(tmp_path / "other", config.publish.registry, "memory://")
    model = other.models["pepnet"].model_dump(mode="json")
    other = changed(other, {"models": {"other": model}, "publish.snapshot_line": "other"})
    for name in ("exposures", "behaviors", "items"):
        path = Path(other.dataset["path"]) / f"{name}.parquet"
        renames = {"i01": "a-new-item", "i02": "another"}
        pl.read_parquet(path).with_columns(pl.col("item_id").replace(renames)).write_parquet(path)
    run(other)

    grown = read_catalogue(folder)
    assert grown.item_ids[: len(first)] == first.item_ids
    assert set(grown.item_ids[len(first) :]) == {"a-new-item", "another"}
    check_published(other, asyncio.run(read_all(kept_store, ref_of(other).snapshot_id)))

    with pytest.raises(StageError, match="'export/star' is out of date"):
        run(config, Step("verify", "star"))
    run(config, PUBLISH)  # what was verified before is as good as it was
    assert read_catalogue(folder).ref() == grown.ref()
    assert ref_of(config) == ref
    assert asyncio.run(read_all(kept_store, ref.snapshot_id)) == records
    for name in ("star", "pepnet", "other"):
        grown.check(in_force(config, name).catalogue)


def test_a_catalogue_that_took_another_course_takes_nothing(
    config: PipelineConfig, kept_store: KeptStore
) -> None:
    folder = catalogue_folder(config.publish.registry, config.publish.catalogue)
    write_catalogue(folder, Catalogue(folder.name, ("published", "in between")))
    with pytest.raises(CatalogueError, match="may only be appended to"):
        run(config, PUBLISH)
    assert not kept_store.values
    assert read_snapshot_ref(config.publish.registry, config.publish.snapshot_line) is None
    assert not model_folder(config.publish.registry, "star").exists()
