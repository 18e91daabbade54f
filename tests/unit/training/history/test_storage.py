"""The snapshot file: what is written is what is read, by user and moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.contract.history import Behaviors, Snapshot, encode_snapshot
from training.history import storage
from training.history.storage import SnapshotTable, write_snapshots


def snapshot(at_ms: int, clusters: int = 2) -> Snapshot:
    return Snapshot(
        at_ms=at_ms,
        item=np.arange(clusters, dtype=np.uint32),
        size=np.ones(clusters, np.uint32),
        mean_age_s=np.full(clusters, 9, np.uint32),
        strength=np.full(clusters, 1024, np.uint16),
        tail=Behaviors.empty(),
    )


ROWS = [("a", 10, snapshot(10)), ("a", 20, snapshot(20, 3)), ("b", 20, snapshot(20, 0))]


def load(path: Path) -> SnapshotTable:
    assert write_snapshots(path / "snapshots.parquet", reversed(ROWS)) == 3
    return SnapshotTable.load(path / "snapshots.parquet")


def test_newest_strictly_before(tmp_path: Path) -> None:
    table = load(tmp_path)
    found = {at_ms: table.newest_before("a", at_ms) for at_ms in (10, 11, 20, 21)}
    assert found[10] is None
    assert [found[m].at_ms for m in (11, 20, 21) if found[m] is not None] == [10, 10, 20]  # type: ignore[union-attr]


def test_unknown_user_has_none(tmp_path: Path) -> None:
    assert load(tmp_path).newest_before("c", 10**9) is None


def test_bytes_at_a_moment_are_those_of_the_codec(tmp_path: Path) -> None:
    table = load(tmp_path)
    assert dict(table.at(20)) == {user: encode_snapshot(s) for user, at_ms, s in ROWS if at_ms == 20}
    assert dict(table.at(15)) == {}


def test_users_and_moments(tmp_path: Path) -> None:
    table = load(tmp_path)
    assert (sorted(table.user_ids), table.moments_ms) == (["a", "b"], (10, 20))


def test_no_rows_make_an_empty_table(tmp_path: Path) -> None:
    assert write_snapshots(tmp_path / "none.parquet", []) == 0
    assert SnapshotTable.load(tmp_path / "none.parquet").user_ids == ()


def test_rows_are_written_in_groups(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setattr(storage, "_ROWS_PER_GROUP", 2)  # type: ignore[attr-defined]
    table = load(tmp_path)
    assert table.newest_before("b", 21) is not None and table.newest_before("a", 21) is not None
