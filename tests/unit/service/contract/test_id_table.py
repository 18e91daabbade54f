"""The table of catalogue ids: a dict in every answer, its bytes as documented, and refused where they were altered."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.contract import id_table
from service.contract.errors import CatalogueError
from service.contract.id_table import IdTable, build_id_table
from tests.unit.service.contract.made import golden_bytes

GOLDEN_IDS = ("1082185", "7", "ß", " a b ", "exactly-12-b", "thirteen-byte", "x" * 256)
WORD_BITS = 2**64 - 1

printable = st.characters(exclude_categories=("C", "Z"))
near_duplicates = st.text(alphabet="ab ", min_size=1, max_size=4)
long_ids = st.builds(
    lambda head, count, tail: head + "." * count + tail,
    st.sampled_from(["", "a", "b"]),
    st.sampled_from([10, 11, 12, 18, 19, 20, 34, 35, 36, 200, 253]),
    st.sampled_from(["", "a", "b", " "]),
)
item_ids = st.one_of(
    st.integers(0, 10**20).map(str), st.text(printable, min_size=1, max_size=64), near_duplicates, long_ids
)
anything = st.one_of(
    st.text(st.characters(), max_size=20),
    st.sampled_from(["", "\0", "\n", "\ud800", "a\n", "\na", "a\nb", "a\0", "\xff", "a" * 10_000]),
)


def table_of(listed: Sequence[str]) -> IdTable:
    return IdTable(image_of(listed))


def image_of(listed: Sequence[str]) -> bytes:
    lines = "".join(f"{item_id}\n" for item_id in listed).encode()
    return bytes(build_id_table(lines, len(listed), hashlib.sha256(lines).digest()))


def dict_ids(listed: Sequence[str], asked: Sequence[str]) -> list[int]:
    known = {item_id: i + 1 for i, item_id in enumerate(listed)}
    return [known.get(item_id, 0) for item_id in asked]


def slow_hash(key: bytes, seed: int) -> int:
    """Return a key's hash, word by word in whole numbers."""
    hashed = 0
    for number, (word,) in enumerate(struct.iter_unpack("<Q", key), 1):
        state = (seed * 5 + number) * 0x9E3779B97F4A7C15 & WORD_BITS
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & WORD_BITS
        state = (state ^ state >> 27) * 0x94D049BB133111EB & WORD_BITS
        hashed = ((hashed ^ hashed >> 32) + word) * (state ^ state >> 31 | 1) & WORD_BITS
    return hashed


def slow_id(image: bytes, item_id: str) -> int:
    """Look an id up by the format's description alone."""
    slots, groups, words, seed = struct.unpack_from("<4I", image, 76)
    size = 8 * words - 4
    key = item_id.encode()
    if len(key) > size:
        key = b"\xff" + hashlib.blake2b(key, digest_size=size - 1).digest()
    hashed = slow_hash(key.ljust(8 * words, b"\0"), seed)
    (displacement,) = struct.unpack_from("<H", image, 128 + 2 * (hashed * groups >> 64))
    slot = ((hashed * displacement & WORD_BITS) >> 32) * slots >> 32
    at = (128 + 2 * groups + 63) // 64 * 64 + slot * 8 * words
    (catalogue_id,) = struct.unpack_from("<I", image, at + size)
    return catalogue_id if image[at : at + size] == key.ljust(size, b"\0") else 0


@settings(deadline=None)
@given(st.lists(item_ids, unique=True, max_size=60), st.lists(st.one_of(item_ids, anything), max_size=30))
@example(["a", "a ", " a", "aa", "aaa"], ["a\0", "a", "a\0\0", "a ", "\0a"])
@example(["a", "b"], ["a\nb", "b"])
@example(["." * 12, "." * 13, "." * 256], ["." * 11, "." * 257, "." * 10_000])
def test_ids_are_those_of_a_dict(listed: list[str], others: list[str]) -> None:
    asked = [*others, *listed, *(item_id + "\0" for item_id in listed), *(item_id[:-1] for item_id in listed)]
    found = table_of(listed).ids_of(asked)
    assert found.dtype == np.uint32
    assert found.tolist() == dict_ids(listed, asked)


@settings(deadline=None)
@given(st.lists(item_ids, unique=True, max_size=60), st.lists(item_ids, max_size=10))
def test_bytes_are_as_described(listed: list[str], others: list[str]) -> None:
    image = image_of(listed)
    assert [slow_id(image, i) for i in [*listed, *others]] == dict_ids(listed, [*listed, *others])


