"""The hash table from item ids to catalogue ids: one block of bytes, mapped from a file and shared by all workers.

Little-endian. A header of 128 bytes, then displacements, then slots from the next multiple of 64:

    at 0     magic   b"TWINIDS1"; the last character is the version of the format
       8     SHA-256 of all that follows
       40    SHA-256 of the list that the table was made of, as its file holds it
       72    uint32  items, slots, groups (a power of two), words of a slot, seed, bytes of the longest id
    at 128   uint16  a displacement for each group
    then     uint64  (slots, words): an item's key, and its catalogue id in the upper half of the last word

The key of an id is its bytes, padded with zeros; printable text has none. An id too long for that has the byte 0xff,
which no text holds, and a BLAKE2b of 88 bits or more. So an id that fits is found by its own bytes alone, and for a
longer one the chance that a stranger is taken for it is below 2^-87.

The table is a perfect hash (after CHD, Belazzougui, Botelho, Dietzfelbinger 2009). The upper bits of a key's hash name
its group; hash times displacement of the group, modulo 2^64, its upper 32 bits scaled to the slots, is the slot: each
key has one of its own, so that there is one place to look. Differs: all groups of a size are placed at once. A look-up
is a fixed, short row of NumPy calls. Knows nothing of files and of catalogues' names and states.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from mmap import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from service.contract.errors import CatalogueError
from service.contract.history import U8, U16, U32, U64

MAGIC: Final = b"TWINIDS1"
HEADER_BYTES: Final = 128
_SEALED_AT: Final = 40
_HEADER: Final = struct.Struct("<8s32s32s6I")
_ALIGNED_BYTES: Final = 64

SLOT_WORDS_RANGE: Final = (2, 5)
"""Slots of 16 to 40 bytes hold ids of up to 12 to 36 bytes."""
FITTING_SHARE: Final = 0.99
"""Slots are as wide as this share of a list's ids needs; what is longer has a digest."""
LOAD_FACTOR: Final = 0.8
SPARE_SLOTS_COUNT: Final = 16
"""Beyond the load factor, so that a list of a few items finds places soon too."""
GROUP_KEYS_COUNT: Final = 5
"""Keys of a group on average, at most."""
DISPLACEMENTS: Final = (np.arange(1, 2**16, 2) * 0x9E3B % 2**16).astype(np.uint16)
"""Every odd number below 2^16, in the order in which a group tries them."""
SEEDS_COUNT: Final = 8

_BATCH_COUNT: Final = 8192
_CHUNK_BYTES: Final = 1 << 20
_NEWLINE: Final = 10
_DIGEST_MARK: Final = b"\xff"
_HALF: Final = np.uint64(32)


class IdTable:
    """A table as it lies in memory or in a mapped file.

    Args:
        image: the whole of a table, as `build_id_table` returns it.

    Raises:
        CatalogueError: it is not whole, was altered, or is of a format not known here.
    """

    def __init__(self, image: bytes | bytearray | mmap) -> None:
        if image[: len(MAGIC)] != MAGIC:
            raise CatalogueError(f"it is no table of the format {MAGIC.decode()}")
        with memoryview(image) as whole:
            if len(image) < HEADER_BYTES or _digest(whole[_SEALED_AT:]) != image[len(MAGIC) : _SEALED_AT]:
                raise CatalogueError("its content is not what was written")
        self.image = image
        _, _, self.list_sha256, *numbers = _HEADER.unpack_from(image)
        self.items_count, slots_count, groups_count, words, seed, longest_bytes = numbers
        slots_at, _ = _layout(slots_count, groups_count, words)
        self._displacements: U16 = np.ndarray(groups_count, "<u2", image, HEADER_BYTES)
        # A slot is taken as one value: NumPy gathers values several times as fast as rows.
        self._slots = np.ndarray(slots_count, f"V{8 * words}", image, slots_at)
        self._slots_count = np.uint64(slots_count)
        self._shift = _group_shift(groups_count)
        self._multipliers = _multipliers(seed, words)
        self._masks = _masks(words)
        self._digests = longest_bytes > _key_bytes(words)

    def ids_of(self, item_ids: Sequence[str]) -> U32:
        """Return the catalogue id of each item id, 0 where it is not listed, (N,). Any text may be asked for."""
        if len(item_ids) <= _BATCH_COUNT:
            return self._ids_of_batch(item_ids)
        batches = (item_ids[i : i + _BATCH_COUNT] for i in range(0, len(item_ids), _BATCH_COUNT))
        return np.concatenate([self._ids_of_batch(batch) for batch in batches])

    def _ids_of_batch(self, item_ids: Sequence[str]) -> U32:
        if not item_ids or not self.items_count:
            return np.zeros(len(item_ids), np.uint32)
        joined = "\n".join(item_ids)
        keys = self._keys_of(joined)
        if len(keys) != len(item_ids) or "\0" in joined:
            # A newline was read as the end of an id, or zeros as its padding. What is not printable is not listed.
            keys = self._keys_of("\n".join(i if i.isprintable() else "" for i in item_ids))
        hashes = _hashes_of(keys, self._multipliers)
        displacements = self._displacements.take((hashes >> self._shift).view(np.int64))
        place = _slots_of(hashes, displacements, self._slots_count)
        found = self._slots.take(place).view("<u8").reshape(keys.shape)
        found ^= keys  # of the key's own slot, its catalogue id remains
        differs = found[:, -1] << _HALF
        for column in range(keys.shape[1] - 1):
            differs |= found[:, column]
        ids: U32 = found.view("<u4")[:, -1] * (differs == 0)
        return ids

    def _keys_of(self, joined: str) -> U64:
        lines = _enclosed(joined.encode(errors="surrogatepass") + b"\n", self._masks)
        return _keys_of(lines, self._masks, digests=self._digests)


