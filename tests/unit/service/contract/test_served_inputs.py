"""A request as the graph's tensors: rows within bounds, padding, the order of ids, and what matches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract import artefact, served_inputs
from service.contract.errors import ArtefactError
from service.contract.features import FeatureSpec, RawValue, Side
from service.contract.history import F32, I64, Behaviors, History, HistoryLimits, build_history
from service.contract.match import ANY, match_keys
from service.contract.popularity import Popularity
from service.contract.served_inputs import (
    ItemTables,
    RequestEncoder,
    assemble,
    read_item_tables,
    rows_by_catalogue_id,
)
from service.contract.statistics import statistics_features
from tests.support.slow_statistics import ids_of, level_and_statistic, popularity_of
from tests.unit.service.contract.made import manifest

IDS = np.array([0, 5, 2, 9], np.uint32)  # row -> catalogue id; row 0 is the cold-start row
BRANDS = np.array([[0], [1], [1], [0]])  # row -> brand; the last item's is unknown


def tables(*parts: str) -> ItemTables:
    """Return tables of items, and of histories for some parts; for all, where none is told."""
    parts = parts or tuple(served_inputs.PARTS)
    rows = np.arange(4, dtype=np.float32)
    return ItemTables(
        rows=rows_by_catalogue_id(IDS),
        shared=rows[:, None] * np.ones((1, 2), np.float32),
        by_domain=np.stack([10 + rows[:, None], 20 + rows[:, None]]),
        history={part: rows[:, None] * np.ones((1, 3), np.float32) for part in parts},
        match_keys=match_keys(LEVELS, BRANDS, ("brand",)),
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
    made = ItemTables(rows_by_catalogue_id(ids), empty, empty[None], {}, keys)
    found = made.rows_of(np.array(asked, np.uint32))
    expected = [known.index(i) + 1 if i in known else 0 for i in asked]
    assert found.tolist() == expected


def test_artefact_of_the_cold_start_row_only() -> None:
    rows = rows_by_catalogue_id(np.zeros(1, np.uint32))
    assert rows.tolist() == [0, 0] and rows.dtype == np.int32


def test_the_last_of_the_rows_is_the_cold_start_row_which_later_ids_take() -> None:
    rows = rows_by_catalogue_id(np.array([0, 2, 1, 4], np.uint32))
    assert rows.tolist() == [0, 2, 1, 0, 3, 0] and rows.dtype == np.int32


def feeds(
    recent: Behaviors,
    candidates: list[int],
    domain: int = 1,
    behaviors_max: int = 2,
    parts: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    limits, made = HistoryLimits(recents_max=1, behaviors_max=behaviors_max), tables(*parts)
    return assemble(
        made,
        domain=domain,
        user_ids=[1, 2, 3],
        rows=made.rows_of(np.array(candidates, np.uint32)),
        candidate_ids=np.tile(np.array([0, 1, 1]), (len(candidates), 1)),
        history=build_history(None, recent, at_ms=1_000_000, limits=limits),
    )


def test_tensors_of_a_request() -> None:
    recent = Behaviors(np.array([0, 1_000]), np.array([9, 77], np.uint32), np.array([1024, 0], np.uint16))
    made = feeds(recent, [5, 77, 2])
    assert made["user_ids"].tolist() == [[1, 2, 3]]
    assert made["candidate_ids"].tolist() == [[0, 1, 1]] * 3
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
    assert {made[name].dtype for name in ("user_ids", "candidate_ids", "cluster_age")} == {np.dtype(np.int64)}


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
    others = {"user_ids", "candidate_ids", "item_shared", "item_by_domain"}
    assert set(feeds(Behaviors.empty(), [5])) == others | set(of_parts)


@pytest.mark.parametrize("parts", [("clusters",), ("recents", "behaviors")])
def test_parts_of_the_history_without_a_table_are_not_laid_out(parts: tuple[str, ...]) -> None:
    recent = Behaviors(np.array([0]), np.array([9], np.uint32), np.array([1024], np.uint16))
    for behaviors in (recent, Behaviors.empty()):
        every, some = (feeds(behaviors, [5], parts=of) for of in ((), parts))
        left_out = {
            name for part in set(served_inputs.PARTS) - set(parts) for name in served_inputs.PARTS[part]
        }
        assert set(every) - set(some) == left_out
        assert all(np.array_equal(some[name], every[name]) for name in some)


@pytest.mark.parametrize("domain", [0, 1])
def test_columns_by_domain_are_those_of_the_requests_domain(domain: int) -> None:
    made = feeds(Behaviors.empty(), [5, 9], domain=domain)
    assert made["item_by_domain"].tolist() == [[11 + 10 * domain], [13 + 10 * domain]]


def test_no_candidates_have_tensors_of_no_rows() -> None:
    made = feeds(Behaviors.empty(), [])
    assert made["item_shared"].shape == (0, 2) and made["item_by_domain"].shape == (0, 1)


def test_user_ids_are_those_of_the_user_then_of_the_context() -> None:
    encoder = RequestEncoder(manifest(), tables())
    at_ms = 3 * 3_600_000
    assert encoder.user_ids("u2", {"spend": 5}, {}, at_ms=at_ms) == [2, 2, 4]
    assert encoder.user_ids("who", {}, {}, at_ms=at_ms) == [0, 0, 4]


def test_context_goes_before_the_store_and_neither_before_the_request_itself() -> None:
    encoder = RequestEncoder(manifest(), tables())
    stored = {"spend": 0.5, "user_id": "u1", "hour_of_day": "0"}
    sent = {"spend": 50, "user_id": "u1", "hour_of_day": "0"}
    assert encoder.user_ids("u2", stored, sent, at_ms=3 * 3_600_000) == [2, 3, 4]


def test_candidate_ids_have_a_row_a_candidate() -> None:
    encoder = RequestEncoder(manifest(), tables())
    assert encoder.candidate_ids([{"place": "B"}, {}, {"place": None}]).tolist() == [[2], [0], [0]]
    assert encoder.candidate_ids([]).shape == (0, 1)


DAY_MS = 86_400_000
LEVELS = (ANY, "item_id", "brand")
MATCH = statistics_features(Side.MATCH, LEVELS)
POPULARITY = statistics_features(Side.POPULARITY, ("item_id", "store"))


def counting(*features: FeatureSpec) -> RequestEncoder:
    """Return the encoder of a model that has these counted features beside its own."""
    plain = manifest()
    return RequestEncoder(plain.model_copy(update={"features": (*plain.features, *features)}), tables())


def history_of(*bought: tuple[int, int]) -> History:
    """Return the life cycle at 0 of (catalogue id, days ago)."""
    recent = Behaviors(
        np.array([-days * DAY_MS for _, days in bought], np.int64),
        np.array([item for item, _ in bought], np.uint32),
        np.zeros(len(bought), np.uint16),
    )
    return build_history(None, recent, at_ms=0, limits=HistoryLimits())


def everyones() -> Popularity:
    """Return what everyone bought up to 2 days ago: item 5 in store 7 five days ago, 77 and 5 elsewhere before."""
    return popularity_of(
        {5: {"7": [3 * 86_400], "8": [9 * 86_400]}, 77: {"8": [4 * 86_400]}}, at_ms=-2 * DAY_MS
    )


def counted(
    encoder: RequestEncoder, candidates: list[int], history: History, context: dict[str, RawValue]
) -> list[list[int]]:
    made = encoder.encode(
        "display",
        user_id="u1",
        user_features={},
        context=context,
        candidates=(ids := np.array(candidates, np.uint32)),
        rows=encoder.tables.rows_of(ids),
        candidate_contexts=[{}] * len(candidates),
        history=history,
        popularity=everyones(),
        at_ms=0,
    )
    return [list(map(int, row)) for row in made["candidate_ids"][:, 1:]]  # behind the candidate's own feature


def check_ids(found: list[int], features: Sequence[FeatureSpec], days_ago: dict[str, list[int]]) -> None:
    """Compare a candidate's ids with those of behaviors so many days ago at each level."""
    assert len(found) == len(features)
    for id_, feature in zip(found, features, strict=True):
        level, _ = level_and_statistic(feature)
        assert id_ in ids_of(feature, [days * 86_400 for days in days_ago.get(level, [])]), feature.name


