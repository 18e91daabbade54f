"""Arms: sticky, of the stated shares, independent of other layers, and calm under a ramp."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import xxhash

from service.experiments.assignment import arm_of, position_of
from service.experiments.plan import Arm, Layer

USERS = [f"user-{i}" for i in range(20_000)]


def layer(*shares: float, salt: str = "salt") -> Layer:
    arms = tuple(Arm(name=f"a{i}", model="m", share=share) for i, share in enumerate(shares))
    return Layer(name="layer", salt=salt, domains=("d",), arms=arms)


def test_the_hash_is_xxh3_as_its_authors_publish_it() -> None:
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2


@pytest.mark.parametrize("user_id", ["1", "user-1", "ü", "", "a\0b", "x" * 256])
def test_a_position_is_the_hash_of_salt_zero_byte_and_user(user_id: str) -> None:
    digest = xxhash.xxh3_64(b"salt\x00" + user_id.encode()).intdigest()
    assert position_of("salt", user_id) == digest / 2**64


def test_a_user_is_in_the_same_arm_in_another_process() -> None:
    code = (
        "from service.experiments.assignment import position_of;"
        "print([position_of('salt', f'user-{i}') for i in range(50)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([position_of("salt", f"user-{i}") for i in range(50)])


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.1, 0.2, 0.7), (0.0, 1.0), (1.0, 0.0), (1 / 3, 1 / 3, 1 / 3)]
)
def test_arms_get_their_shares(shares: tuple[float, ...]) -> None:
    split = layer(*shares)
    names = [arm_of(split, user).name for user in USERS]
    for arm in split.arms:
        expected = arm.share * len(USERS)
        spread = math.sqrt(expected * (1 - arm.share)) + 1e-9
        assert abs(names.count(arm.name) - expected) <= 5 * spread


def test_growing_the_last_arm_moves_nobody_out_of_it() -> None:
    inside: set[str] = set()
    for share in (0.0, 0.01, 0.05, 0.5, 0.9, 1.0):
        split = layer(1 - share, share)
        now = {user for user in USERS if arm_of(split, user).name == "a1"}
        assert inside <= now
        inside = now
    assert len(inside) == len(USERS)


def test_layers_of_other_salts_are_independent() -> None:
    one, other = layer(0.5, 0.5, salt="one"), layer(0.5, 0.5, salt="other")
    both = sum(arm_of(one, user).name == arm_of(other, user).name for user in USERS)
    assert abs(both - len(USERS) / 2) <= 5 * math.sqrt(len(USERS) / 4)
