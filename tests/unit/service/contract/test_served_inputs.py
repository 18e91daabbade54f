"""A request as the graph's tensors: rows within bounds, padding, and the order of ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract import artefact, served_inputs
from service.contract.errors import ArtefactError
from service.contract.history import Behaviors, HistoryLimits, build_history
from service.contract.served_inputs import (
    ItemTables,
    RequestEncoder,
    assemble,
    read_item_tables,
    rows_by_catalogue_id,
)
from tests.unit.service.contract.made import manifest

IDS = np.array([0, 5, 2, 9], np.uint32)  # row -> catalogue id; row 0 is the cold-start row


def tables() -> ItemTables:
    rows = np.arange(4, dtype=np.float32)
    return ItemTables(
        rows=rows_by_catalogue_id(IDS),
        shared=rows[:, None] * np.ones((1, 2), np.float32),
        by_domain=np.stack([10 + rows[:, None], 20 + rows[:, None]]),
        embedding=rows[:, None] * np.ones((1, 3), np.float32),
    )


@pytest.mark.parametrize(
    ("catalogue_id", "row"),
    [(0, 0), (5, 1), (2, 2), (9, 3), (1, 0), (8, 0), (10, 0), (2**31, 0), (2**32 - 1, 0)],
)
def test_rows_of_ids_the_artefact_lacks_are_the_cold_start_row(catalogue_id: int, row: int) -> None:
    assert tables().rows_of(np.array([catalogue_id], np.uint32)).tolist() == [row]


def test_looking_rows_up_leaves_the_ids_as_they_are() -> None:
    ids = np.array([10**6, 5], np.uint32)
    tables().rows_of(ids)
    assert ids.tolist() == [10**6, 5]


@given(
    st.lists(st.integers(1, 60), unique=True, max_size=20), st.lists(st.integers(0, 2**32 - 1), max_size=20)
)
def test_rows_are_within_the_tables_for_any_ids(known: list[int], asked: list[int]) -> None:
    ids = np.array([0, *known], np.uint32)
    empty = np.zeros((len(ids), 0), np.float32)
    found = ItemTables(rows_by_catalogue_id(ids), empty, empty[None], empty).rows_of(
        np.array(asked, np.uint32)
    )
    expected = [known.index(i) + 1 if i in known else 0 for i in asked]
    assert found.tolist() == expected


def test_artefact_of_the_cold_start_row_only() -> None:
    rows = rows_by_catalogue_id(np.zeros(1, np.uint32))
    assert rows.tolist() == [0]


def feeds(recent: Behaviors, candidates: list[int], domain: int = 1) -> dict[str, np.ndarray]:
    return assemble(
        tables(),
        domain=domain,
        user_ids=[1, 2, 3],
        candidates=np.array(candidates, np.uint32),
        candidate_ids=np.zeros((len(candidates), 1), np.int64),
        history=build_history(None, recent, at_ms=1_000_000, limits=HistoryLimits(recents_max=1)),
    )


def test_tensors_of_a_request() -> None:
    recent = Behaviors(np.array([0, 1_000]), np.array([9, 77], np.uint32), np.array([1024, 0], np.uint16))
    made = feeds(recent, [5, 77, 2])
    assert made["domain"].tolist() == [1]
    assert made["user_ids"].tolist() == [[1, 2, 3]]
    assert made["item_shared"].tolist() == [[1, 1], [0, 0], [2, 2]]
    assert made["item_by_domain"].tolist() == [[21], [20], [22]]
    assert made["cluster_item"].tolist() == [[3, 3, 3], [0, 0, 0]]
    assert made["cluster_size"].tolist() == [1, 1]
    assert made["cluster_strength"].tolist() == [16, 0]
    assert made["recent_item"].tolist() == [[0, 0, 0]]
    assert made["recent_size"].tolist() == [1]
    assert {made[name].dtype for name in ("domain", "user_ids", "candidate_ids", "cluster_age")} == {
        np.dtype(np.int64)
    }


def test_empty_history_is_one_row_of_size_0() -> None:
    made = feeds(Behaviors.empty(), [5])
    for part in ("cluster", "recent"):
        assert made[f"{part}_item"].tolist() == [[0, 0, 0]]
        assert [made[f"{part}_{name}"].tolist() for name in ("size", "age", "strength")] == [[0], [0], [0]]


def test_no_candidates_have_tensors_of_no_rows() -> None:
    made = feeds(Behaviors.empty(), [])
    assert made["item_shared"].shape == (0, 2) and made["item_by_domain"].shape == (0, 1)


def test_user_ids_are_those_of_the_user_then_of_the_context() -> None:
    encoder = RequestEncoder(manifest())
    at_ms = 3 * 3_600_000
    assert encoder.user_ids("u2", {"spend": 5}, {}, at_ms=at_ms) == [2, 2, 4]
    assert encoder.user_ids("who", {}, {}, at_ms=at_ms) == [0, 0, 4]


def test_context_goes_before_the_store_and_neither_before_the_request_itself() -> None:
    encoder = RequestEncoder(manifest())
    stored = {"spend": 0.5, "user_id": "u1", "hour_of_day": "0"}
    sent = {"spend": 50, "user_id": "u1", "hour_of_day": "0"}
    assert encoder.user_ids("u2", stored, sent, at_ms=3 * 3_600_000) == [2, 3, 4]


def test_candidate_ids_have_a_row_a_candidate() -> None:
    encoder = RequestEncoder(manifest())
    assert encoder.candidate_ids([{"place": "B"}, {}, {"place": None}]).tolist() == [[2], [0], [0]]
    assert encoder.candidate_ids([]).shape == (0, 1)


def write_tables(folder: Path, shared_rows: int = 4) -> None:
    made = tables()
    (folder / "items").mkdir()
    np.save(folder / artefact.ITEM_CATALOGUE_IDS_FILE, IDS)
    np.save(folder / artefact.ITEM_SHARED_FILE, np.zeros((shared_rows, 2), np.float32))
    np.save(folder / artefact.ITEM_BY_DOMAIN_FILE, made.by_domain)
    np.save(folder / artefact.ITEM_EMBEDDING_FILE, made.embedding)


def test_tables_are_mapped_not_loaded(tmp_path: Path) -> None:
    write_tables(tmp_path)
    read = read_item_tables(tmp_path)
    assert read.rows.tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0, 3]
    assert read.by_domain.tolist() == tables().by_domain.tolist()
    assert isinstance(read.embedding.base, np.memmap) or isinstance(read.embedding, np.memmap)


def test_tables_of_different_lengths_are_refused(tmp_path: Path) -> None:
    write_tables(tmp_path, shared_rows=3)
    with pytest.raises(ArtefactError, match="different numbers of rows"):
        read_item_tables(tmp_path)


@pytest.mark.parametrize("body", [None, b"", b"not numpy", b"\x93NUMPY\x01\x00"])
def test_unreadable_table_is_refused(tmp_path: Path, body: bytes | None) -> None:
    write_tables(tmp_path)
    path = tmp_path / artefact.ITEM_EMBEDDING_FILE
    path.unlink()
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_item_tables(tmp_path)


def test_tensor_names_are_distinct() -> None:
    names = [v for k, v in vars(served_inputs).items() if k.isupper() and isinstance(v, str)]
    assert len(set(names)) == len(names) == 15
