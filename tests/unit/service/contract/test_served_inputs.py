"""A request as the graph's tensors: rows within bounds, padding, the order of ids, and what matches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract import artefact, served_inputs
from service.contract.errors import ArtefactError
from service.contract.features import FeatureEncoder, FeatureSpec
from service.contract.history import Behaviors, History, HistoryLimits, build_history
from service.contract.match import ANY, match_features, match_keys
from service.contract.served_inputs import (
    ItemTables,
    RequestEncoder,
    assemble,
    read_item_tables,
    rows_by_catalogue_id,
)
from tests.unit.service.contract.made import manifest

IDS = np.array([0, 5, 2, 9], np.uint32)  # row -> catalogue id; row 0 is the cold-start row
BRANDS = np.array([[0], [1], [1], [0]])  # row -> brand; the last item's is unknown


def tables() -> ItemTables:
    rows = np.arange(4, dtype=np.float32)
    return ItemTables(
        rows=rows_by_catalogue_id(IDS),
        shared=rows[:, None] * np.ones((1, 2), np.float32),
        by_domain=np.stack([10 + rows[:, None], 20 + rows[:, None]]),
        embedding=rows[:, None] * np.ones((1, 3), np.float32),
        match_keys=match_keys((ANY, "item_id", "brand"), BRANDS, ("brand",)),
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
    keys = np.zeros((len(ids), 0), np.int32)
    made = ItemTables(rows_by_catalogue_id(ids), empty, empty[None], empty, keys)
    found = made.rows_of(np.array(asked, np.uint32))
    expected = [known.index(i) + 1 if i in known else 0 for i in asked]
    assert found.tolist() == expected


def test_artefact_of_the_cold_start_row_only() -> None:
    rows = rows_by_catalogue_id(np.zeros(1, np.uint32))
    assert rows.tolist() == [0]


def feeds(
    recent: Behaviors, candidates: list[int], domain: int = 1, behaviors_max: int = 2
) -> dict[str, np.ndarray]:
    limits = HistoryLimits(recents_max=1, behaviors_max=behaviors_max)
    return assemble(
        tables(),
        domain=domain,
        user_ids=[1, 2, 3],
        candidates=np.array(candidates, np.uint32),
        candidate_ids=np.zeros((len(candidates), 1), np.int64),
        history=build_history(None, recent, at_ms=1_000_000, limits=limits),
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
    assert made["behavior_item"].tolist() == [[3, 3, 3], [0, 0, 0]]
    assert made["behavior_size"].tolist() == [1, 1]
    assert made["behavior_strength"].tolist() == [16, 0]
    assert made["behavior_age"].tolist() == made["cluster_age"].tolist()
    assert {made[name].dtype for name in ("domain", "user_ids", "candidate_ids", "cluster_age")} == {
        np.dtype(np.int64)
    }


def test_empty_history_is_one_row_of_size_0() -> None:
    made = feeds(Behaviors.empty(), [5])
    for part in ("cluster", "recent", "behavior"):
        assert made[f"{part}_item"].tolist() == [[0, 0, 0]]
        assert [made[f"{part}_{name}"].tolist() for name in ("size", "age", "strength")] == [[0], [0], [0]]


def test_behaviors_that_nobody_asked_for_are_one_row_of_size_0() -> None:
    recent = Behaviors(np.array([0]), np.array([9], np.uint32), np.array([1024], np.uint16))
    made = feeds(recent, [5], behaviors_max=0)
    assert made["behavior_item"].tolist() == [[0, 0, 0]] and made["behavior_size"].tolist() == [0]
    assert made["recent_size"].tolist() == [1]


def test_every_part_has_its_tensors_and_no_other_is_laid_out() -> None:
    of_parts = [name for part in served_inputs.PARTS.values() for name in part]
    assert len(set(of_parts)) == len(of_parts)
    others = {"domain", "user_ids", "candidate_ids", "item_shared", "item_by_domain"}
    assert set(feeds(Behaviors.empty(), [5])) == others | set(of_parts)


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


DAY_MS = 86_400_000


def with_match(*features: FeatureSpec) -> RequestEncoder:
    """Return the encoder of a model that has these match features beside its own."""
    plain = manifest()
    return RequestEncoder(plain.model_copy(update={"features": (*plain.features, *features)}))


def history_of(*bought: tuple[int, int]) -> History:
    """Return a life cycle of (catalogue id, days ago)."""
    recent = Behaviors(
        np.array([-days * DAY_MS for _, days in bought], np.int64),
        np.array([item for item, _ in bought], np.uint32),
        np.zeros(len(bought), np.uint16),
    )
    return build_history(None, recent, at_ms=0, limits=HistoryLimits())


def test_match_ids_follow_those_of_the_candidates_context() -> None:
    """By the boundaries: a count up to 7 has id count + 1; the days are those of the feature's own encoder."""
    features = match_features((ANY, "item_id", "brand"))
    encoder = with_match(*features)
    days = FeatureEncoder(features[1])
    own = encoder.candidate_ids([{"place": "B"}] * 5)
    ids = encoder.with_match_ids(
        tables(),
        own,
        candidates=np.array([5, 2, 9, 77, 0], np.uint32),
        history=history_of((5, 40), (5, 3), (2, 20), (9, 8), (77, 1), (77, 2)),
    )
    at = {n: days.encode(float(n)) for n in (1, 3, 8, 20)}
    everything = [6 + 1, at[1]]
    assert ids.tolist() == [
        [2, *everything, 2 + 1, at[3], 3 + 1, at[3]],  # bought twice; its brand three times
        [2, *everything, 1 + 1, at[20], 3 + 1, at[3]],
        [2, *everything, 1 + 1, at[8], 1, 0],  # has no brand
        [2, *everything, 1, 0, 1, 0],  # newer than the artefact, though bought twice
        [2, *everything, 1, 0, 1, 0],  # in no catalogue
    ]


