"""The artefact registry: folders that training writes and the service reads.

    <registry>/models/<name>/<version>/   manifest.json (last)  scorer/  item_encoder.onnx  search.onnx (if any)  items/
                                          golden.json
                                          report/
    <registry>/models/<name>/current      the version in force, switched by atomic rename
    <registry>/catalogues/<name>/         see catalogue.py
    <registry>/snapshots/<line>/current   the snapshot of users' life cycles in force, see SnapshotRef
    <registry>/snapshots/<line>/popularity-<snapshot>.npz   what everyone took to, see popularity.py

Knows nothing of the store and of ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.contract.catalogue import Catalogue, CatalogueRef, catalogue_of_bytes
from service.contract.errors import ArtefactError
from service.contract.files import read_pointer, sha256_of, sync_folder, write_atomically, xxh3_of
from service.contract.manifest import FORMAT_VERSION, FileEntry, Manifest, Precision
from service.contract.popularity import Popularity, decode_popularity, encode_popularity

MANIFEST_FILE = "manifest.json"
SCORER_WEIGHTS_FILE = "scorer/weights.bin"
ITEM_ENCODER_FILE = "item_encoder.onnx"
SEARCH_FILE = "search.onnx"
GOLDEN_FILE = "golden.json"
REPORT_FOLDER = "report"
ITEM_IDS_FILE = "items/item_ids.txt"
ITEM_ROWS_FILE = "items/rows.npy"
ITEM_SHARED_FILE = "items/shared.npy"
ITEM_BY_DOMAIN_FILE = "items/by_domain.npy"
ITEM_MATCH_KEYS_FILE = "items/match_keys.npy"


class SnapshotRef(BaseModel):
    """Which snapshot of users' life cycles the store holds under a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str
    at_ms: int
    users_count: int
    catalogue: CatalogueRef
    popularity_sha256: str | None = Field(default=None, description="of the table beside this reference")
    previous_id: str | None = Field(
        default=None, description="still in the store, for services not yet restarted"
    )


def scorer_file(domain: str, precision: Precision = "fp32") -> str:
    """Return the file of a domain's graph: what the domain decides is folded in, the weights stand beside it."""
    return f"scorer/{domain}.onnx" if precision == "fp32" else f"scorer/{domain}.{precision}.onnx"


def item_history_file(part: str) -> str:
    """Return the file of what is stored of an item for when it stands in a part of a history."""
    return f"items/history_{part}.npy"


def model_folder(registry: Path, name: str) -> Path:
    """Return the folder of a model's versions."""
    return registry / "models" / name


def catalogue_folder(registry: Path, name: str) -> Path:
    """Return the folder of a catalogue's states."""
    return registry / "catalogues" / name


def snapshot_folder(registry: Path, line: str) -> Path:
    """Return the folder of a snapshot line."""
    return registry / "snapshots" / line


def seal_artefact(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file in a folder, and write the manifest that makes it an artefact.

    Returns the manifest as written, with its files and version.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST_FILE)
    files = {
        p.relative_to(folder).as_posix(): FileEntry(
            sha256=sha256_of(p), size_bytes=p.stat().st_size, xxh3=xxh3_of(p)
        )
        for p in paths
    }
    sealed = manifest.model_copy(update={"files": files})
    sealed = sealed.model_copy(update={"version": sealed.content_version()})
    write_atomically(folder / MANIFEST_FILE, sealed.model_dump_json(indent=2).encode())
    return sealed


