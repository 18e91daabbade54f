"""A dataset as ids against plain loops over its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.features import FeatureEncoder, Side, time_values
from service.contract.history import Behaviors, HistoryLimits, build_history, quantize_strength
from tests.support.synthetic_dataset import tiny_dataset
from tests.support.synthetic_encoded import tiny_encoded, tiny_snapshots
from tests.unit.training.data.small_tables import DAY_MS, small_tables, with_table
from training.config import VocabularyConfig
from training.data.canonical import write_dataset
from training.data.dataset import SPLITS, Dataset
from training.data.encoded import EncodedData, behaviors_by_user, encode_dataset, ranges
from training.data.vocabulary import build_features

LIMITS = HistoryLimits(singletons_max=6, recents_max=4)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, EncodedData]:
    return tiny_encoded(tmp_path_factory.mktemp("logs"), limits=LIMITS)


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    return list(dataset.exposures.iter_rows(named=True))


def test_rows_requests_and_visits_line_up(both: tuple[Dataset, EncodedData]) -> None:
    dataset, data = both
    items = dataset.items["item_id"].to_list()
    requests: list[tuple[str, int, int]] = []
    visits: list[tuple[str, int]] = []
    for number, row in enumerate(rows_of(dataset)):
        visit = (row["user_id"], row["shown_at_ms"])
        request = (*visit, row["request_id"])
        if visit not in visits:
            assert data.row_starts[len(visits)] == number
            assert data.request_starts[len(visits)] == len(requests)
            visits.append(visit)
        if request not in requests:
            assert data.request_visit[len(requests)] == visits.index(visit)
            assert dataset.spec.domains[data.domain[len(requests)]] == row["domain"]
            requests.append(request)
        assert data.row_request[number] == requests.index(request)
        assert items[data.item[number] - 1] == row["item_id"]
        assert data.keep_probability[number] == row["keep_probability"]
        v = visits.index(visit)
        assert (data.users[data.visit_user[v]], int(data.visit_at_ms[v])) == visit
        assert SPLITS[data.visit_split[v]] == row["split"]
        for task, name in enumerate(dataset.spec.task_names):
            label = data.labels[number, task]
            assert np.isnan(label) if row[name] is None else label == row[name]
    assert (len(data.domain), len(data.visit_user)) == (len(requests), len(visits))
    assert data.row_starts[-1] == len(data.item) and data.request_starts[-1] == len(requests)
    assert len(requests) > len(visits)  # some visits do have two requests


def test_ids_are_the_contracts(both: tuple[Dataset, EncodedData]) -> None:
    dataset, data = both
    encoders = {f.name: FeatureEncoder(f) for f in data.features}
    of_side = {side: [f.name for f in data.features if f.side is side] for side in Side}
    users = {row["user_id"]: row for row in dataset.users.iter_rows(named=True)}
    for number, row in enumerate(rows_of(dataset)):
        values = {**users[row["user_id"]], **row, **time_values(row["shown_at_ms"])}
        expected = [
            encoders[name].encode(values[name]) for name in of_side[Side.USER] + of_side[Side.CONTEXT]
        ]
        assert data.user_ids[data.row_request[number]].tolist() == expected
        candidate = [encoders[name].encode(row[name]) for name in of_side[Side.CANDIDATE]]
        assert data.candidate_ids[number].tolist() == candidate
    assert data.item_ids[0].tolist() == [0] * len(of_side[Side.ITEM])
    for number, row in enumerate(dataset.items.iter_rows(named=True), start=1):
        assert data.item_ids[number].tolist() == [
            encoders[name].encode(row[name]) for name in of_side[Side.ITEM]
        ]


def test_histories_are_the_contracts_on_all_that_lies_before(both: tuple[Dataset, EncodedData]) -> None:
    dataset, data = both
    row_of = {item: row for row, item in enumerate(dataset.items["item_id"].to_list(), start=1)}
    snapshots = tiny_snapshots(dataset)
    lengths = set()
    for visit in range(len(data.visit_user)):
        user, at_ms = data.users[data.visit_user[visit]], int(data.visit_at_ms[visit])
        mine = [row for row in dataset.behaviors.iter_rows(named=True) if row["user_id"] == user]
        everything = Behaviors(
            np.array([row["at_ms"] for row in mine], np.int64),
            np.array([row_of[row["item_id"]] for row in mine], np.uint32),
            quantize_strength([row["strength"] for row in mine]),
        )
        expected = build_history(snapshots.newest_before(user, at_ms), everything, at_ms=at_ms, limits=LIMITS)
        clusters, recents = (
            {
                name: getattr(part, name)[part.starts[visit] : part.starts[visit + 1]].tolist()
                for name in ("item", "size", "age", "strength")
            }
            for part in (data.parts["clusters"], data.parts["recents"])
        )
        assert clusters == {name: getattr(expected, name).tolist() for name in clusters}
        assert recents == {
            "item": expected.recent_item.tolist(),
            "size": [1.0] * len(expected.recent_item),
            "age": expected.recent_age.tolist(),
            "strength": expected.recent_strength.tolist(),
        }
        lengths.add(len(clusters["item"]))
    assert {0, 1, 2} < lengths and max(lengths) > 10


def test_behaviors_at_the_very_time_of_a_visit_are_not_seen(tmp_path: Path) -> None:
    write_dataset(small_tables(), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    data = encode_dataset(
        dataset,
        build_features(dataset, VocabularyConfig(min_count=1)),
        limits=HistoryLimits(),
        find_snapshot=lambda user, at_ms: None,
    )
    # ann at day 2 saw jar (day 1) but not cup (day 2); at day 9 both; bob has jar alone, ever after
    recents, items = data.parts["recents"], dataset.items["item_id"].to_list()
    seen = [
        [items[row - 1] for row in recents.item[a:b]]
        for a, b in zip(recents.starts[:-1], recents.starts[1:], strict=True)
    ]
    assert seen == [["jar"], ["jar", "cup"], ["jar"], ["jar"]]
    assert data.visit_at_ms.tolist() == [2 * DAY_MS, 9 * DAY_MS, 11 * DAY_MS, 25 * DAY_MS]


def test_without_behaviors_every_history_is_empty(tmp_path: Path) -> None:
    raw = small_tables()
    write_dataset(with_table(raw, "behaviors", raw.tables["behaviors"].clear()), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    data = encode_dataset(
        dataset,
        build_features(dataset, VocabularyConfig(min_count=1)),
        limits=HistoryLimits(),
        find_snapshot=lambda user, at_ms: None,
    )
    assert behaviors_by_user(dataset) == {}
    for part in data.parts.values():
        assert part.starts.tolist() == [0] * 5 and len(part.item) == 0


def test_visits_of_a_split_and_before_a_moment(both: tuple[Dataset, EncodedData]) -> None:
    _, data = both
    found = [data.visits_of(split) for split in SPLITS]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(data.visit_user)))
    middle = int(np.median(data.visit_at_ms[found[0]]))
    early = data.visits_of("train", before_ms=middle)
    assert early.tolist() == [v for v in found[0].tolist() if data.visit_at_ms[v] < middle]
    rows = data.rows_of(found[2])
    assert [int(data.request_visit[data.row_request[row]]) for row in rows] == [
        v for v in found[2] for _ in range(data.row_starts[v], data.row_starts[v + 1])
    ]


def test_ranges_run_end_to_end() -> None:
    starts, stops = np.array([5, 2, 9, 0]), np.array([7, 2, 12, 1])
    assert ranges(starts, stops).tolist() == [5, 6, 9, 10, 11, 0]
    assert ranges(starts[:0], stops[:0]).tolist() == []


def test_progress_counts_every_visit(tmp_path: Path) -> None:
    dataset, told = tiny_dataset(tmp_path), []
    data = encode_dataset(
        dataset,
        build_features(dataset, VocabularyConfig()),
        limits=LIMITS,
        find_snapshot=lambda user, at_ms: None,
        progress=told.append,
    )
    assert sum(told) == len(data.visit_user)
