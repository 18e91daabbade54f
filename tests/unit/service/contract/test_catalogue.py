"""The catalogue: only ever appended to, and refused where it is not what its name says."""

from __future__ import annotations

import hashlib
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.catalogue import (
    Catalogue,
    catalogue_bytes,
    catalogue_of_bytes,
    check_item_id,
    grow_catalogue,
    read_catalogue,
    write_catalogue,
)
from service.contract.errors import CatalogueError

item_ids_of_a_line = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=3)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_ids_are_positions_plus_one_and_0_is_unknown() -> None:
    catalogue = Catalogue("items", ["x", "y"])
    assert catalogue.ids_of(["y", "x", "z", ""]).tolist() == [2, 1, 0, 0]
    assert catalogue.id_of("z") == 0


def test_repeated_item_is_refused() -> None:
    with pytest.raises(CatalogueError, match="twice"):
        Catalogue("items", ["x", "x"])


@settings(deadline=None)
@given(st.lists(item_ids_of_a_line, unique=True), st.lists(item_ids_of_a_line))
def test_extending_keeps_every_id(item_ids: list[str], more: list[str]) -> None:
    old = Catalogue("items", item_ids)
    new = old.extended(more)
    assert new.ids_of(item_ids).tolist() == old.ids_of(item_ids).tolist() == [*range(1, len(old) + 1)]
    assert new.item_ids == tuple(dict.fromkeys([*item_ids, *more]))
    assert new.ids_of(new.item_ids).tolist() == [*range(1, len(new) + 1)]
    assert len(set(new.item_ids)) == len(new)
    new.check(old.ref())


@settings(deadline=None)
@given(st.lists(item_ids_of_a_line, unique=True), st.data())
def test_reference_to_the_first_items_is_that_of_their_own_catalogue(
    item_ids: list[str], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(item_ids)))
    lines = "".join(f"{item_id}\n" for item_id in item_ids[:count]).encode()
    ref = Catalogue("items", item_ids).ref(count)
    assert (ref.name, ref.items_count, ref.sha256) == ("items", count, hashlib.sha256(lines).hexdigest())


def test_reference_to_the_first_items_of_a_list_that_is_read_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item_ids = [str(number) for number in range(200)]
    expected = [Catalogue("items", item_ids[:count]).ref() for count in range(201)]
    monkeypatch.setattr("service.contract.catalogue._CHUNK_BYTES", 7)
    catalogue = Catalogue("items", item_ids)
    assert len(catalogue) == 200
    assert [catalogue.ref(count) for count in range(201)] == expected


def test_same_and_longer_catalogues_pass_the_check() -> None:
    ref = Catalogue("items", ["x", "y"]).ref()
    Catalogue("items", ["x", "y"]).check(ref)
    Catalogue("items", ["x", "y", "z"]).check(ref)


@pytest.mark.parametrize(
    ("name", "item_ids", "reason"),
    [
        ("other", ["x", "y"], "reads catalogue 'items', the registry has 'other'"),
        ("items", ["x"], "knows 2 items of catalogue 'items', the registry lists only 1"),
        ("items", ["y", "x"], "may only be appended to"),
        ("items", ["x", "Y", "z"], "may only be appended to"),
    ],
)
def test_another_catalogue_is_refused(name: str, item_ids: list[str], reason: str) -> None:
    with pytest.raises(CatalogueError, match=reason):
        Catalogue(name, item_ids).check(Catalogue("items", ["x", "y"]).ref())


def test_ids_that_join_to_the_same_text_have_different_hashes() -> None:
    assert Catalogue("items", ["ab", "c"]).ref() != Catalogue("items", ["a", "bc"]).ref()


def test_written_catalogue_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    for item_ids in (["x", " y ", "ß", "1082185"], ["x", " y ", "ß", "1082185", "new"]):
        write_catalogue(folder, Catalogue("items", item_ids))
        assert read_catalogue(folder).item_ids == tuple(item_ids)


def test_empty_catalogue_is_read_back(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "items", Catalogue("items", []))
    assert len(read_catalogue(tmp_path / "items")) == 0


@pytest.mark.parametrize("item_ids", [["x"], ["y", "x", "z"], ["x", "Y", "z"]])
def test_writing_what_does_not_extend_the_current_one_is_refused(tmp_path: Path, item_ids: list[str]) -> None:
    folder = tmp_path / "items"
    write_catalogue(folder, Catalogue("items", ["x", "y"]))
    with pytest.raises(CatalogueError):
        write_catalogue(folder, Catalogue("items", item_ids))
    assert read_catalogue(folder).item_ids == ("x", "y")


@pytest.mark.parametrize(
    "body", [b"", b"x\n", b"y\nx\n", b"x\ny", b"x\ny\nz\n", b"x\nx\n", b"\xff\xfe\n", b"x\ny\n\n"]
)
def test_altered_file_is_refused(tmp_path: Path, body: bytes) -> None:
    folder = tmp_path / "items"
    write_catalogue(folder, Catalogue("items", ["x", "y"]))
    (file,) = folder.glob("*.txt")
    file.write_bytes(body)
    with pytest.raises(CatalogueError, match=r"altered|twice"):
        read_catalogue(folder)


