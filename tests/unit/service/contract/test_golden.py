"""Golden requests: the store's bytes survive the file, and a replay that differs is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from service.contract.artefact import GOLDEN_FILE
from service.contract.catalogue import Catalogue
from service.contract.errors import ArtefactError, ContractError
from service.contract.features import FeatureSpec, Side
from service.contract.golden import GoldenCandidate, GoldenRequest, read_golden, replay_golden, write_golden
from service.contract.history import F32, I64, Behaviors, Snapshot, encode_behavior, encode_snapshot
from service.contract.match import match_keys
from service.contract.popularity import encode_popularity
from service.contract.served_inputs import (
    PARTS,
    EncodeItems,
    Feeds,
    ItemTables,
    RequestEncoder,
    rows_by_catalogue_id,
)
from service.contract.statistics import statistics_features
from tests.support.slow_statistics import counts_of, ids_of, popularity_of
from tests.unit.service.contract.made import golden_bytes, manifest

REQUEST = GoldenRequest(
    domain="display",
    user_id="u1",
    at_ms=1_700_000_100_000,
    user_features={"spend": 3.0},
    context={},
    candidates=(
        GoldenCandidate(item_id="b", context={"place": "A"}),
        GoldenCandidate(item_id="?", context={}),
    ),
    snapshot=golden_bytes("history_snapshot_v2"),
    recent=golden_bytes("recent_list_v1"),
    probability=((0.5, 0.25), (0.125, 0.0001)),
)


def tables() -> ItemTables:
    rows = np.arange(3, dtype=np.float32)[:, None]
    return ItemTables(
        rows=rows_by_catalogue_id(np.arange(3, dtype=np.uint32)),
        shared=rows,
        by_domain=np.stack([rows, rows + 10]),
        history=dict.fromkeys(PARTS, rows),
        match_keys=match_keys(("item_id",), np.zeros((3, 0), np.int64), ()),
    )


def test_bytes_are_the_stores_in_memory_and_base64_in_the_file(tmp_path: Path) -> None:
    write_golden(tmp_path, [REQUEST, REQUEST.model_copy(update={"snapshot": None, "recent": b""})])
    first, second = read_golden(tmp_path)
    assert first == REQUEST and first.snapshot == golden_bytes("history_snapshot_v2")
    assert (second.snapshot, second.recent) == (None, b"")
    stored = json.loads((tmp_path / GOLDEN_FILE).read_text())[0]["recent"]
    assert base64.urlsafe_b64decode(stored) == golden_bytes("recent_list_v1")


def replay(
    folder: Path,
    probability: list[list[float]],
    *features: FeatureSpec,
    encode_items: EncodeItems | None = None,
) -> tuple[int, list[Feeds]]:
    seen: list[Feeds] = []

    def run(domain: str, feeds: Feeds) -> np.ndarray:
        assert domain == REQUEST.domain
        seen.append(feeds)
        return np.array(probability, np.float32)

    catalogue = Catalogue("items", ["a", "b"])
    reader = manifest()
    reader = reader.model_copy(update={"features": (*reader.features, *features), "match_key_ends": ()})
    return replay_golden(
        folder,
        manifest=reader,
        catalogue=catalogue,
        encoder=RequestEncoder(reader, tables(), encode_items),
        run=run,
    ), seen


def test_replay_lays_the_request_out_with_its_history(tmp_path: Path) -> None:
    write_golden(tmp_path, [REQUEST])
    count, (feeds,) = replay(tmp_path, [[0.5, 0.25], [0.125, 0.00010005]])
    assert count == 1
    assert feeds["item_by_domain"].tolist() == [[12], [10]]
    assert feeds["item_shared"].tolist() == [[2], [0]]
    assert feeds["candidate_ids"].tolist() == [[1], [0]]
    assert feeds["cluster_size"].tolist() == [20, 1, 3, 1]
    assert feeds["recent_size"].tolist() == [1, 1, 1]


def test_replay_encodes_an_item_without_a_row_from_its_features(tmp_path: Path) -> None:
    new = GoldenCandidate(item_id="?", context={}, features={"brand": "y"})
    write_golden(tmp_path, [REQUEST.model_copy(update={"candidates": (REQUEST.candidates[0], new)})])

    def encode_items(ids: I64) -> tuple[F32, F32]:
        rows = 100 * ids[:, 1:].astype(np.float32)
        return rows, np.stack([rows, rows + 1])

    _, (feeds,) = replay(tmp_path, [[0.5, 0.25], [0.125, 0.0001]], encode_items=encode_items)
    assert feeds["item_shared"].tolist() == [[2], [200]]
    assert feeds["item_by_domain"].tolist() == [[12], [201]]


def test_replay_counts_what_the_life_cycle_and_everyone_did(tmp_path: Path) -> None:
    """`b` has catalogue id 2 and is bought once in the snapshot's table, a day before it, and twice live."""
    old = Snapshot(
        at_ms=REQUEST.at_ms - 1000,
        item=np.array([1], np.uint32),
        size=np.array([9], np.uint32),
        mean_age_s=np.array([0], np.uint32),
        strength=np.array([0], np.uint16),
        tail=Behaviors.empty(),
        counts=counts_of([(2, [86_399]), (1, [5] * 8)]),
    )
    recent = b"".join(
        encode_behavior(at_ms=REQUEST.at_ms - ago_ms, event=ago_ms, item=2, strength=1) for ago_ms in (1, 500)
    )
    popularity = popularity_of({2: {"7": [3600, 7200]}}, at_ms=REQUEST.at_ms - 60_000)
    changes = {
        "snapshot": encode_snapshot(old),
        "recent": recent,
        "popularity": encode_popularity(popularity),
        "context": {"store": "7"},
    }
    write_golden(tmp_path, [REQUEST.model_copy(update=changes)])
    match = statistics_features(Side.MATCH, ("item_id",))
    popular = statistics_features(Side.POPULARITY, ("item_id", "store"))
    _, (feeds,) = replay(tmp_path, [[0.5, 0.25], [0.125, 0.0001]], *match, *popular)
    known, unknown = feeds["candidate_ids"].tolist()
    for features, start, ages_s in (
        (match, 1, [0, 0, 86_400]),
        (popular, 1 + len(match), [3660, 7260]),
    ):
        for number, feature in enumerate(features, start=start):
            assert known[number] in ids_of(feature, ages_s)
            assert unknown[number] in ids_of(feature, [])
    assert len(known) == 1 + len(match) + len(popular)


