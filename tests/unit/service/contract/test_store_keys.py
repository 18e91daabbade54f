"""Keys of the store: one node a user, no two users alike; and the codec of user features."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from service.contract.errors import BlobError
from service.contract.features import RawValue
from service.contract.store_keys import (
    decode_user_features,
    encode_user_features,
    features_key,
    read_keys,
    recent_key,
    snapshot_key,
    user_tag,
    users_key,
)
from tests.unit.service.contract.made import golden_bytes

ODD_IDS = [
    "",
    " ",
    "{",
    "}",
    "{}",
    "}{",
    "a}b",
    "{a}",
    "%",
    "%7B",
    "a%7Db",
    "a:recent",
    "a}:recent",
    "ü",
    "\ud800",
    "\0",
]
odd_ids = st.one_of(st.sampled_from(ODD_IDS), st.text(), st.text(alphabet="{}%7BDb:"))

FEATURES: dict[str, RawValue] = {
    "age": "45-54",
    "household_size": 3,
    "spend": 12.5,
    "married": True,
    "kids": None,
}


def keys(user_id: str) -> list[bytes]:
    made = (recent_key(user_id), snapshot_key(user_id, "s1"), features_key(user_id, "s1"))
    return [key.encode() for key in made]


@given(odd_ids)
def test_all_keys_of_a_user_lie_on_one_node(user_id: str) -> None:
    slots = {key_slot(key) for key in keys(user_id)}
    assert slots == {key_slot(user_tag(user_id)[1:-1].encode())}


@given(odd_ids, odd_ids)
def test_no_two_users_share_a_key(one: str, other: str) -> None:
    assert (one == other) == (user_tag(one) == user_tag(other))
    assert (one == other) == bool(set(keys(one)) & set(keys(other)))


@given(odd_ids)
def test_a_tag_is_its_id_percent_encoded_but_for_what_is_harmless(user_id: str) -> None:
    safe = "".join(chr(code) for code in range(32, 127) if chr(code) not in '{}%"\\')
    assert user_tag(user_id) == f"{{{quote(user_id, safe=safe, errors='surrogatepass') or '%'}}}"


@given(odd_ids)
def test_the_keys_of_a_read_are_those_that_are_written(user_id: str) -> None:
    assert read_keys(user_id, None) == (recent_key(user_id),)
    assert read_keys(user_id, "s1") == (
        recent_key(user_id),
        snapshot_key(user_id, "s1"),
        features_key(user_id, "s1"),
    )


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_tag_has_one_pair_of_braces_around_something(user_id: str) -> None:
    tag = user_tag(user_id)
    assert (tag[0], tag[-1], tag.count("{"), tag.count("}")) == ("{", "}", 1, 1)
    assert len(tag) > 2 and tag.isascii()


def test_ordinary_ids_stay_readable() -> None:
    assert recent_key("1873") == "twinstar:{1873}:recent"
    assert snapshot_key("a@b.c", "s1") == "twinstar:{a@b.c}:snapshot:s1"
    assert features_key("1873", "s1") == "twinstar:{1873}:features:s1"
    assert users_key("s1") == "twinstar:users:s1"


def test_keys_of_one_user_differ() -> None:
    assert len({*keys("u"), snapshot_key("u", "s2").encode(), features_key("u", "s2").encode()}) == 5


def test_golden_user_features_of_version_1() -> None:
    assert encode_user_features(FEATURES) == golden_bytes("user_features_v1")
    assert decode_user_features(golden_bytes("user_features_v1")) == FEATURES


@given(
    st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    )
)
def test_user_features_round_trip(values: dict[str, RawValue]) -> None:
    assert decode_user_features(encode_user_features(values)) == values


@pytest.mark.parametrize(
    "body", [b"", b"\xc0", b"\x81\x01\x01", b"\x81\xa1\xff\x01", b"\x81\xa1a\x91\x01", b"\x80\x80"]
)
def test_features_that_do_not_decode_are_refused(body: bytes) -> None:
    with pytest.raises(BlobError, match="does not decode"):
        decode_user_features(b"\x01" + body)


@pytest.mark.parametrize("blob", [b"", b"\x00\x80", b"\x02\x80", b"\x81"])
def test_features_of_other_versions_are_refused(blob: bytes) -> None:
    with pytest.raises(BlobError, match="this service reads 1"):
        decode_user_features(blob)


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    try:
        decode_user_features(b"\x01" + body)
    except BlobError:
        return