def test_match_ids_are_of_what_the_life_cycle_has_of_each_candidate() -> None:
    history = history_of((5, 40), (5, 3), (2, 20), (9, 8), (77, 1), (77, 2))
    every, branded = [40, 3, 20, 8, 1, 2], [40, 3, 20]
    found = counted(counting(*MATCH), [5, 2, 9, 77, 0], history, {})
    for ids, days_ago in zip(
        found,
        [
            {ANY: every, "item_id": [40, 3], "brand": branded},
            {ANY: every, "item_id": [20], "brand": branded},
            {ANY: every, "item_id": [8]},  # has no brand
            {ANY: every},  # newer than the artefact, though bought twice
            {ANY: every},  # in no catalogue
        ],
        strict=True,
    ):
        check_ids(ids, MATCH, days_ago)


def test_popularity_ids_are_of_what_everyone_did_as_old_as_it_is_at_the_request() -> None:
    found = counted(counting(*POPULARITY), [5, 2, 77, 0], history_of(), {"store": 7})
    for ids, days_ago in zip(
        found,
        [
            {"item_id": [5, 11], "store": [5]},
            {},
            {"item_id": [6]},  # newer than the artefact: everyone knows it all the same
            {},  # in no catalogue
        ],
        strict=True,
    ):
        check_ids(ids, POPULARITY, days_ago)


