"""The catalogue: every item that ever was, one append-only list shared by all artefacts and the store.

Item `i` of the list has catalogue id `i + 1`; 0 is the unknown item. Because the list only grows, an id in
the store means the same item for every artefact, older or newer. Knows nothing of item features or rows.

    <folder>/<version>.txt   the list as people read it: a line an item, in order
    <folder>/<version>.ids   the hash table made of it, see id_table.py; made anew in memory where it is missing
    <folder>/current         the version in force, switched by atomic rename

A version is `<items>-<first 12 digits of the list's SHA-256>`. Its files are mapped, so that workers share their
memory: never write into one that is there, replace it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from service.contract.errors import CatalogueError
from service.contract.files import read_pointer, write_atomically
from service.contract.history import U32, UNKNOWN_ITEM
from service.contract.id_table import IdTable, build_id_table

CATALOGUE_FILE_SUFFIX = ".txt"
ID_TABLE_FILE_SUFFIX = ".ids"
ITEM_ID_BYTES_MAX = 256

_CHUNK_BYTES = 1 << 20


class CatalogueRef(BaseModel):
    """What an artefact says of the catalogue it was made with: its name, how long it was, and its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    items_count: int
    sha256: str


class Catalogue:
    """An ordered list of item ids and the look-up into it.

    Raises:
        CatalogueError: an id occurs twice, or a line of the file cannot hold it.
    """

    _table: IdTable | None = None

    def __init__(self, name: str, item_ids: Iterable[str]) -> None:
        self._hold(name, _lines_of(item_ids))
        self._table = self._made_table()

    @classmethod
    def of_lines(cls, name: str, lines: bytes | mmap) -> Catalogue:
        """Return the catalogue that a file holds, whose hash tells that it was made of a valid list."""
        catalogue = cls.__new__(cls)
        catalogue._hold(name, lines)
        return catalogue

    def _hold(self, name: str, lines: bytes | mmap) -> None:
        self.name = name
        self.lines = lines
        self._items_count = sum(int(np.count_nonzero(chunk)) for chunk in _line_ends(lines))
        self._sha256 = hashlib.sha256(lines)

    def __len__(self) -> int:
        return self._items_count

    @property
    def item_ids(self) -> tuple[str, ...]:
        """All item ids in order: decoded anew at each call."""
        return tuple(self.lines[:].decode().split("\n")[:-1])

    @property
    def version(self) -> str:
        """What the files of this state are called."""
        return f"{len(self)}-{self._sha256.hexdigest()[:12]}"

    @property
    def id_table(self) -> IdTable:
        """The table that ids are looked up in; made when first asked for, where none was given."""
        if self._table is None:
            self._table = self._made_table()
        return self._table

    def _made_table(self) -> IdTable:
        try:
            return IdTable(build_id_table(self.lines, len(self), self._sha256.digest()))
        except CatalogueError as error:
            raise CatalogueError(f"catalogue {self.name!r}: {error}") from error

    def use_id_table(self, image: bytes | mmap) -> None:
        """Look ids up in a table that was made before.

        Raises:
            CatalogueError: it was altered, or made of another list.
        """
        table = IdTable(image)
        if table.list_sha256 != self._sha256.digest():
            raise CatalogueError("it was made of another list")
        self._table = table

    def id_of(self, item_id: str) -> int:
        """Return the catalogue id of an item, UNKNOWN_ITEM where it is not listed."""
        return int(self.ids_of([item_id])[0])

    def ids_of(self, item_ids: Iterable[str]) -> U32:
        """Return the catalogue ids of many items, (N,), UNKNOWN_ITEM where one is not listed; of any text."""
        return self.id_table.ids_of(item_ids if isinstance(item_ids, list) else list(item_ids))

    def ref(self, items_count: int | None = None) -> CatalogueRef:
        """Return the reference to this catalogue, or to its first `items_count` items."""
        if items_count is None or items_count == len(self):
            return CatalogueRef(name=self.name, items_count=len(self), sha256=self._sha256.hexdigest())
        with memoryview(self.lines) as lines, lines[: _lines_bytes(self.lines, items_count)] as prefix:
            digest = hashlib.sha256(prefix)
        return CatalogueRef(name=self.name, items_count=items_count, sha256=digest.hexdigest())

    def check(self, ref: CatalogueRef) -> None:
        """Refuse an artefact that was made with another catalogue than this one or an earlier state of it.

        Raises:
            CatalogueError: the names differ, this one is shorter, or the common part is not equal.
        """
        if ref.name != self.name:
            raise CatalogueError(f"the artefact reads catalogue {ref.name!r}, the registry has {self.name!r}")
        if ref.items_count > len(self):
            raise CatalogueError(
                f"the artefact knows {ref.items_count} items of catalogue {self.name!r}, the registry lists "
                f"only {len(self)}: publish the catalogue of the newest artefact again"
            )
        if self.ref(ref.items_count).sha256 != ref.sha256:
            raise CatalogueError(
                f"the first {ref.items_count} items of catalogue {self.name!r} are not those the artefact "
                "was made with: a catalogue may only be appended to"
            )

    def extended(self, item_ids: Iterable[str]) -> Catalogue:
        """Return this catalogue with the ids that it lacks appended, in the order given."""
        asked = list(dict.fromkeys(item_ids))
        new = [asked[i] for i in np.flatnonzero(self.ids_of(asked) == UNKNOWN_ITEM)]
        return Catalogue.of_lines(self.name, self.lines[:] + _lines_of(new)) if new else self


