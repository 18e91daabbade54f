"""The artefact registry: what is torn or altered is refused by name, and a crash leaves the old one whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.artefact import (
    MANIFEST_FILE,
    SnapshotRef,
    activate_artefact,
    current_version,
    install_artefact,
    model_folder,
    read_artefact,
    read_snapshot_ref,
    seal_artefact,
    write_snapshot_ref,
)
from service.contract.catalogue import Catalogue, read_catalogue, write_catalogue
from service.contract.errors import ArtefactError
from tests.unit.service.contract.crashes import Crash, process
from tests.unit.service.contract.made import make_artefact, manifest

FILES = ("scorer/weights.bin", "items/shared.npy")


def publish(registry: Path, source: Path) -> str:
    version = install_artefact(registry, source).version
    activate_artefact(registry, "star", version)
    return version


def in_force(registry: Path) -> bytes:
    """Return the weights of the verified artefact that is in force."""
    folder = model_folder(registry, "star") / current_version(registry, "star")
    read_artefact(folder)
    return (folder / "scorer/weights.bin").read_bytes()


def test_sealed_artefact_is_read_back(tmp_path: Path) -> None:
    sealed = make_artefact(tmp_path / "a", b"one")
    assert read_artefact(tmp_path / "a") == sealed
    assert sorted(sealed.files) == sorted(FILES)
    assert len(sealed.version) == 12


def test_version_is_the_content(tmp_path: Path) -> None:
    one = make_artefact(tmp_path / "a", b"one")
    assert make_artefact(tmp_path / "b", b"one").version == one.version
    assert make_artefact(tmp_path / "c", b"two").version != one.version
    later = one.model_copy(update={"created_at": "2030-01-01T00:00:00Z", "version": ""})
    assert seal_artefact(tmp_path / "a", later).version == one.version
    other = one.model_copy(update={"backbone": "pepnet", "version": ""})
    assert seal_artefact(tmp_path / "a", other).version != one.version


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "altered", "folder"])
def test_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    make_artefact(tmp_path / "a", b"scorer")
    path = tmp_path / "a" / name
    body = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        changed = {"truncated": body[:-1], "longer": body + b"x", "altered": b"X" + body[1:]}[damage]
        path.write_bytes(changed)
    with pytest.raises(ArtefactError, match=f"file {name} is"):
        read_artefact(tmp_path / "a")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_torn_manifest_is_refused(tmp_path: Path, body: bytes) -> None:
    make_artefact(tmp_path / "a", b"one")
    (tmp_path / "a" / MANIFEST_FILE).write_bytes(body)
    with pytest.raises(ArtefactError, match=r"manifest\.json: .*this service reads format 3"):
        read_artefact(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"backbone": "pepnet"}, "was altered"),
        ({"version": "0" * 12}, "was altered"),
        ({"format_version": 1}, "format_version: .*this service reads format 3"),
        ({"surprise": 1}, "surprise"),
        ({"name": "../star"}, "name"),
    ],
)
def test_altered_manifest_is_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    make_artefact(tmp_path / "a", b"one")
    path = tmp_path / "a" / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtefactError, match=reason):
        read_artefact(tmp_path / "a")


def test_folder_without_a_manifest_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="it is no artefact, or a torn one"):
        read_artefact(tmp_path)


def test_installing_puts_nothing_in_force(tmp_path: Path) -> None:
    make_artefact(tmp_path / "a", b"one")
    install_artefact(tmp_path / "registry", tmp_path / "a")
    with pytest.raises(ArtefactError, match="names no version"):
        current_version(tmp_path / "registry", "star")


def test_installing_twice_is_harmless(tmp_path: Path) -> None:
    make_artefact(tmp_path / "a", b"one")
    registry = tmp_path / "registry"
    assert publish(registry, tmp_path / "a") == publish(registry, tmp_path / "a")
    assert in_force(registry) == b"one"


def test_installing_again_mends_a_damaged_copy(tmp_path: Path) -> None:
    make_artefact(tmp_path / "a", b"one")
    registry = tmp_path / "registry"
    version = publish(registry, tmp_path / "a")
    (model_folder(registry, "star") / version / "scorer/weights.bin").write_bytes(b"on")
    publish(registry, tmp_path / "a")
    assert in_force(registry) == b"one"


def test_damaged_artefact_is_not_installed(tmp_path: Path) -> None:
    make_artefact(tmp_path / "a", b"one")
    (tmp_path / "a" / "scorer/weights.bin").unlink()
    with pytest.raises(ArtefactError):
        install_artefact(tmp_path / "registry", tmp_path / "a")
    assert not (tmp_path / "registry").exists()


def test_version_that_is_not_there_is_not_put_in_force(tmp_path: Path) -> None:
    make_artefact(tmp_path / "a", b"one")
    publish(tmp_path / "registry", tmp_path / "a")
    with pytest.raises(ArtefactError, match="has no version 'abc'"):
        activate_artefact(tmp_path / "registry", "star", "abc")
    assert in_force(tmp_path / "registry") == b"one"


@pytest.mark.parametrize("pointer", [b"", b"..", b"../star", b"a/b", b"\xff\xfe", b"a\0b", b".incoming-x"])
def test_pointer_that_is_no_name_is_refused(tmp_path: Path, pointer: bytes) -> None:
    make_artefact(tmp_path / "a", b"one")
    publish(tmp_path / "registry", tmp_path / "a")
    (model_folder(tmp_path / "registry", "star") / "current").write_bytes(pointer)
    with pytest.raises(ArtefactError, match="names no version"):
        current_version(tmp_path / "registry", "star")


def snapshot_ref(snapshot_id: str) -> SnapshotRef:
    catalogue = Catalogue("items", ["x"]).ref()
    return SnapshotRef(snapshot_id=snapshot_id, at_ms=5, users_count=2, catalogue=catalogue)


def test_snapshot_reference_is_read_back(tmp_path: Path) -> None:
    assert read_snapshot_ref(tmp_path, "items") is None
    write_snapshot_ref(tmp_path, "items", snapshot_ref("s1"))
    write_snapshot_ref(tmp_path, "items", snapshot_ref("s2"))
    assert read_snapshot_ref(tmp_path, "items") == snapshot_ref("s2")


def test_torn_snapshot_reference_is_refused(tmp_path: Path) -> None:
    write_snapshot_ref(tmp_path, "items", snapshot_ref("s1"))
    (tmp_path / "snapshots" / "items" / "current").write_text('{"snapshot_id": "s')
    with pytest.raises(ArtefactError, match="is no snapshot reference"):
        read_snapshot_ref(tmp_path, "items")


def crash_everywhere(
    prepare: Callable[[Path], object],
    write: Callable[[Path], object],
    check: Callable[[Path], None],
    folders: Path,
) -> None:
    """Let `write` die in every possible way, each in a folder prepared for it, and `check` what is left."""
    prepare(folders / "whole")
    with process() as whole:
        write(folders / "whole")
    assert whole.calls_count > 1
    for number in range(1, whole.calls_count + 1):
        for after in (False, True):
            folder = folders / f"{number}-{after}"
            prepare(folder)
            with process(dies_at=number, after=after), pytest.raises(Crash):
                write(folder)
            check(folder)


def test_crash_at_any_point_of_publishing_leaves_the_old_artefact_whole(tmp_path: Path) -> None:
    make_artefact(tmp_path / "old", b"old")
    make_artefact(tmp_path / "new", b"new")
    seen: set[bytes] = set()

    def check(registry: Path) -> None:
        seen.add(in_force(registry))
        publish(registry, tmp_path / "new")
        assert in_force(registry) == b"new"

    crash_everywhere(
        lambda registry: publish(registry, tmp_path / "old"),
        lambda registry: publish(registry, tmp_path / "new"),
        check,
        tmp_path / "registries",
    )
    assert seen == {b"old", b"new"}


def test_crash_while_mending_never_leaves_half_a_version(tmp_path: Path) -> None:
    make_artefact(tmp_path / "a", b"one")

    def damaged(registry: Path) -> None:
        version = install_artefact(registry, tmp_path / "a").version
        (model_folder(registry, "star") / version / "scorer/weights.bin").write_bytes(b"on")

    def check(registry: Path) -> None:
        publish(registry, tmp_path / "a")
        assert in_force(registry) == b"one"

    crash_everywhere(
        damaged, lambda registry: install_artefact(registry, tmp_path / "a"), check, tmp_path / "registries"
    )


def test_crash_while_sealing_leaves_no_artefact_or_a_whole_one(tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        (folder / "scorer").mkdir(parents=True)
        (folder / "scorer/weights.bin").write_bytes(b"one")

    def check(folder: Path) -> None:
        if (folder / MANIFEST_FILE).exists():
            read_artefact(folder)
        else:
            with pytest.raises(ArtefactError, match="it is no artefact"):
                read_artefact(folder)

    crash_everywhere(prepare, lambda folder: seal_artefact(folder, manifest()), check, tmp_path)


def test_crash_leaves_the_old_catalogue_and_snapshot_reference_or_the_new(tmp_path: Path) -> None:
    def write(registry: Path, catalogue: Catalogue, ref: SnapshotRef) -> None:
        write_catalogue(registry / "catalogues" / "items", catalogue)
        write_snapshot_ref(registry, "items", ref)

    old = Catalogue("items", ["x"]), snapshot_ref("s1")
    new = Catalogue("items", ["x", "y"]), snapshot_ref("s2")

    def check(registry: Path) -> None:
        catalogue = read_catalogue(registry / "catalogues" / "items")
        assert catalogue.item_ids in (old[0].item_ids, new[0].item_ids)
        assert read_snapshot_ref(registry, "items") in (old[1], new[1])
        write(registry, *new)
        assert read_catalogue(registry / "catalogues" / "items").item_ids == new[0].item_ids

    crash_everywhere(
        lambda registry: write(registry, *old), lambda registry: write(registry, *new), check, tmp_path
    )
