"""A dataset as ids against plain loops over its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.features import FeatureEncoder, FeatureSpec, Side, time_values
from service.contract.history import (
    Behaviors,
    HistoryLimits,
    age_buckets,
    build_history,
    quantize_strength,
    strength_buckets,
)
from service.contract.statistics import statistics_features
from tests.support.slow_statistics import ids_of, level_and_statistic
from tests.support.synthetic_dataset import tiny_dataset
from tests.support.synthetic_encoded import tiny_encoded, tiny_snapshots
from tests.unit.training.data.small_tables import DAY_MS, small_tables, with_table
from training.config import StatisticsConfig, VocabularyConfig
from training.data.canonical import write_dataset
from training.data.dataset import SPLITS, Dataset
from training.data.encoded import (
    COUNTED_SIDES,
    EncodedData,
    behaviors_by_user,
    encode_dataset,
    nothing_counted_ids,
    ranges,
)
from training.data.vocabulary import build_features

LIMITS = HistoryLimits(singletons_max=6, recents_max=4, behaviors_max=9)


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
        assert data.candidate_ids[number, : len(candidate)].tolist() == candidate
    counted = len(of_side[Side.MATCH]) + len(of_side[Side.POPULARITY])
    assert data.candidate_ids.shape[1] == len(of_side[Side.CANDIDATE]) + counted
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
        clusters, recents, behaviors = (
            {
                name: getattr(part, name)[part.starts[visit] : part.starts[visit + 1]].tolist()
                for name in ("item", "size", "age", "strength")
            }
            for part in (data.parts[name] for name in ("clusters", "recents", "behaviors"))
        )
        assert clusters == {name: getattr(expected, name).tolist() for name in clusters}
        assert recents == {
            "item": expected.recent_item.tolist(),
            "size": [1.0] * len(expected.recent_item),
            "age": expected.recent_age.tolist(),
            "strength": expected.recent_strength.tolist(),
        }
        newest = [n for n, row in enumerate(mine) if row["at_ms"] < at_ms][-LIMITS.behaviors_max :]
        assert behaviors == {
            "item": everything.item[newest].tolist(),
            "size": [1.0] * len(newest),
            "age": age_buckets((at_ms - everything.at_ms[newest]) // 1000).tolist(),
            "strength": strength_buckets(everything.strength[newest]).tolist(),
        }
        lengths.add(len(clusters["item"]))
    assert {0, 1, 2} < lengths and max(lengths) > 10


def counted_columns(data: EncodedData, *sides: Side) -> list[tuple[int, FeatureSpec]]:
    """Return the features of some sides of what is counted, and their columns in `candidate_ids`."""
    order = (Side.CANDIDATE, *COUNTED_SIDES)
    features = [f for side in order for f in data.features if f.side is side]
    return [(column, f) for column, f in enumerate(features) if f.side in sides]


Behaved = tuple[int, str]  # when, and on which item


def check_counted(
    data: EncodedData,
    row: int,
    columns: list[tuple[int, FeatureSpec]],
    matching: dict[str, list[Behaved]],
    at_ms: int,
) -> None:
    """Compare a row's ids with those of what was counted of it at each level."""
    for column, feature in columns:
        level, _ = level_and_statistic(feature)
        ages_s = [(at_ms - behaved_at_ms) // 1000 for behaved_at_ms, _ in matching[level]]
        assert int(data.candidate_ids[row, column]) in ids_of(feature, ages_s), (row, feature.name)


def check_that_each_tells_something_apart(data: EncodedData, columns: list[tuple[int, FeatureSpec]]) -> None:
    assert columns
    for column, feature in columns:
        assert len(np.unique(data.candidate_ids[:, column])) > 3, feature.name


def test_match_ids_are_those_of_a_recount_of_all_that_lies_before(both: tuple[Dataset, EncodedData]) -> None:
    """Whatever the snapshots, whose times are on whole seconds here, and whatever the limits on the history."""
    dataset, data = both
    category = dict(dataset.items.select("item_id", "category").iter_rows())
    behaviors: dict[str, list[Behaved]] = {}
    for user, item, at_ms in dataset.behaviors.select("user_id", "item_id", "at_ms").iter_rows():
        behaviors.setdefault(user, []).append((at_ms, item))
    columns = counted_columns(data, Side.MATCH)
    for number, row in enumerate(rows_of(dataset)):
        before = [b for b in behaviors.get(row["user_id"], []) if b[0] < row["shown_at_ms"]]
        kind = category[row["item_id"]]
        matching = {
            "any": before,
            "item_id": [b for b in before if b[1] == row["item_id"]],
            "category": [b for b in before if kind is not None and category[b[1]] == kind],
        }
        check_counted(data, number, columns, matching, row["shown_at_ms"])
    check_that_each_tells_something_apart(data, columns)


def test_popularity_ids_are_those_of_a_recount_of_all_before_the_last_midnight(
    both: tuple[Dataset, EncodedData],
) -> None:
    dataset, data = both
    device = {(row["user_id"], row["shown_at_ms"]): row["device"] for row in reversed(rows_of(dataset))}
    behaviors = dataset.behaviors.select("user_id", "item_id", "at_ms").rows()
    columns = counted_columns(data, Side.POPULARITY)
    for number, row in enumerate(rows_of(dataset)):
        if number % 3:
            continue  # a loop over everyone's behaviors for each row is slow
        midnight_ms = row["shown_at_ms"] // 86_400_000 * 86_400_000
        same = [
            (at_ms, user) for user, item, at_ms in behaviors if item == row["item_id"] and at_ms < midnight_ms
        ]
        here = [b for b in same if row["device"] is not None and device.get((b[1], b[0])) == row["device"]]
        matching = {"item_id": same, "device": here}
        check_counted(data, number, columns, matching, row["shown_at_ms"])
    check_that_each_tells_something_apart(
        data, [c for c in columns if level_and_statistic(c[1])[0] == "item_id"]
    )


def test_ids_of_any_items_are_those_that_they_would_have_as_candidates(
    both: tuple[Dataset, EncodedData],
) -> None:
    _, data = both
    columns = counted_columns(data, *COUNTED_SIDES)
    for request in range(0, len(data.domain), 7):
        rows = np.flatnonzero(data.row_request == request)
        found = data.counted_ids_of(request, data.item[rows])
        assert found.tolist() == data.candidate_ids[np.ix_(rows, [c for c, _ in columns])].tolist()
        unknown = data.counted_ids_of(request, np.zeros(1, np.int64))[0]
        for (_, feature), of_row, of_unknown in zip(columns, found[0], unknown, strict=True):
            level, _ = level_and_statistic(feature)
            assert {int(of_unknown)} == ({int(of_row)} if level == "any" else ids_of(feature, []))
        assert data.counted_ids_of(request, data.item[:0]).shape == (0, len(columns))


def test_without_counted_features_there_are_the_candidates_own_ids_alone(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path)
    data = encode_dataset(
        dataset,
        build_features(dataset, VocabularyConfig(), StatisticsConfig(match=(), popularity=())),
        limits=LIMITS,
        find_snapshot=lambda user, at_ms: None,
    )
    assert data.candidate_ids.shape == (len(data.item), 1)
    assert data.counted_ids_of(0, data.item[:3]).shape == (3, 0)


def test_without_a_count_of_everyone_nothing_is_popular(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path)
    data = encode_dataset(
        dataset,
        build_features(dataset, VocabularyConfig(), StatisticsConfig(match=())),
        limits=LIMITS,
        find_snapshot=lambda user, at_ms: None,
    )
    for column, feature in counted_columns(data, Side.POPULARITY):
        assert set(data.candidate_ids[:, column].tolist()) == ids_of(feature, [])
    assert data.counted_ids_of(3, np.array([1, 0])).tolist() == [nothing_counted_ids(data.features)] * 2


# What a model sees of the data


def chosen(data: EncodedData, *left_out: str) -> tuple[FeatureSpec, ...]:
    return tuple(f for f in data.features if f.name not in left_out)


def columns_of(features: Sequence[FeatureSpec], *sides: Side) -> list[str]:
    return [f.name for side in sides for f in features if f.side is side]


def test_data_restricted_to_some_features_have_those_columns_alone(both: tuple[Dataset, EncodedData]) -> None:
    _, data = both
    counted = [f.name for f in data.features if f.side in COUNTED_SIDES]
    left_out = ("years", "hour_of_day", "position", counted[0], counted[5], counted[-1], "item_id")
    less = data.restricted_to(chosen(data, *left_out))
    assert less.features == chosen(data, *left_out)
    for name, sides in (
        ("user_ids", (Side.USER, Side.CONTEXT)),
        ("candidate_ids", (Side.CANDIDATE, *COUNTED_SIDES)),
        ("item_ids", (Side.ITEM,)),
    ):
        before, after = columns_of(data.features, *sides), columns_of(less.features, *sides)
        assert 0 < len(after) < len(before)
        for column, feature in enumerate(after):
            whole = getattr(data, name)[:, before.index(feature)]
            assert getattr(less, name)[:, column].tolist() == whole.tolist(), feature
        assert getattr(less, name).shape[1] == len(after)
    kept = [column for column, name in enumerate(counted) if name not in left_out]
    items = np.array([3, 0, 29])
    whole = data.counted_ids_of(40, items)
    assert less.counted_ids_of(40, items).tolist() == whole[:, kept].tolist()
    for name in ("item", "labels", "row_request", "domain", "visit_at_ms", "exposure"):
        assert getattr(less, name) is getattr(data, name)


def test_data_restricted_to_all_features_are_the_same(both: tuple[Dataset, EncodedData]) -> None:
    _, data = both
    assert data.restricted_to(data.features) is data
    assert data.of_domains(data.domains) is data


@pytest.mark.parametrize(
    "domains", [("search",), ("home", "mail"), ("mail", "home"), ("mail", "search", "home")]
)
def test_data_of_some_domains_have_their_requests_and_no_others(
    both: tuple[Dataset, EncodedData], domains: tuple[str, ...]
) -> None:
    dataset, data = both
    some = data.of_domains(domains)
    expected = [row for row in rows_of(dataset) if row["domain"] in domains]
    everything = rows_of(dataset)
    assert some.domains == domains
    assert [everything[row] for row in some.exposure] == expected
    by_row = {
        "item": some.item,
        "candidate_ids": some.candidate_ids,
        "keep_probability": some.keep_probability,
    }
    for name, values in by_row.items():
        np.testing.assert_array_equal(values, getattr(data, name)[some.exposure], err_msg=name)
    np.testing.assert_array_equal(some.labels, data.labels[some.exposure])
    requests: list[int] = []
    visits: list[tuple[str, int]] = []
    for number, row in enumerate(expected):
        if row["request_id"] not in requests:
            requests.append(row["request_id"])
            visit = (row["user_id"], row["shown_at_ms"])
            if visit not in visits:
                assert some.row_starts[len(visits)] == number
                assert some.request_starts[len(visits)] == len(requests) - 1
                visits.append(visit)
        request = requests.index(row["request_id"])
        assert some.row_request[number] == request
        assert domains[some.domain[request]] == row["domain"]
        v = int(some.request_visit[request])
        assert (some.users[some.visit_user[v]], int(some.visit_at_ms[v])) == visits[v]
        assert SPLITS[some.visit_split[v]] == row["split"]
        whole = int(data.row_request[some.exposure[number]])
        assert some.user_ids[request].tolist() == data.user_ids[whole].tolist()
    assert some.row_starts[-1] == len(expected) and some.request_starts[-1] == len(requests)
    assert len(some.visit_user) == len(visits) <= len(data.visit_user)
    assert len(some.domain) == len(some.user_ids) == len(requests)


def test_visits_of_some_domains_keep_their_histories(both: tuple[Dataset, EncodedData]) -> None:
    _, data = both
    some = data.of_domains(("search",)).restricted_to(chosen(data, "years"))
    place = {(int(data.visit_user[v]), int(data.visit_at_ms[v])): v for v in range(len(data.visit_user))}
    for visit in range(len(some.visit_user)):
        whole = place[int(some.visit_user[visit]), int(some.visit_at_ms[visit])]
        for name, part in some.parts.items():
            old = data.parts[name]
            for column in ("item", "size", "age", "strength"):
                here = getattr(part, column)[part.starts[visit] : part.starts[visit + 1]]
                there = getattr(old, column)[old.starts[whole] : old.starts[whole + 1]]
                assert here.tolist() == there.tolist()
    assert 0 < len(some.visit_user) < len(data.visit_user)


def test_requests_of_some_domains_keep_what_was_counted(both: tuple[Dataset, EncodedData]) -> None:
    _, data = both
    some = data.of_domains(("search",))
    items = np.array([1, 0, 17])
    for request in range(0, len(some.domain), 5):
        row = int(some.exposure[np.flatnonzero(some.row_request == request)[0]])
        whole = data.counted_ids_of(int(data.row_request[row]), items)
        assert some.counted_ids_of(request, items).tolist() == whole.tolist()


def test_domains_without_requests_leave_nothing(both: tuple[Dataset, EncodedData]) -> None:
    _, data = both
    none = data.of_domains(("search",)).of_domains(("home",))
    assert (len(none.item), len(none.domain), len(none.visit_user)) == (0, 0, 0)
    assert none.row_starts.tolist() == none.request_starts.tolist() == [0]
    assert all(part.starts.tolist() == [0] for part in none.parts.values())


def test_behaviors_at_the_very_time_of_a_visit_are_not_seen(tmp_path: Path) -> None:
    write_dataset(small_tables(), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    uncounted = StatisticsConfig(match=(), popularity=())
    features = build_features(dataset, VocabularyConfig(min_count=1), uncounted)
    others, item = (tuple(f for f in features if (f.side is Side.ITEM) == last) for last in (False, True))
    data = encode_dataset(
        dataset,
        (*others, *statistics_features(Side.MATCH, ("any",)), *item),
        limits=HistoryLimits(),
        find_snapshot=lambda user, at_ms: None,
    )
    # ann at day 2 saw jar (day 1) but not cup (day 2); at day 9 both; bob has jar alone, ever after
    recents, items = data.parts["recents"], dataset.items["item_id"].to_list()
    seen = [
        [items[row - 1] for row in recents.item[a:b]]
        for a, b in zip(recents.starts[:-1], recents.starts[1:], strict=True)
    ]
    any_count = next(c for c, f in counted_columns(data, Side.MATCH) if f.name == "match_any_count")
    counted = data.candidate_ids[data.row_starts[:-1], any_count] - 1  # an id a count, up to 7
    assert counted.tolist() == [len(of_visit) for of_visit in seen]
    assert seen == [["jar"], ["jar", "cup"], ["jar"], ["jar"]]
    assert data.visit_at_ms.tolist() == [2 * DAY_MS, 9 * DAY_MS, 11 * DAY_MS, 25 * DAY_MS]


def test_without_behaviors_every_history_is_empty(tmp_path: Path) -> None:
    raw = small_tables()
    write_dataset(with_table(raw, "behaviors", raw.tables["behaviors"].clear()), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    data = encode_dataset(
        dataset,
        build_features(dataset, VocabularyConfig(min_count=1), StatisticsConfig()),
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
        build_features(dataset, VocabularyConfig(), StatisticsConfig()),
        limits=LIMITS,
        find_snapshot=lambda user, at_ms: None,
        progress=told.append,
    )
    assert sum(told) == len(data.visit_user)
