"""The history codec: golden bytes per version, round trips, and bytes that must not decode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.contract.errors import BlobError
from service.contract.history import (
    BEHAVIOR_DTYPE,
    Behaviors,
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
)


def parts(snapshot: Snapshot) -> list[object]:
    tail = snapshot.tail
    columns = (snapshot.item, snapshot.size, snapshot.mean_age_s, snapshot.strength)
    return [snapshot.at_ms, *(c.tolist() for c in (*columns, tail.at_ms, tail.item, tail.strength))]


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    clusters, tail = draw(st.integers(0, 30)), draw(st.integers(0, 10))
    return Snapshot(
        draw(st.integers(-(2**63), 2**63 - 1)),
        *(draw(arrays.arrays(np.uint32, clusters)) for _ in range(3)),
        draw(arrays.arrays(np.uint16, clusters)),
        Behaviors(*(draw(arrays.arrays(dtype, tail)) for dtype in (np.int64, np.uint32, np.uint16))),
    )


def test_golden_snapshot_of_version_1() -> None:
    assert encode_snapshot(GOLDEN) == golden_bytes("history_snapshot_v1")
    assert parts(decode_snapshot(golden_bytes("history_snapshot_v1"))) == parts(GOLDEN)


def test_golden_empty_snapshot_of_version_1() -> None:
    empty = decode_snapshot(golden_bytes("history_snapshot_v1_empty"))
    assert parts(empty) == [-5, [], [], [], [], [], [], []]
    assert encode_snapshot(empty) == golden_bytes("history_snapshot_v1_empty")


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
    assert [a.dtype for a in (decoded.item, decoded.strength, decoded.tail.at_ms)] == [
        np.dtype("<u4"),
        np.dtype("<u2"),
        np.dtype("<i8"),
    ]


@given(snapshots())
def test_snapshot_takes_14_bytes_a_cluster_and_a_behavior(snapshot: Snapshot) -> None:
    assert len(encode_snapshot(snapshot)) == 20 + 14 * (len(snapshot.item) + len(snapshot.tail))


@given(snapshots(), st.data())
def test_truncated_or_lengthened_snapshot_is_refused(snapshot: Snapshot, data: st.DataObject) -> None:
    blob = encode_snapshot(snapshot)
    with pytest.raises(BlobError):
        decode_snapshot(blob[: data.draw(st.integers(0, len(blob) - 1))])
    with pytest.raises(BlobError):
        decode_snapshot(blob + data.draw(st.binary(min_size=1, max_size=20)))


@given(snapshots(), st.integers(0, 255).filter(lambda v: v != 1))
def test_other_versions_are_refused(snapshot: Snapshot, version: int) -> None:
    with pytest.raises(BlobError, match=f"version {version}, this service reads 1"):
        decode_snapshot(bytes([version]) + encode_snapshot(snapshot)[1:])


@given(snapshots(), st.integers(4, 11), st.integers(1, 255))
def test_an_altered_count_is_refused(snapshot: Snapshot, byte: int, mask: int) -> None:
    blob = bytearray(encode_snapshot(snapshot))
    blob[byte] ^= mask
    with pytest.raises(BlobError, match="its header asks for"):
        decode_snapshot(bytes(blob))


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