@pytest.mark.parametrize("context", [{}, {"store": None}, {"store": "9"}])
def test_in_a_context_that_was_never_counted_nothing_was(context: dict[str, RawValue]) -> None:
    (ids,) = counted(counting(*POPULARITY), [5], history_of(), context)
    check_ids(ids, POPULARITY, {"item_id": [5, 11]})


def test_match_ids_go_before_popularity_ids_and_each_side_may_be_missing() -> None:
    history, context = history_of((5, 1)), {"store": "7"}
    match, popular = (counted(counting(*one), [5, 2], history, context) for one in (MATCH, POPULARITY))
    both = counted(counting(*POPULARITY, *MATCH), [5, 2], history, context)
    assert both == [[*a, *b] for a, b in zip(match, popular, strict=True)]
    assert counted(counting(), [5, 2], history, context) == [[], []]


def test_a_model_says_whether_it_reads_popularity() -> None:
    assert counting(*MATCH, *POPULARITY).reads_popularity
    assert not counting(*MATCH).reads_popularity


def test_no_candidates_have_ids_of_no_rows() -> None:
    assert counted(counting(*MATCH, *POPULARITY), [], history_of((5, 1)), {}) == []


def encode_items(ids: I64) -> tuple[F32, F32]:
    """Return rows that say what features they were made of: the brand's id a hundred times, and by domain."""
    brand = 100 * ids[:, 1:].astype(np.float32)
    return brand * np.ones((1, 2), np.float32), np.stack([brand + 1, brand + 2])


def encoding_items() -> RequestEncoder:
    plain = manifest()
    return RequestEncoder(
        plain.model_copy(update={"features": (*plain.features, *MATCH)}), tables(), encode_items
    )


def test_items_without_a_row_are_encoded_from_the_features_that_the_model_knows() -> None:
    encoder = encoding_items()
    features: dict[int, dict[str, RawValue]] = {
        4: {"brand": "y", "colour": "red"},
        0: {"brand": "x"},
        1: {"brand": "x"},  # has a row
        2: {"brand": "unheard of", "item_id": "a", "colour": "red"},  # nothing of it is known
        5: {},
    }
    made = encoder.new_items(np.array([0, 2, 0, 0, 0, 0], np.int32), features)
    assert made is not None
    assert made.places.tolist() == [4, 0]
    assert made.shared.tolist() == [[200, 200], [100, 100]]
    assert made.by_domain.tolist() == [[[201], [101]], [[202], [102]]]
    assert made.match_keys.tolist() == [[1, 0, 0], [1, 0, 5]]  # no item of the tables is of brand y


@pytest.mark.parametrize(
    "features", [{}, {0: {"brand": "x"}}, {1: {}}, {1: {"brand": None}}, {1: {"brand": 7, "item_id": "a"}}]
)
def test_without_a_known_feature_of_an_item_without_a_row_nothing_is_encoded(
    features: dict[int, dict[str, RawValue]],
) -> None:
    rows = np.array([3, 0], np.int32)
    assert encoding_items().new_items(rows, features) is None
    assert RequestEncoder(manifest(), tables()).new_items(rows, {1: {"brand": "x"}}) is None


