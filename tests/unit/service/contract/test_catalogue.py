"""The catalogue: only ever appended to, and refused where it is not what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.catalogue import Catalogue, check_item_id, read_catalogue, write_catalogue
from service.contract.errors import CatalogueError


def test_ids_are_positions_plus_one_and_0_is_unknown() -> None:
    catalogue = Catalogue("items", ["x", "y"])
    assert catalogue.ids_of(["y", "x", "z", ""]) == [2, 1, 0, 0]
    assert catalogue.id_of("z") == 0


def test_repeated_item_is_refused() -> None:
    with pytest.raises(CatalogueError, match="twice"):
        Catalogue("items", ["x", "x"])


@given(st.lists(st.text(max_size=3), unique=True), st.lists(st.text(max_size=3)))
def test_extending_keeps_every_id(item_ids: list[str], more: list[str]) -> None:
    old = Catalogue("items", item_ids)
    new = old.extended(more)
    assert new.ids_of(item_ids) == old.ids_of(item_ids)
    assert all(new.id_of(item_id) > 0 for item_id in more)
    assert len(set(new.item_ids)) == len(new)
    new.check(old.ref())


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