def check_item_id(item_id: str) -> None:
    """Refuse ids that a line of the catalogue file cannot hold.

    Raises:
        CatalogueError: empty, over ITEM_ID_BYTES_MAX bytes, or with a control character.
    """
    if not item_id or not item_id.isprintable() or len(item_id.encode()) > ITEM_ID_BYTES_MAX:
        raise CatalogueError(
            f"item id {item_id[:40]!r}: expected 1 to {ITEM_ID_BYTES_MAX} bytes of printable text"
        )


def write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Write a catalogue beside its earlier states and switch the pointer to it.

    Raises:
        CatalogueError: the current catalogue is no prefix of this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "current").exists():
        catalogue.check(read_catalogue(folder).ref())
    write_atomically(folder / f"{catalogue.version}{CATALOGUE_FILE_SUFFIX}", catalogue.lines)
    _write_id_table(folder, catalogue)
    write_atomically(folder / "current", catalogue.version.encode())


def grow_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Make a folder's catalogue list at least the items of this one, under the same ids.

    Where it does already, however long it has grown since, nothing is written but a table that is missing.

    Raises:
        CatalogueError: neither is a prefix of the other.
    """
    if (folder / "current").exists():
        live = read_catalogue(folder)
        if len(live) >= len(catalogue):
            live.check(catalogue.ref())
            if not (folder / f"{live.version}{ID_TABLE_FILE_SUFFIX}").exists():
                _write_id_table(folder, live)
            return
    write_catalogue(folder, catalogue)


def catalogue_bytes(catalogue: Catalogue) -> bytes:
    """Return a catalogue as a file holds it: a line an item, in order."""
    return catalogue.lines[:]


def catalogue_of_bytes(name: str, body: bytes) -> Catalogue:
    """Return the catalogue in a file; whether it is the one expected is for the caller to check."""
    return Catalogue.of_lines(name, body[: body.rfind(b"\n") + 1])


def read_catalogue(folder: Path) -> Catalogue:
    """Open the current catalogue of a folder named after it.

    A version without a table, as older releases wrote them, gets one in this process's own memory when the first id is
    looked up; publishing again writes it.

    Raises:
        CatalogueError: there is none, its list is not what its name says, or its table is not what was made of that.
    """
    try:
        version = read_pointer(folder / "current")
        lines = _mapped(folder / f"{version}{CATALOGUE_FILE_SUFFIX}")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unreadable"
        raise CatalogueError(f"no catalogue at {folder}: {reason}. Publish an artefact first") from error
    catalogue = Catalogue.of_lines(folder.name, lines)
    if version != catalogue.version or lines[-1:] not in (b"", b"\n"):
        raise CatalogueError(f"catalogue {folder}/{version} was altered: its content does not match its name")
    table = folder / f"{version}{ID_TABLE_FILE_SUFFIX}"
    if table.exists():
        try:
            catalogue.use_id_table(_mapped(table))
        except (OSError, CatalogueError) as error:
            raise CatalogueError(
                f"the table {table} cannot be read: {error}. Delete it and publish again"
            ) from error
    return catalogue


def _write_id_table(folder: Path, catalogue: Catalogue) -> None:
    write_atomically(folder / f"{catalogue.version}{ID_TABLE_FILE_SUFFIX}", catalogue.id_table.image)


def _mapped(path: Path) -> bytes | mmap:
    """Return what a file holds, mapped; an empty file cannot be."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ) if os.fstat(file.fileno()).st_size else b""


def _lines_of(item_ids: Iterable[str]) -> bytes:
    """Return ids as a file holds them.

    Raises:
        CatalogueError: a line cannot hold one of them.
    """
    listed = list(item_ids)
    for item_id in listed:
        check_item_id(item_id)
    return "\n".join([*listed, ""]).encode()


def _line_ends(lines: bytes | mmap) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield which bytes end a line, piece by piece."""
    content = np.frombuffer(lines, np.uint8)
    for start in range(0, len(content), _CHUNK_BYTES):
        yield content[start : start + _CHUNK_BYTES] == ord("\n")


def _lines_bytes(lines: bytes | mmap, count: int) -> int:
    """Return how many bytes the first `count` lines take."""
    passed_bytes = 0
    for ends in _line_ends(lines):
        here = int(np.count_nonzero(ends))
        if count <= here:
            return passed_bytes + (int(np.flatnonzero(ends)[count - 1]) + 1 if count else 0)
        count -= here
        passed_bytes += len(ends)
    return passed_bytes