def build_id_table(lines: bytes | mmap, items_count: int, list_sha256: bytes) -> bytearray:
    """Return the table of a list of ids that each end with a newline: item `i` has catalogue id `i + 1`.

    Takes about 30 bytes of memory an item beside the list and the result.

    Raises:
        CatalogueError: an id occurs twice.
    """
    words, longest_bytes = _slot_words(lines)
    masks, digests = _masks(words), longest_bytes > _key_bytes(words)
    slots_count, groups_count = int(items_count / LOAD_FACTOR) + SPARE_SLOTS_COUNT, 2
    while groups_count * GROUP_KEYS_COUNT < items_count:
        groups_count *= 2

    def keys_by_rows() -> Iterator[tuple[slice, U64]]:
        done = 0
        for chunk in _chunks(lines):
            keys = _keys_of(_enclosed(chunk, masks), masks, digests=digests)
            yield slice(done, done + len(keys)), keys
            done += len(keys)

    hashes = np.empty(items_count, np.uint64)
    for seed in range(SEEDS_COUNT):
        multipliers = _multipliers(seed, words)
        for rows, keys in keys_by_rows():
            hashes[rows] = _hashes_of(keys, multipliers)
        placed = _placed(hashes, groups_count, slots_count)
        if placed is not None:
            break
        _refuse_repeated(hashes, keys_by_rows())
    else:
        raise CatalogueError(
            f"none of {SEEDS_COUNT} seeds gives each of {items_count} item ids a hash of its own"
        )
    displacements, places = placed
    slots_at, image_bytes = _layout(slots_count, groups_count, words)
    image = bytearray(image_bytes)
    np.ndarray(groups_count, "<u2", image, HEADER_BYTES)[:] = displacements
    slots: U64 = np.ndarray((slots_count, words), "<u8", image, slots_at)
    ids = np.arange(1, items_count + 1, dtype=np.uint64) << _HALF
    for rows, keys in keys_by_rows():
        keys[:, -1] |= ids[rows]
        slots[places[rows]] = keys
    numbers = (items_count, slots_count, groups_count, words, seed, longest_bytes)
    _HEADER.pack_into(image, 0, MAGIC, b"", list_sha256, *numbers)
    with memoryview(image) as whole:
        image[len(MAGIC) : _SEALED_AT] = _digest(whole[_SEALED_AT:])
    return image


def _placed(hashes: U64, groups_count: int, slots_count: int) -> tuple[U16, U32] | None:
    """Return each group's displacement and each key's slot, (N,); None where a group finds no place.

    Largest groups first, since theirs are the hardest to place. All groups of a size try a displacement together;
    where two want a slot, whoever wrote its name there last has it, and the other tries the next displacement.
    """
    order = np.argsort(hashes)
    ordered = hashes[order]
    if (ordered[1:] == ordered[:-1]).any():
        return None
    sizes = np.bincount((ordered >> _group_shift(groups_count)).view(np.int64), minlength=groups_count)
    first = np.cumsum(sizes) - sizes
    displacements = np.ones(groups_count, np.uint16)
    places = np.empty(len(hashes), np.uint32)
    taken = np.zeros(slots_count, np.bool_)
    name = np.zeros(slots_count, np.uint32)
    for size in range(int(sizes.max()), 0, -1):
        groups = np.flatnonzero(sizes == size)
        for displacement in DISPLACEMENTS:
            if not len(groups):
                break
            rows = first[groups, None] + np.arange(size)  # (groups, size)
            wanted = _slots_of(ordered[rows], displacement, np.uint64(slots_count))
            in_order = np.sort(wanted, axis=1)
            wins = ~taken[wanted].any(1) & (in_order[:, 1:] != in_order[:, :-1]).all(1)
            tries = np.flatnonzero(wins)
            name[wanted[tries]] = groups[tries, None]
            wins[tries] = (name[wanted[tries]] == groups[tries, None]).all(1)
            taken[wanted[wins]] = True
            displacements[groups[wins]] = displacement
            places[order[rows[wins]]] = wanted[wins]
            groups = groups[~wins]
        if len(groups):
            return None
    return displacements, places