def test_golden_table() -> None:
    golden = golden_bytes("id_table_v1")
    assert image_of(GOLDEN_IDS) == golden
    assert IdTable(golden).ids_of(GOLDEN_IDS).tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("key", "seed", "expected"),
    [
        (b"7".ljust(16, b"\0"), 0, 0xD3FF271552C29BC0),
        (b"1082185".ljust(16, b"\0"), 0, 0x96E232FDDD604E8D),
        (b"exactly-12-b".ljust(16, b"\0"), 1, 0xDA4AFB5AEEF04B1B),
        (b"x" * 36 + bytes(4), 7, 0x974EFA335EC22A97),
    ],
)
def test_golden_hashes(key: bytes, seed: int, expected: int) -> None:
    words = np.frombuffer(key, "<u8")[None]
    found = id_table._hashes_of(words, id_table._multipliers(seed, words.shape[1]))
    assert found.tolist() == [expected] == [slow_hash(key, seed)]


def test_many_numbers_are_found_and_their_neighbors_are_not() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.permutation(np.arange(10_000_000, 10_200_000, 2))
    table = table_of([str(number) for number in numbers])
    known = np.zeros(300_000, np.uint32)
    known[numbers - 9_950_000] = np.arange(1, len(numbers) + 1)
    asked = [str(number) for number in range(9_950_000, 10_250_000)]
    np.testing.assert_array_equal(table.ids_of(asked), known)


def test_a_few_long_ids_do_not_widen_the_slots_of_the_others() -> None:
    short = [str(number) for number in range(1000)]
    some_long = [*short, *("a" * count for count in (13, 36, 37, 255, 256))]
    assert len(image_of(some_long)) < 1.01 * len(image_of(short))
    assert table_of(some_long).ids_of(some_long).tolist() == list(range(1, 1006))


@pytest.mark.parametrize(
    ("length", "words"), [(1, 2), (12, 2), (13, 3), (20, 3), (28, 4), (36, 5), (37, 5), (256, 5)]
)
def test_slots_are_as_wide_as_ids_need_up_to_40_bytes(length: int, words: int) -> None:
    listed = [f"{number:x}".rjust(length, "-") for number in range(16)]
    image = image_of(listed)
    assert struct.unpack_from("<I", image, 84) == (words,)
    assert IdTable(image).ids_of([*listed, "-" * length]).tolist() == [*range(1, 17), 0]


@pytest.mark.parametrize("colliding_seeds", [1, 3])
def test_ids_whose_hashes_are_equal_get_another_seed(
    monkeypatch: pytest.MonkeyPatch, colliding_seeds: int
) -> None:
    """A multiplier of 0 gives every id the same hash; the ids stay right, and are still told from a repeated one."""
    made = id_table._multipliers
    monkeypatch.setattr(
        id_table, "_multipliers", lambda seed, words: made(seed, words) * np.uint64(seed >= colliding_seeds)
    )
    listed = [str(number) for number in range(500)]
    image = image_of(listed)
    assert struct.unpack_from("<I", image, 88) == (colliding_seeds,)
    assert IdTable(image).ids_of([*listed, "500"]).tolist() == [*range(1, 501), 0]
    with pytest.raises(CatalogueError, match="twice"):
        image_of([*listed, "7"])


def test_ids_that_no_seed_tells_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_table, "_multipliers", lambda seed, words: np.zeros(words, np.uint64))
    with pytest.raises(CatalogueError, match="none of 8 seeds gives each of 3 item ids"):
        image_of(["x", "y", "z"])


def test_groups_that_want_the_same_slots_get_slots_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without a free slot: the last keys meet taken ones nearly always."""
    monkeypatch.setattr(id_table, "LOAD_FACTOR", 1.0)
    monkeypatch.setattr(id_table, "SPARE_SLOTS_COUNT", 0)
    listed = [str(number) for number in range(2000)]
    assert table_of(listed).ids_of(listed).tolist() == list(range(1, 2001))


@pytest.mark.parametrize("listed", [["x", "x"], ["long " * 40, "y", "long " * 40]])
def test_repeated_id_is_refused(listed: list[str]) -> None:
    with pytest.raises(CatalogueError, match="twice"):
        image_of(listed)


def test_every_altered_byte_and_every_missing_end_is_refused() -> None:
    image = image_of(["x", "y", "z"])
    for at in range(len(image)):
        altered = bytearray(image)
        altered[at] ^= 1
        with pytest.raises(CatalogueError, match=r"no table of the format TWINIDS1|not what was written"):
            IdTable(altered)
        with pytest.raises(CatalogueError):
            IdTable(image[:at])
    with pytest.raises(CatalogueError, match="not what was written"):
        IdTable(image + b"\0")
