"""All snapshots of a run in one Parquet file: user, moment, and the very bytes that the store is given.

Knows nothing of how snapshots are made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.history import Snapshot, decode_snapshot, encode_snapshot

SCHEMA: Final = pa.schema([("user_id", pa.string()), ("at_ms", pa.int64()), ("blob", pa.binary())])
_ROWS_PER_GROUP: Final = 20_000


def write_snapshots(path: Path, rows: Iterable[tuple[str, int, Snapshot]]) -> int:
    """Write (user, moment, snapshot) rows as they come; returns how many there were."""
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for chunk in _chunks(rows):
            writer.write_table(pa.Table.from_pylist(chunk, SCHEMA))
            count += len(chunk)
    return count


def _chunks(rows: Iterable[tuple[str, int, Snapshot]]) -> Iterator[list[dict[str, object]]]:
    chunk: list[dict[str, object]] = []
    for user_id, at_ms, snapshot in rows:
        chunk.append({"user_id": user_id, "at_ms": at_ms, "blob": encode_snapshot(snapshot)})
        if len(chunk) == _ROWS_PER_GROUP:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class SnapshotTable:
    """Snapshots of many users at many moments, in memory as bytes."""

    def __init__(self, rows: Iterable[tuple[str, int, bytes]]) -> None:
        by_user: dict[str, list[tuple[int, bytes]]] = {}
        for user_id, at_ms, blob in rows:
            by_user.setdefault(user_id, []).append((at_ms, blob))
        self._at_ms: dict[str, list[int]] = {}
        self._blobs: dict[str, list[bytes]] = {}
        for user_id, of_user in by_user.items():
            of_user.sort(key=lambda row: row[0])
            self._at_ms[user_id] = [at_ms for at_ms, _ in of_user]
            self._blobs[user_id] = [blob for _, blob in of_user]

    @staticmethod
    def load(path: Path) -> SnapshotTable:
        """Read what `write_snapshots` wrote."""
        table = pq.read_table(path, schema=SCHEMA)
        return SnapshotTable(zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True))

    @property
    def user_ids(self) -> tuple[str, ...]:
        """The users that have a snapshot."""
        return tuple(self._at_ms)

    @property
    def moments_ms(self) -> tuple[int, ...]:
        """The moments at which any user has a snapshot, rising."""
        return tuple(sorted({at_ms for moments in self._at_ms.values() for at_ms in moments}))

    def newest_before(self, user_id: str, at_ms: int) -> Snapshot | None:
        """Return a user's newest snapshot strictly before a moment, None where there is none."""
        number = bisect_left(self._at_ms.get(user_id, []), at_ms) - 1
        return decode_snapshot(self._blobs[user_id][number]) if number >= 0 else None

    def at(self, at_ms: int) -> Iterator[tuple[str, bytes]]:
        """Yield (user, blob) of every user with a snapshot at exactly this moment, for the store."""
        for user_id, moments in self._at_ms.items():
            number = bisect_left(moments, at_ms)
            if number < len(moments) and moments[number] == at_ms:
                yield user_id, self._blobs[user_id][number]