def _refuse_repeated(hashes: U64, keys_by_rows: Iterator[tuple[slice, U64]]) -> None:
    """Refuse a list in which two ids of equal hash have the same key."""
    values, counts = np.unique(hashes, return_counts=True)
    suspects = np.isin(hashes, values[counts > 1])
    seen: set[bytes] = set()
    for rows, keys in keys_by_rows:
        for key in keys[suspects[rows]]:
            if key.tobytes() in seen:
                raise CatalogueError("an item id occurs twice")
            seen.add(key.tobytes())


def _keys_of(lines: bytes, masks: npt.NDArray[np.void], *, digests: bool) -> U64:
    """Return the keys of enclosed lines, (N, words). Without `digests`, an id too long has the key of no id."""
    key_bytes = _key_bytes(masks.itemsize // 8)
    ends = (np.frombuffer(lines, np.uint8) == _NEWLINE).nonzero()[0]
    starts = ends[:-1]  # of the newline before each
    lengths = ends[1:] - starts  # with one newline
    raw: npt.NDArray[np.void] = np.ndarray(len(lines) - masks.itemsize, masks.dtype, lines, 1, (1,))
    keys: U64 = raw[starts].view("<u8").reshape(len(starts), -1)
    keys &= masks.take(lengths, mode="clip").view("<u8").reshape(keys.shape)
    if digests:
        for row in np.flatnonzero(lengths > key_bytes + 1):
            item_id = lines[starts[row] + 1 : ends[row + 1]]
            digest = hashlib.blake2b(item_id, digest_size=key_bytes - len(_DIGEST_MARK)).digest()
            keys[row] = np.frombuffer((_DIGEST_MARK + digest).ljust(masks.itemsize, b"\0"), "<u8")
    return keys


def _hashes_of(keys: U64, multipliers: U64) -> U64:
    """Return the hash of each key, (N,): word by word, multiplied, its upper half folded onto the lower."""
    hashes: U64 = keys[:, 0] * multipliers[0]
    for column in range(1, len(multipliers)):
        hashes ^= hashes >> _HALF
        hashes += keys[:, column]
        hashes *= multipliers[column]
    return hashes


def _slots_of(hashes: U64, displacements: U16 | np.uint16, slots_count: np.uint64) -> npt.NDArray[np.int64]:
    """Return the slot that each hash has under a displacement."""
    places = hashes * displacements
    places >>= _HALF
    places *= slots_count
    places >>= _HALF
    return places.view(np.int64)


def _multipliers(seed: int, words: int) -> U64:
    """Return odd numbers, one a word, that a seed names (SplitMix64)."""
    made = []
    for number in range(seed * SLOT_WORDS_RANGE[1] + 1, seed * SLOT_WORDS_RANGE[1] + 1 + words):
        state = number * 0x9E3779B97F4A7C15 % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        made.append((state ^ state >> 31) | 1)
    return np.array(made, np.uint64)


def _group_shift(groups_count: int) -> np.uint64:
    """Return how far to shift a hash for its group."""
    return np.uint64(64 - (groups_count.bit_length() - 1))


def _masks(words: int) -> npt.NDArray[np.void]:
    """Return what of a line's first words belongs to its id, by its length with the newline; the last is nothing."""
    key_bytes = _key_bytes(words)
    lengths = np.append(np.arange(-1, key_bytes + 1), 0)
    belongs: U8 = np.where(np.arange(8 * words) < lengths[:, None], 0xFF, 0).astype(np.uint8)
    return belongs.view(f"V{8 * words}").ravel()


def _key_bytes(words: int) -> int:
    """Return how long a key is: the rest of a slot holds the catalogue id."""
    return 8 * words - 4


def _slot_words(lines: bytes | mmap) -> tuple[int, int]:
    """Return how wide slots are to be for a list, and the bytes of its longest id."""
    counts = np.zeros(1, np.int64)  # of ids of each length
    for chunk in _chunks(lines):
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)
        more = np.bincount(np.diff(ends, prepend=-1) - 1, minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    at_most = np.cumsum(counts)
    fitting_bytes = int(np.searchsorted(at_most, FITTING_SHARE * at_most[-1]))
    words = -(-(fitting_bytes + 4) // 8)
    return min(max(words, SLOT_WORDS_RANGE[0]), SLOT_WORDS_RANGE[1]), len(counts) - 1


def _chunks(lines: bytes | mmap) -> Iterator[bytes]:
    """Yield a list piece by piece, each of whole lines."""
    start = 0
    while start < len(lines):
        end = min(start + _CHUNK_BYTES, len(lines))
        end = lines.rfind(b"\n", start, end) + 1
        yield bytes(lines[start:end])
        start = end


def _enclosed(lines: bytes, masks: npt.NDArray[np.void]) -> bytes:
    """Return lines with a newline before the first, and behind the last what a reader of words may run into."""
    return b"\n" + lines + bytes(masks.itemsize)


def _layout(slots_count: int, groups_count: int, words: int) -> tuple[int, int]:
    """Return where the slots begin, and the size of the whole."""
    slots_at = -(-(HEADER_BYTES + 2 * groups_count) // _ALIGNED_BYTES) * _ALIGNED_BYTES
    return slots_at, slots_at + 8 * words * slots_count


def _digest(content: memoryview) -> bytes:
    with content:
        return hashlib.sha256(content).digest()
