"""The forms that bodies and answers have. Knows nothing of HTTP and of what is in them."""

from __future__ import annotations

from enum import Enum


class Form(Enum):
    """JSON, or the same in MessagePack."""

    JSON = "JSON"
    MSGPACK = "MessagePack"