def test_a_popularity_table_that_does_not_decode_is_refused(tmp_path: Path) -> None:
    write_golden(tmp_path, [REQUEST.model_copy(update={"popularity": b"no table"})])
    with pytest.raises(ContractError, match="popularity table does not decode"):
        replay(tmp_path, [[0.5, 0.25], [0.125, 0.0001]], *statistics_features(Side.POPULARITY, ("item_id",)))


@pytest.mark.parametrize("wrong", [0.0002, 0.000101, 0.0, float("nan")])
def test_a_replay_that_differs_by_little_of_a_small_probability_is_refused(
    tmp_path: Path, wrong: float
) -> None:
    write_golden(tmp_path, [REQUEST])
    with pytest.raises(ArtefactError, match=r"golden request 0 is .* in log-odds from what was verified"):
        replay(tmp_path, [[0.5, 0.25], [0.125, wrong]])


def test_neighbours_in_single_precision_are_equal_close_to_1(tmp_path: Path) -> None:
    near = 1 - 1e-5
    write_golden(tmp_path, [REQUEST.model_copy(update={"probability": ((near, 0.25), (0.125, 0.0001))})])
    neighbour = float(np.nextafter(np.float32(near), np.float32(0)))
    assert replay(tmp_path, [[neighbour, 0.25], [0.125, 0.0001]])[0] == 1
    with pytest.raises(ArtefactError, match="golden request 0 is"):
        replay(tmp_path, [[near - 1e-6, 0.25], [0.125, 0.0001]])


def test_a_replay_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_golden(tmp_path, [REQUEST])
    with pytest.raises(ArtefactError, match=r"gives \(2, 1\), verified were \(2, 2\)"):
        replay(tmp_path, [[0.5], [0.125]])


@pytest.mark.parametrize("body", [None, b"", b"{}", b'[{"domain": "x"}]', b"\xff"])
def test_unreadable_golden_requests_are_refused(tmp_path: Path, body: bytes | None) -> None:
    if body is not None:
        (tmp_path / GOLDEN_FILE).write_bytes(body)
    with pytest.raises(ArtefactError, match="does not parse"):
        read_golden(tmp_path)