def test_list_without_its_last_line_end_is_refused_even_under_its_own_hash(tmp_path: Path) -> None:
    body = b"x\ny"
    version = f"1-{hashlib.sha256(body).hexdigest()[:12]}"
    (tmp_path / f"{version}.txt").write_bytes(body)
    (tmp_path / "current").write_text(version)
    with pytest.raises(CatalogueError, match="altered"):
        read_catalogue(tmp_path)


def test_ids_are_looked_up_in_the_mapped_file(tmp_path: Path) -> None:
    """Memory of the file's own: a worker that made the table itself would hold it alone."""
    write_catalogue(tmp_path / "items", Catalogue("items", ["x", "y"]))
    catalogue = read_catalogue(tmp_path / "items")
    assert isinstance(catalogue.id_table.image, mmap) and isinstance(catalogue.lines, mmap)
    assert catalogue.ids_of(["y", "z", "x"]).tolist() == [2, 0, 1]


def test_states_stand_beside_each_other_with_equal_ids(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    old = [str(number) for number in range(1000)]
    write_catalogue(folder, Catalogue("items", old))
    before, older = files_of(folder), read_catalogue(folder)
    write_catalogue(folder, older.extended(["new", *old, "newer", "new"]))
    after, newer = files_of(folder), read_catalogue(folder)
    assert len(before) == 3 and len(after) == 5
    assert all(after[name] == content for name, content in before.items() if name != "current")
    assert newer.ids_of([*old, "new", "newer"]).tolist() == [*range(1, 1003)]
    np.testing.assert_array_equal(older.ids_of([*old, "new"]), [*range(1, 1001), 0])


def test_state_without_a_table_is_opened_and_gets_one_when_it_is_published_again(tmp_path: Path) -> None:
    """As a release before there were tables left it."""
    folder = tmp_path / "items"
    write_catalogue(folder, Catalogue("items", ["x", "y"]))
    whole = files_of(folder)
    next(folder.glob("*.ids")).unlink()
    assert read_catalogue(folder).ids_of(["y", "z"]).tolist() == [2, 0]
    assert len(files_of(folder)) == 2
    grow_catalogue(folder, Catalogue("items", ["x"]))
    assert files_of(folder) == whole


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"", "no table of the format"),
        (b"TWINIDS2", "no table of the format TWINIDS1"),
        (b"TWINIDS1" + bytes(120), "not what was written"),
        (bytes(Catalogue("items", ["x", "z"]).id_table.image), "made of another list"),
    ],
)
def test_altered_table_is_refused(tmp_path: Path, table: bytes, reason: str) -> None:
    folder = tmp_path / "items"
    write_catalogue(folder, Catalogue("items", ["x", "y"]))
    whole = files_of(folder)
    (file,) = folder.glob("*.ids")
    file.write_bytes(table)
    with pytest.raises(
        CatalogueError, match=rf"{file.name} cannot be read: .*{reason}.*Delete it and publish again"
    ):
        read_catalogue(folder)
    file.unlink()
    grow_catalogue(folder, Catalogue("items", ["x", "y"]))
    assert files_of(folder) == whole


@pytest.mark.parametrize("body", [b"", b"x\n", "ß\ny\n".encode()])
def test_bytes_of_a_catalogue_are_its_file(body: bytes) -> None:
    assert catalogue_bytes(catalogue_of_bytes("items", body)) == body


@pytest.mark.parametrize("pointer", [b"", b"../items", b"2-none", b"\xff", b".", b"a\0b", b"a/b"])
def test_pointer_to_nothing_is_refused(tmp_path: Path, pointer: bytes) -> None:
    folder = tmp_path / "items"
    write_catalogue(folder, Catalogue("items", ["x", "y"]))
    (folder / "current").write_bytes(pointer)
    with pytest.raises(CatalogueError, match="no catalogue at"):
        read_catalogue(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="Publish an artefact first"):
        read_catalogue(tmp_path / "items")


@pytest.mark.parametrize("item_id", ["", "a\nb", "a\x00", "\ud800", "\u2028", "é" * 129, "x" * 257])
def test_ids_that_a_line_cannot_hold_are_refused(tmp_path: Path, item_id: str) -> None:
    with pytest.raises(CatalogueError, match="item id"):
        check_item_id(item_id)
    with pytest.raises(CatalogueError, match="item id"):
        write_catalogue(tmp_path / "items", Catalogue("items", ["x", item_id]))
    assert not (tmp_path / "items").exists()


@pytest.mark.parametrize("item_id", ["1082185", "é" * 128, "x" * 256, "{a}:b c", "#"])
def test_ids_that_a_line_holds_are_accepted(item_id: str) -> None:
    check_item_id(item_id)
