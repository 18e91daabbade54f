"""Which arm a user is in: a hash, so it is the same on every worker and machine and after every restart."""

from __future__ import annotations

from typing import Final

import xxhash

from service.experiments.plan import Arm, Layer

HASH_RANGE: Final = 2**64


def position_of(salt: str, user_id: str) -> float:
    """Return where a user lies in [0, 1]: xxh3-64 of the layer's salt, a zero byte and the user id."""
    return xxhash.xxh3_64_intdigest(f"{salt}\0{user_id}".encode()) / HASH_RANGE


def arm_of(layer: Layer, user_id: str) -> Arm:
    """Return the arm of a user. Arms cover the range in their order; the last one ends where it ends."""
    position = position_of(layer.salt, user_id)
    upper = 0.0
    for arm in layer.arms[:-1]:
        upper += arm.share
        if position < upper:
            return arm
    return layer.arms[-1]