def read_artefact(folder: Path, *, quickly: bool = False) -> Manifest:
    """Read and verify an artefact: its format, its version, and the hash of every file.

    `quickly` compares XXH3, where the manifest has it, in place of SHA-256: a worker that starts reads gigabytes of
    item tables, and whoever could forge them could forge the manifest too.

    Raises:
        ArtefactError: it is missing, torn or altered; the message names the file.
    """
    try:
        body = (folder / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise ArtefactError(
            f"{folder} has no readable {MANIFEST_FILE}: it is no artefact, or a torn one"
        ) from error
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ArtefactError(
            f"{folder / MANIFEST_FILE}: {where}: {first['msg']} (this service reads format {FORMAT_VERSION})"
        ) from error
    if manifest.content_version() != manifest.version:
        raise ArtefactError(
            f"{folder / MANIFEST_FILE} was altered: its content is not that of version {manifest.version}"
        )
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ArtefactError(f"{folder}: file {name} is missing; export the artefact again")
        if path.stat().st_size != entry.size_bytes or not _is_as_sealed(path, entry, quickly=quickly):
            raise ArtefactError(
                f"{folder}: file {name} is not the one that was exported; export the artefact again"
            )
    return manifest


def _is_as_sealed(path: Path, entry: FileEntry, *, quickly: bool) -> bool:
    if quickly and entry.xxh3 is not None:
        return xxh3_of(path) == entry.xxh3
    return sha256_of(path) == entry.sha256


def read_artefact_catalogue(folder: Path, manifest: Manifest) -> Catalogue:
    """Return the catalogue that an artefact was made with, which it carries.

    Raises:
        ArtefactError: it is not there, or not the one that the manifest names.
    """
    try:
        catalogue = catalogue_of_bytes(manifest.catalogue.name, (folder / ITEM_IDS_FILE).read_bytes())
    except OSError as error:
        raise ArtefactError(
            f"{folder}: file {ITEM_IDS_FILE} is missing; export the artefact again"
        ) from error
    if catalogue.ref() != manifest.catalogue:
        raise ArtefactError(f"{folder}: {ITEM_IDS_FILE} is not the catalogue of the manifest; export again")
    return catalogue


def current_version(registry: Path, name: str) -> str:
    """Return the version of a model that is in force.

    Raises:
        ArtefactError: nothing was published under that name.
    """
    pointer = model_folder(registry, name) / "current"
    try:
        return read_pointer(pointer)
    except OSError as error:
        raise ArtefactError(
            f"no model {name!r} in the registry {registry}: {pointer} names no version"
        ) from error


def install_artefact(registry: Path, source: Path) -> Manifest:
    """Copy a verified artefact into the registry without putting it in force. Installing twice is harmless.

    The copy is made beside its place and renamed into it, so a crash leaves no half-written version.
    """
    manifest = read_artefact(source)
    home = model_folder(registry, manifest.name)
    home.mkdir(parents=True, exist_ok=True)
    target = home / manifest.version
    if target.exists():
        try:
            read_artefact(target)
            return manifest
        except ArtefactError:
            shutil.rmtree(target)
    staging = Path(tempfile.mkdtemp(dir=home, prefix=".incoming-"))
    try:
        shutil.copytree(source, staging / manifest.version)
        for path in (staging / manifest.version, *(staging / manifest.version).rglob("*")):
            if path.is_dir():
                sync_folder(path)
            else:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        (staging / manifest.version).rename(target)
        sync_folder(home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def activate_artefact(registry: Path, name: str, version: str) -> None:
    """Put an installed version in force.

    Raises:
        ArtefactError: that version is not there.
    """
    folder = model_folder(registry, name)
    if not (folder / version / MANIFEST_FILE).is_file():
        raise ArtefactError(f"model {name!r} has no version {version!r} in {registry}")
    write_atomically(folder / "current", version.encode())


def write_snapshot_ref(registry: Path, line: str, ref: SnapshotRef) -> None:
    """Put a snapshot in force that the store already holds whole."""
    folder = snapshot_folder(registry, line)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "current", ref.model_dump_json(indent=2).encode())


def write_popularity(registry: Path, line: str, snapshot_id: str, popularity: Popularity) -> str:
    """Write the table of a snapshot that is not yet in force; returns its SHA-256."""
    path = _popularity_path(registry, line, snapshot_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    blob = encode_popularity(popularity)
    write_atomically(path, blob)
    return hashlib.sha256(blob).hexdigest()


def read_popularity(registry: Path, line: str, ref: SnapshotRef) -> Popularity:
    """Return the table published with a snapshot; an empty one where none was.

    Raises:
        ArtefactError: it is missing, or not the one that was published.
    """
    if ref.popularity_sha256 is None:
        return Popularity.empty()
    path = _popularity_path(registry, line, ref.snapshot_id)
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path} is missing: publish again") from error
    if hashlib.sha256(blob).hexdigest() != ref.popularity_sha256:
        raise ArtefactError(f"{path} is not the table that was published: publish again")
    return decode_popularity(blob)


def delete_popularity(registry: Path, line: str, snapshot_id: str) -> None:
    """Delete the table of a snapshot that nothing names any more."""
    _popularity_path(registry, line, snapshot_id).unlink(missing_ok=True)


def _popularity_path(registry: Path, line: str, snapshot_id: str) -> Path:
    return snapshot_folder(registry, line) / f"popularity-{snapshot_id}.npz"


def read_snapshot_ref(registry: Path, line: str) -> SnapshotRef | None:
    """Return the snapshot in force on a line, None where nothing was ever published.

    Raises:
        ArtefactError: the reference does not parse.
    """
    path = snapshot_folder(registry, line) / "current"
    try:
        return SnapshotRef.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ArtefactError(f"{path} is no snapshot reference; publish again") from error