def test_a_request_has_the_encoded_rows_in_the_places_of_its_new_items() -> None:
    encoder, ids = encoding_items(), np.array([77, 5, 77, 77], np.uint32)
    rows = encoder.tables.rows_of(ids)
    features: dict[int, dict[str, RawValue]] = {2: {"brand": "y"}, 0: {"brand": "x"}}
    made = encoder.encode(
        "display",
        user_id="u1",
        user_features={},
        context={},
        candidates=ids,
        rows=rows,
        candidate_contexts=[{}] * 4,
        history=history_of((5, 3), (9, 5)),  # brand x, and an unknown one
        popularity=Popularity.empty(),
        at_ms=0,
        new_items=encoder.new_items(rows, features),
    )
    assert made["item_shared"].tolist() == [[100, 100], [1, 1], [200, 200], [0, 0]]
    assert made["item_by_domain"].tolist() == [[102], [21], [202], [20]]
    everything = {ANY: [3, 5]}
    for found, of_levels in zip(
        made["candidate_ids"][:, 1:].tolist(),
        (
            everything | {"brand": [3]},
            everything | {"brand": [3], "item_id": [3]},
            everything,
            everything,
        ),
        strict=True,
    ):
        check_ids(found, MATCH, of_levels)
    assert encoder.tables.shared.tolist() == tables().shared.tolist()  # which are left as they are


TABLES = {
    "shared": artefact.ITEM_SHARED_FILE,
    "by_domain": artefact.ITEM_BY_DOMAIN_FILE,
    "match_keys": artefact.ITEM_MATCH_KEYS_FILE,
    **{part: artefact.item_history_file(part) for part in served_inputs.PARTS},
}


def write_tables(folder: Path) -> None:
    made = tables()
    (folder / "items").mkdir()
    np.save(folder / artefact.ITEM_ROWS_FILE, made.rows)
    for name, file in TABLES.items():
        np.save(folder / file, made.history[name] if name in made.history else getattr(made, name))


def test_tables_are_mapped_not_loaded(tmp_path: Path) -> None:
    write_tables(tmp_path)
    read = read_item_tables(tmp_path)
    assert read.rows.tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0, 3, 0]
    assert read.by_domain.tolist() == tables().by_domain.tolist()
    assert read.match_keys.tolist() == tables().match_keys.tolist()
    assert {part: table.tolist() for part, table in read.history.items()} == {
        part: table.tolist() for part, table in tables().history.items()
    }
    for table in (read.rows, read.shared, read.by_domain, read.match_keys, *read.history.values()):
        assert isinstance(table.base, np.memmap) or isinstance(table, np.memmap)


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_different_lengths_are_refused(tmp_path: Path, name: str) -> None:
    write_tables(tmp_path)
    table = np.load(tmp_path / TABLES[name])
    np.save(tmp_path / TABLES[name], np.delete(table, 0, axis=1 if name == "by_domain" else 0))
    with pytest.raises(ArtefactError, match="different numbers of rows"):
        read_item_tables(tmp_path)


@pytest.mark.parametrize("name", ["rows", "clusters", "match_keys"])
@pytest.mark.parametrize("body", [None, b"", b"not numpy", b"\x93NUMPY\x01\x00"])
def test_unreadable_table_is_refused(tmp_path: Path, name: str, body: bytes | None) -> None:
    write_tables(tmp_path)
    path = tmp_path / {**TABLES, "rows": artefact.ITEM_ROWS_FILE}[name]
    if body is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(body)
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_item_tables(tmp_path)


@pytest.mark.parametrize("name", ["rows", "shared", "by_domain", "match_keys"])
def test_a_table_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    write_tables(tmp_path)
    (tmp_path / {**TABLES, "rows": artefact.ITEM_ROWS_FILE}[name]).unlink()
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_item_tables(tmp_path)


def test_histories_are_read_of_the_parts_that_have_a_table(tmp_path: Path) -> None:
    write_tables(tmp_path)
    for part in ("clusters", "behaviors"):
        (tmp_path / TABLES[part]).unlink()
    assert set(read_item_tables(tmp_path).history) == {"recents"}


@pytest.mark.parametrize("row", [4, 5, 2**31 - 1])
def test_rows_past_the_tables_are_refused(tmp_path: Path, row: int) -> None:
    write_tables(tmp_path)
    rows = tables().rows
    rows[2] = row
    np.save(tmp_path / artefact.ITEM_ROWS_FILE, rows)
    with pytest.raises(ArtefactError, match="points past the item tables"):
        read_item_tables(tmp_path)


def test_tensor_names_are_distinct() -> None:
    names = [v for k, v in vars(served_inputs).items() if k.isupper() and isinstance(v, str)]
    assert len(set(names)) == len(names) == 19


def test_rows_that_do_not_end_in_the_cold_start_row_are_refused(tmp_path: Path) -> None:
    write_tables(tmp_path)
    np.save(tmp_path / artefact.ITEM_ROWS_FILE, tables().rows[:-1])
    with pytest.raises(ArtefactError, match="does not end in the cold-start row"):
        read_item_tables(tmp_path)
