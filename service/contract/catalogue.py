"""The catalogue: every item that ever was, one append-only list shared by all artefacts and the store.

Item `i` of the list has catalogue id `i + 1`; 0 is the unknown item. Because the list only grows, an id in
the store means the same item for every artefact, older or newer. Knows nothing of item features or rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from service.contract.errors import CatalogueError
from service.contract.files import read_pointer, write_atomically
from service.contract.history import UNKNOWN_ITEM

CATALOGUE_FILE_SUFFIX = ".txt"
ITEM_ID_BYTES_MAX = 256


class CatalogueRef(BaseModel):
    """What an artefact says of the catalogue it was made with: its name, how long it was, and its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    items_count: int
    sha256: str


class Catalogue:
    """An ordered list of item ids and the look-up into it."""

    def __init__(self, name: str, item_ids: Sequence[str]) -> None:
        self.name = name
        self.item_ids = tuple(item_ids)
        self._ids = {item_id: i + 1 for i, item_id in enumerate(self.item_ids)}
        if len(self._ids) != len(self.item_ids):
            raise CatalogueError(f"catalogue {name!r}: an item id occurs twice")

    def __len__(self) -> int:
        return len(self.item_ids)

    def id_of(self, item_id: str) -> int:
        """Return the catalogue id of an item, UNKNOWN_ITEM where it is not listed."""
        return self._ids.get(item_id, UNKNOWN_ITEM)

    def ids_of(self, item_ids: Iterable[str]) -> list[int]:
        """Return the catalogue ids of many items."""
        get = self._ids.get
        return [get(item_id, UNKNOWN_ITEM) for item_id in item_ids]

    def ref(self, items_count: int | None = None) -> CatalogueRef:
        """Return the reference to this catalogue, or to its first `items_count` items."""
        count = len(self) if items_count is None else items_count
        digest = hashlib.sha256()
        for item_id in self.item_ids[:count]:
            digest.update(item_id.encode() + b"\n")
        return CatalogueRef(name=self.name, items_count=count, sha256=digest.hexdigest())

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
        new = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in self._ids]
        return Catalogue(self.name, (*self.item_ids, *new))


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
        CatalogueError: an id cannot be written, or the current catalogue is no prefix of this one.
    """
    for item_id in catalogue.item_ids:
        check_item_id(item_id)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "current").exists():
        catalogue.check(read_catalogue(folder).ref())
    version = f"{len(catalogue)}-{catalogue.ref().sha256[:12]}"
    write_atomically(folder / f"{version}{CATALOGUE_FILE_SUFFIX}", catalogue_bytes(catalogue))
    write_atomically(folder / "current", version.encode())


def grow_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Make a folder's catalogue list at least the items of this one, under the same ids.

    Nothing is written where it does already, however long it has grown since.

    Raises:
        CatalogueError: neither is a prefix of the other, or an id cannot be written.
    """
    if (folder / "current").exists():
        live = read_catalogue(folder)
        if len(live) >= len(catalogue):
            live.check(catalogue.ref())
            return
    write_catalogue(folder, catalogue)


def catalogue_bytes(catalogue: Catalogue) -> bytes:
    """Return a catalogue as a file holds it: a line an item, in order."""
    return "".join(f"{item_id}\n" for item_id in catalogue.item_ids).encode()


def catalogue_of_bytes(name: str, body: bytes) -> Catalogue:
    """Return the catalogue in a file; whether it is the one expected is for the caller to check."""
    return Catalogue(name, body.decode(errors="replace").split("\n")[:-1])


def read_catalogue(folder: Path) -> Catalogue:
    """Read the current catalogue of a folder named after it.

    Raises:
        CatalogueError: there is none, or its file is not what its name says.
    """
    try:
        version = read_pointer(folder / "current")
        body = (folder / f"{version}{CATALOGUE_FILE_SUFFIX}").read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unreadable"
        raise CatalogueError(f"no catalogue at {folder}: {reason}. Publish an artefact first") from error
    catalogue = catalogue_of_bytes(folder.name, body)
    if version != f"{len(catalogue)}-{catalogue.ref().sha256[:12]}":
        raise CatalogueError(f"catalogue {folder}/{version} was altered: its content does not match its name")
    return catalogue