def test_a_model_without_match_features_gets_the_ids_it_had() -> None:
    own = np.array([[3], [4]])
    ids = with_match().with_match_ids(
        tables(), own, candidates=np.array([5, 2], np.uint32), history=history_of((5, 1))
    )
    assert ids is own


def test_no_candidates_have_match_ids_of_no_rows() -> None:
    encoder = with_match(*match_features((ANY,)))
    tables_of_any = replace(tables(), match_keys=match_keys((ANY,), BRANDS, ("brand",)))
    ids = encoder.with_match_ids(
        tables_of_any,
        encoder.candidate_ids([]),
        candidates=np.zeros(0, np.uint32),
        history=history_of((5, 1)),
    )
    assert ids.shape == (0, 3)


TABLES = {
    "shared": artefact.ITEM_SHARED_FILE,
    "by_domain": artefact.ITEM_BY_DOMAIN_FILE,
    "embedding": artefact.ITEM_EMBEDDING_FILE,
    "match_keys": artefact.ITEM_MATCH_KEYS_FILE,
}


def write_tables(folder: Path) -> None:
    made = tables()
    (folder / "items").mkdir()
    np.save(folder / artefact.ITEM_CATALOGUE_IDS_FILE, IDS)
    for name, file in TABLES.items():
        np.save(folder / file, getattr(made, name))


def test_tables_are_mapped_not_loaded(tmp_path: Path) -> None:
    write_tables(tmp_path)
    read = read_item_tables(tmp_path)
    assert read.rows.tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0, 3]
    assert read.by_domain.tolist() == tables().by_domain.tolist()
    assert read.match_keys.tolist() == tables().match_keys.tolist()
    for table in (read.shared, read.by_domain, read.embedding, read.match_keys):
        assert isinstance(table.base, np.memmap) or isinstance(table, np.memmap)


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_different_lengths_are_refused(tmp_path: Path, name: str) -> None:
    write_tables(tmp_path)
    table = np.load(tmp_path / TABLES[name])
    np.save(tmp_path / TABLES[name], np.delete(table, 0, axis=1 if name == "by_domain" else 0))
    with pytest.raises(ArtefactError, match="different numbers of rows"):
        read_item_tables(tmp_path)


@pytest.mark.parametrize("name", ["embedding", "match_keys"])
@pytest.mark.parametrize("body", [None, b"", b"not numpy", b"\x93NUMPY\x01\x00"])
def test_unreadable_table_is_refused(tmp_path: Path, name: str, body: bytes | None) -> None:
    write_tables(tmp_path)
    path = tmp_path / TABLES[name]
    path.unlink()
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_item_tables(tmp_path)


def test_tensor_names_are_distinct() -> None:
    names = [v for k, v in vars(served_inputs).items() if k.isupper() and isinstance(v, str)]
    assert len(set(names)) == len(names) == 19
