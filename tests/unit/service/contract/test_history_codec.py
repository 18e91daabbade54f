"""The history codec: golden bytes per version, round trips, and bytes that must not decode."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.contract.errors import BlobError
from service.contract.history import (
    BEHAVIOR_DTYPE,
    Behaviors,
    ItemCounts,
    Snapshot,
    decode_behaviors,
    decode_snapshot,
    encode_behavior,
    encode_behaviors,
    encode_snapshot,
    quantize_strength,
)
from tests.unit.service.contract.made import golden_bytes

GOLDEN = Snapshot(
    at_ms=1_700_000_000_123,
    item=np.array([1, 70_000, 2**32 - 1], np.uint32),
    size=np.array([20, 1, 3], np.uint32),
    mean_age_s=np.array([86_400, 0, 2**32 - 1], np.uint32),
    strength=np.array([1024, 0, 65_535], np.uint16),
    tail=Behaviors(
        np.array([1_699_999_999_000, 1_700_000_000_122], np.int64),
        np.array([5, 70_000], np.uint32),
        np.array([512, 1], np.uint16),
    ),
    counts=ItemCounts(
        np.array([70_000, 2**32 - 2], np.uint32),
        np.array([7, 2**32 - 1], np.uint32),
        np.array([1, 2**32 - 2], np.int64),
        np.array([9, 2**32 - 1], np.int64),
        np.array([[0.5, 1.5, 2.0], [3.0, 0.0, -0.25]], np.float32),
    ),
)
WITHOUT_COUNTS = replace(GOLDEN, counts=ItemCounts.empty())
HEADER_BYTES = {1: 20, 2: 28}


def columns(snapshot: Snapshot) -> dict[str, list[int]]:
    tail, counts = snapshot.tail, snapshot.counts
    arrays = {
        "item": snapshot.item,
        "size": snapshot.size,
        "mean_age_s": snapshot.mean_age_s,
        "strength": snapshot.strength,
        "tail_at_ms": tail.at_ms,
        "tail_item": tail.item,
        "tail_strength": tail.strength,
        "counts_item": counts.item,
        "counts_count": counts.count,
        "counts_age_s": counts.age_s,
        "counts_oldest_s": counts.oldest_s,
        "counts_fading": counts.fading.ravel(),
    }
    return {name: array.tolist() for name, array in arrays.items()}


def parts(snapshot: Snapshot) -> tuple[int, dict[str, list[int]]]:
    return snapshot.at_ms, columns(snapshot)


def written_out(snapshot: Snapshot, *, version: int) -> bytes:
    """Return a snapshot's bytes number by number: the format again, in other words than the codec's.

    version, 3 bytes of 0, how many clusters, how long a tail, the moment; from version 2 on how many counted
    items and of how many fading counts each. Then array by array: tail's times (i8); clusters' items, sizes and
    ages, the tail's items (u4); from version 2 on the counted items, counts, ages of the newest and of the oldest
    (u4), and the fading counts, an item's side by side (f4); strengths of clusters and of the tail (u2).
    """
    of = columns(snapshot)
    out = struct.pack("<BBBB", version, 0, 0, 0)
    out += struct.pack("<IIq", len(of["item"]), len(of["tail_item"]), snapshot.at_ms)
    counted = ("counts_item", "counts_count", "counts_age_s", "counts_oldest_s")
    if version == 1:
        assert not of["counts_item"]
    else:
        out += struct.pack("<II", len(of["counts_item"]), 3)

    def run(kind: str, names: Sequence[str]) -> bytes:
        return b"".join(struct.pack(f"<{kind}", value) for name in names for value in of[name])

    clusters = ("item", "size", "mean_age_s", "tail_item")
    out += run("q", ["tail_at_ms"]) + run("I", clusters)
    if version > 1:
        out += run("I", counted) + run("f", ["counts_fading"])
    return out + run("H", ["strength", "tail_strength"])


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    clusters, tail, counted = draw(st.integers(0, 30)), draw(st.integers(0, 10)), draw(st.integers(0, 20))
    return Snapshot(
        draw(st.integers(-(2**63), 2**63 - 1)),
        *(draw(arrays.arrays(np.uint32, clusters)) for _ in range(3)),
        draw(arrays.arrays(np.uint16, clusters)),
        Behaviors(*(draw(arrays.arrays(dtype, tail)) for dtype in (np.int64, np.uint32, np.uint16))),
        ItemCounts(
            *(draw(arrays.arrays(np.uint32, counted)) for _ in range(2)),
            *(draw(arrays.arrays(np.uint32, counted)).astype(np.int64) for _ in range(2)),
            draw(arrays.arrays(np.float32, (counted, 3), elements=st.floats(0, 2**30, width=32))),
        ),
    )


def test_golden_snapshot() -> None:
    assert encode_snapshot(GOLDEN) == golden_bytes("history_snapshot_v2")
    assert parts(decode_snapshot(golden_bytes("history_snapshot_v2"))) == parts(GOLDEN)


def test_golden_empty_snapshot() -> None:
    empty = decode_snapshot(golden_bytes("history_snapshot_v2_empty"))
    assert empty.at_ms == -5 and not any(columns(empty).values())
    assert encode_snapshot(empty) == golden_bytes("history_snapshot_v2_empty")


def test_golden_snapshots_of_version_1_are_read_and_have_no_counts() -> None:
    assert parts(decode_snapshot(golden_bytes("history_snapshot_v1"))) == parts(WITHOUT_COUNTS)
    empty = decode_snapshot(golden_bytes("history_snapshot_v1_empty"))
    assert empty.at_ms == -5 and not any(columns(empty).values())


@given(snapshots())
def test_bytes_are_those_of_the_format_written_out(snapshot: Snapshot) -> None:
    assert encode_snapshot(snapshot) == written_out(snapshot, version=2)


@given(snapshots())
def test_version_1_is_read_whatever_is_in_it(snapshot: Snapshot) -> None:
    older = replace(snapshot, counts=ItemCounts.empty())
    assert parts(decode_snapshot(written_out(older, version=1))) == parts(older)


def test_ages_of_counts_beyond_the_codecs_range_stay_at_its_ends() -> None:
    beyond = np.array([2**32, -1])
    counts = replace(GOLDEN.counts, age_s=beyond, oldest_s=beyond)
    decoded = decode_snapshot(encode_snapshot(replace(GOLDEN, counts=counts)))
    assert decoded.counts.age_s.tolist() == decoded.counts.oldest_s.tolist() == [2**32 - 1, 0]


def test_golden_recent_list() -> None:
    blob = golden_bytes("recent_list_v1")
    behaviors = Behaviors(
        np.array([1_700_000_000_123, -1], np.int64),
        np.array([70_000, 0], np.uint32),
        np.array([1024, 65_535], np.uint16),
    )
    assert encode_behaviors(behaviors, np.array([2**64 - 1, 0], np.uint64)) == blob
    decoded = decode_behaviors(blob)
    assert decoded.at_ms.tolist() == behaviors.at_ms.tolist()
    assert decoded.item.tolist() == behaviors.item.tolist()
    assert decoded.strength.tolist() == behaviors.strength.tolist()


@given(snapshots())
def test_snapshot_round_trip(snapshot: Snapshot) -> None:
    decoded = decode_snapshot(encode_snapshot(snapshot))
    assert parts(decoded) == parts(snapshot)
    arrays_of = (decoded.item, decoded.strength, decoded.tail.at_ms, decoded.counts.count)
    assert [a.dtype for a in arrays_of] == [np.dtype(kind) for kind in ("<u4", "<u2", "<i8", "<u4")]
    for age_s in (decoded.counts.age_s, decoded.counts.oldest_s):
        assert age_s.dtype == np.int64  # so that no sum of ages can wrap
    assert decoded.counts.fading.shape == (len(decoded.counts), 3)


@given(snapshots())
def test_snapshot_takes_14_bytes_a_cluster_and_a_behavior_and_28_a_counted_item(snapshot: Snapshot) -> None:
    rows_bytes = 14 * (len(snapshot.item) + len(snapshot.tail)) + 28 * len(snapshot.counts)
    assert len(encode_snapshot(snapshot)) == HEADER_BYTES[2] + rows_bytes


@given(snapshots(), st.sampled_from([1, 2]), st.data())
def test_truncated_or_lengthened_snapshot_is_refused(
    snapshot: Snapshot, version: int, data: st.DataObject
) -> None:
    if version == 1:
        snapshot = replace(snapshot, counts=ItemCounts.empty())
    blob = written_out(snapshot, version=version)
    with pytest.raises(BlobError):
        decode_snapshot(blob[: data.draw(st.integers(0, len(blob) - 1))])
    with pytest.raises(BlobError):
        decode_snapshot(blob + data.draw(st.binary(min_size=1, max_size=20)))


@given(snapshots(), st.integers(0, 255).filter(lambda v: v not in HEADER_BYTES))
def test_other_versions_are_refused(snapshot: Snapshot, version: int) -> None:
    with pytest.raises(BlobError, match=f"version {version}, this service reads 2"):
        decode_snapshot(bytes([version]) + encode_snapshot(snapshot)[1:])


@given(snapshots())
def test_a_snapshot_whose_version_was_altered_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(BlobError):
        decode_snapshot(b"\x01" + encode_snapshot(snapshot)[1:])
    older = written_out(replace(snapshot, counts=ItemCounts.empty()), version=1)
    with pytest.raises(BlobError):
        decode_snapshot(b"\x02" + older[1:])


@given(snapshots(), st.sampled_from([*range(4, 12), *range(20, 24)]), st.integers(1, 255))
def test_an_altered_count_is_refused(snapshot: Snapshot, byte: int, mask: int) -> None:
    blob = bytearray(encode_snapshot(snapshot))
    blob[byte] ^= mask
    with pytest.raises(BlobError, match="its header asks for"):
        decode_snapshot(bytes(blob))


@given(snapshots(), st.integers(0, 2**32 - 1).filter(lambda n: n != 3))
def test_another_number_of_fading_counts_is_refused(snapshot: Snapshot, fading_counts: int) -> None:
    blob = encode_snapshot(snapshot)
    with pytest.raises(BlobError, match="publish the snapshots again"):
        decode_snapshot(blob[:24] + struct.pack("<I", fading_counts) + blob[28:])


@given(st.binary(max_size=100))
def test_any_bytes_decode_or_are_refused(blob: bytes) -> None:
    for decode in (decode_snapshot, decode_behaviors):
        try:
            decode(blob)
        except BlobError:
            continue


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.floats(allow_nan=True, allow_infinity=True),
)
def test_behavior_round_trip(at_ms: int, event: int, item: int, strength: float) -> None:
    blob = encode_behavior(at_ms=at_ms, event=event, item=item, strength=strength)
    decoded = decode_behaviors(blob + blob)
    assert len(blob) == BEHAVIOR_DTYPE.itemsize == 22
    assert decoded.at_ms.tolist() == [at_ms] * 2
    assert decoded.item.tolist() == [item] * 2
    assert decoded.strength.tolist() == [int(quantize_strength(strength))] * 2


@pytest.mark.parametrize("length", [1, 21, 23])
def test_torn_recent_list_is_refused(length: int) -> None:
    with pytest.raises(BlobError, match="no whole number"):
        decode_behaviors(b"\0" * length)


@pytest.mark.parametrize(
    ("strength", "stored"),
    [
        (0.0, 0),
        (1.0, 1024),
        (0.2, 205),
        (63.999, 65_535),
        (1e9, 65_535),
        (float("inf"), 65_535),
        (-3.0, 0),
        (float("-inf"), 0),
        (float("nan"), 0),
    ],
)
def test_strength_is_fixed_point_within_its_range(strength: float, stored: int) -> None:
    assert int(quantize_strength(strength)) == stored
