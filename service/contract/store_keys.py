"""Keys of the store. One grammar, written once; all keys of a user lie on one node of a Redis Cluster.

twinstar:{<user>}:recent                    packed BEHAVIOR_DTYPE records, oldest first
twinstar:{<user>}:snapshot:<snapshot_id>    encode_snapshot
twinstar:{<user>}:features:<snapshot_id>    encode_user_features
twinstar:users:<snapshot_id>                set of users written under a snapshot, to delete it again
"""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec

from service.contract.errors import BlobError
from service.contract.features import RawValue

PREFIX = "twinstar"
USER_FEATURES_CODEC_VERSION = 1

_SAFE = " !#$&'()*+,-./:;<=>?@[]^_`|~"
_is_safe = re.compile(f"[A-Za-z0-9{re.escape(_SAFE)}]+").fullmatch

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, str | int | float | bool | None])


def user_tag(user_id: str) -> str:
    """Return the hash tag of a user, never two users' the same.

    Braces in an id would move the tag, so they are percent-encoded. An empty tag is none to Redis, so the
    empty id is a lone `%`, which no other id encodes to.
    """
    if _is_safe(user_id):  # what `quote` finds as well, in a tenth of the time
        return f"{{{user_id}}}"
    return "{" + (quote(user_id, safe=_SAFE, errors="surrogatepass") or "%") + "}"


def read_keys(user_id: str, snapshot_id: str | None) -> tuple[str, ...]:
    """Return the keys that a request reads: recent, and under a snapshot, snapshot and features."""
    tag = user_tag(user_id)
    recent = f"{PREFIX}:{tag}:recent"
    if snapshot_id is None:
        return (recent,)
    return recent, f"{PREFIX}:{tag}:snapshot:{snapshot_id}", f"{PREFIX}:{tag}:features:{snapshot_id}"


def recent_key(user_id: str) -> str:
    """Return the key of a user's recent behaviors."""
    return f"{PREFIX}:{user_tag(user_id)}:recent"


def snapshot_key(user_id: str, snapshot_id: str) -> str:
    """Return the key of a user's clusters and tail under one snapshot."""
    return f"{PREFIX}:{user_tag(user_id)}:snapshot:{snapshot_id}"


def features_key(user_id: str, snapshot_id: str) -> str:
    """Return the key of a user's features under one snapshot."""
    return f"{PREFIX}:{user_tag(user_id)}:features:{snapshot_id}"


def users_key(snapshot_id: str) -> str:
    """Return the key of the set of users written under one snapshot."""
    return f"{PREFIX}:users:{snapshot_id}"


def encode_user_features(values: dict[str, RawValue]) -> bytes:
    """Return the store's bytes of a user's raw feature values: a version byte, then MessagePack."""
    return bytes([USER_FEATURES_CODEC_VERSION]) + _encoder.encode(values)


def decode_user_features(blob: bytes) -> dict[str, RawValue]:
    """Return a user's raw feature values.

    Raises:
        BlobError: the version is unknown or the body does not decode.
    """
    if not blob or blob[0] != USER_FEATURES_CODEC_VERSION:
        version = blob[0] if blob else "none"
        raise BlobError(
            f"feature blob of version {version}, this service reads {USER_FEATURES_CODEC_VERSION}"
        )
    try:
        return _decoder.decode(memoryview(blob)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BlobError("feature blob does not decode") from error
