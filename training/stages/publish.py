"""publish: verified artefacts to the registry, life cycles to the store; pointers are switched last.

Order, and what a crash leaves: the catalogue grows (old artefacts read a prefix of it) → artefacts are
installed (nobody reads a version that no pointer names) → the store is given the snapshot under an id of its
own (nobody reads an id that no pointer names) → the snapshot before the previous one is deleted → the snapshot
pointer → the models' pointers. Before the pointers, all that is live is untouched; between them, the new
snapshot goes with the old models, which is legal, because blobs carry catalogue ids. Deleting after the
pointer would lose the id of what to delete in a crash between. Publishing again is harmless. Loads no torch.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from service.contract.artefact import (
    SnapshotRef,
    activate_artefact,
    catalogue_folder,
    delete_popularity,
    install_artefact,
    read_artefact,
    read_artefact_catalogue,
    read_snapshot_ref,
    snapshot_folder,
    write_popularity,
    write_snapshot_ref,
)
from service.contract.catalogue import Catalogue, grow_catalogue
from service.contract.files import read_pointer, write_atomically
from service.contract.history import decode_snapshot, encode_snapshot
from service.contract.manifest import Manifest
from service.contract.popularity import Popularity
from service.contract.store_keys import encode_user_features
from service.stores import open_store
from service.stores.base import SnapshotRecord, Store, StoreSettings
from training.errors import StageError
from training.export.raw_requests import with_catalogue_ids
from training.progress import Progress
from training.workbench import ARTEFACT_FOLDER, Workbench


def run(bench: Workbench, out: Path, progress: Progress) -> dict[str, object]:
    """Publish all models of the config and the newest snapshot of every user."""
    del out  # what is published lies in the registry and the store
    registry, line = bench.config.publish.registry, bench.config.publish.snapshot_line
    folders = {name: bench.done("verify", name) / ARTEFACT_FOLDER for name in bench.config.models}
    manifests = {name: read_artefact(folder) for name, folder in folders.items()}
    for manifest in manifests.values():
        _check_line(bench, manifest)
    catalogue = max((read_artefact_catalogue(folders[n], m) for n, m in manifests.items()), key=len)
    for manifest in manifests.values():
        catalogue.check(manifest.catalogue)
    grow_catalogue(catalogue_folder(registry, catalogue.name), catalogue)
    for folder in folders.values():
        install_artefact(registry, folder)

    at_ms = int(bench.snapshot_moments_ms[-1])
    ref = SnapshotRef(
        snapshot_id=f"{at_ms}-{_content_id(bench, catalogue)}",
        at_ms=at_ms,
        users_count=len(bench.dataset.users),
        catalogue=catalogue.ref(),
        previous_id=None,
    )
    old = read_snapshot_ref(registry, line)
    if old is not None:
        previous = old.previous_id if old.snapshot_id == ref.snapshot_id else old.snapshot_id
        ref = ref.model_copy(update={"previous_id": previous})
    popularity: Popularity | None = None
    if bench.popularity_levels:
        popularity = bench.popularity_counts.table_at(at_ms).renamed(bench.catalogue_ids_in(catalogue))
    records = _records(bench, catalogue, at_ms)
    asyncio.run(_publish(bench, ref, old, manifests, records, popularity, progress))
    return {
        "users": ref.users_count,
        "snapshot": ref.snapshot_id,
        **{name: f"{name}-{manifest.version}" for name, manifest in manifests.items()},
    }


async def _publish(
    bench: Workbench,
    ref: SnapshotRef,
    old: SnapshotRef | None,
    manifests: dict[str, Manifest],
    records: Iterator[SnapshotRecord],
    popularity: Popularity | None,
    progress: Progress,
) -> None:
    registry, line = bench.config.publish.registry, bench.config.publish.snapshot_line
    store = await open_store(bench.config.publish.store, StoreSettings())
    try:
        with progress.task("write life cycles", total=ref.users_count) as advance:
            await _delete_abandoned(store, registry, line, ref, old)
            if popularity is not None:
                digest = write_popularity(registry, line, ref.snapshot_id, popularity)
                ref = ref.model_copy(update={"popularity_sha256": digest})
            await store.write_snapshot(ref.snapshot_id, _told(records, advance))
        await _delete_retired(store, registry, line, ref, old)
        write_snapshot_ref(registry, line, ref)
        for name, manifest in manifests.items():
            activate_artefact(registry, name, manifest.version)
    finally:
        await store.close()


async def _delete_abandoned(
    store: Store, registry: Path, line: str, ref: SnapshotRef, old: SnapshotRef | None
) -> None:
    """Delete what a publication that crashed had written under another id, and note the id of this one."""
    folder = snapshot_folder(registry, line)
    folder.mkdir(parents=True, exist_ok=True)
    live = {ref.snapshot_id, ref.previous_id} | ({old.snapshot_id, old.previous_id} if old else set())
    try:
        abandoned = read_pointer(folder / "incoming")
    except FileNotFoundError:
        abandoned = ref.snapshot_id
    if abandoned not in live:
        await store.delete_snapshot(abandoned)
        delete_popularity(registry, line, abandoned)
    write_atomically(folder / "incoming", ref.snapshot_id.encode())


async def _delete_retired(
    store: Store, registry: Path, line: str, ref: SnapshotRef, old: SnapshotRef | None
) -> None:
    """Delete the snapshot before the previous one; the previous one stays for services not yet restarted."""
    if old is not None and old.previous_id not in (None, ref.snapshot_id, ref.previous_id):
        assert old.previous_id is not None
        await store.delete_snapshot(old.previous_id)
        delete_popularity(registry, line, old.previous_id)


def _records(bench: Workbench, catalogue: Catalogue, at_ms: int) -> Iterator[SnapshotRecord]:
    blobs = dict(bench.snapshots.at(at_ms))
    ids = bench.catalogue_ids_in(catalogue)
    for row in bench.dataset.users.iter_rows(named=True):
        user = str(row.pop("user_id"))
        blob = blobs.get(user)
        if blob is not None:
            snapshot = decode_snapshot(blob).sampled(bench.config.history.limits.clusters_max)
            blob = encode_snapshot(with_catalogue_ids(ids, snapshot))
        yield user, blob, encode_user_features(row)


def _told(records: Iterator[SnapshotRecord], advance: Callable[[int], None]) -> Iterator[SnapshotRecord]:
    for record in records:
        advance(1)
        yield record


def _check_line(bench: Workbench, manifest: Manifest) -> None:
    """Refuse an artefact that would read another snapshot line than the one published here."""
    line = bench.config.publish.snapshot_line
    if manifest.snapshot_line != line:
        raise StageError(
            f"{manifest.name}-{manifest.version} reads snapshot line {manifest.snapshot_line!r}, the config "
            f"publishes {line!r}: run `verify` again"
        )


def _content_id(bench: Workbench, catalogue: Catalogue) -> str:
    """Return an id of what is written to the store and of the popularity table: the same content has the same id."""
    output = orjson.loads((bench.done("cluster") / "stage.json").read_bytes())["output"]
    levels = ",".join(bench.popularity_levels)
    clusters_max = bench.config.history.limits.clusters_max
    content = f"{output}:{clusters_max}:{bench.dataset.spec.fingerprint}:{catalogue.ref().sha256}:{levels}"
    return hashlib.sha256(content.encode()).hexdigest()[:12]
