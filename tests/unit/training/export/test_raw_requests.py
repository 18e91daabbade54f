"""Requests as the store would give them: their bytes lead back to the histories that training read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from service.contract.history import (
    Behaviors,
    HistoryLimits,
    build_history,
    decode_behaviors,
    decode_snapshot,
)
from tests.support.synthetic_dataset import DOMAINS, item_id
from tests.support.synthetic_encoded import tiny_encoded, tiny_snapshots
from training.data.dataset import Dataset
from training.data.encoded import EncodedData, behaviors_by_user, history_of, item_rows
from training.data.popularity import PopularityCounts, popularity_levels
from training.export.raw_requests import Case, RawRequests

LIMITS = HistoryLimits(singletons_max=5, recents_max=7, behaviors_max=20)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, EncodedData]:
    folder: Path = tmp_path_factory.mktemp("logs")
    return tiny_encoded(folder, limits=LIMITS)


def raw_requests(dataset: Dataset, data: EncodedData) -> tuple[RawRequests, np.ndarray]:
    """Return requests under a catalogue whose ids are not the rows, and the row of each catalogue id."""
    ids = np.concatenate([[0], 500 + np.random.default_rng(0).permutation(len(dataset.items))])
    row_of = np.zeros(int(ids.max()) + 1, np.int64)
    row_of[ids] = np.arange(len(ids))
    levels = popularity_levels(dataset)
    bench = SimpleNamespace(
        dataset=dataset,
        catalogue_ids=ids.astype(np.uint32),
        snapshots=tiny_snapshots(dataset),
        popularity_levels=levels,
        popularity_counts=PopularityCounts(dataset, levels, item_rows(dataset, dataset.behaviors["item_id"])),
    )
    return RawRequests(bench, data), row_of  # type: ignore[arg-type]


def test_histories_come_back_from_bytes_as_training_read_them(both: tuple[Dataset, EncodedData]) -> None:
    dataset, data = both
    raw, row_of = raw_requests(dataset, data)
    snapshots, behaviors = tiny_snapshots(dataset), behaviors_by_user(dataset)
    with_snapshot = 0
    for request in range(0, len(data.domain), 3):
        made = raw.request_of(Case(request, np.flatnonzero(data.row_request == request)))
        snapshot = None if made.snapshot is None else decode_snapshot(made.snapshot)
        recent = decode_behaviors(made.recent)
        shuffled = np.random.default_rng(request).permutation(len(recent))
        recent = Behaviors(*(x[shuffled] for x in (recent.at_ms, recent.item, recent.strength)))
        history = build_history(snapshot, recent, at_ms=made.at_ms, limits=LIMITS)
        visit = int(data.request_visit[request])
        clusters, recents, raw_behaviors = (
            {
                n: getattr(p, n)[p.starts[visit] : p.starts[visit + 1]]
                for n in ("item", "age", "strength", "size")
            }
            for p in (data.parts[name] for name in ("clusters", "recents", "behaviors"))
        )
        assert row_of[history.item].tolist() == clusters["item"].tolist()
        assert history.size.tolist() == clusters["size"].tolist()
        assert history.age.tolist() == clusters["age"].tolist()
        assert history.strength.tolist() == clusters["strength"].tolist()
        assert row_of[history.recent_item].tolist() == recents["item"].tolist()
        assert history.recent_age.tolist() == recents["age"].tolist()
        assert row_of[history.behavior_item].tolist() == raw_behaviors["item"].tolist()
        assert history.behavior_age.tolist() == raw_behaviors["age"].tolist()
        assert history.behavior_strength.tolist() == raw_behaviors["strength"].tolist()
        counted = history_of(
            behaviors.get(made.user_id, Behaviors.empty()),
            snapshots.newest_before(made.user_id, made.at_ms),
            at_ms=made.at_ms,
            limits=LIMITS,
        ).counted
        assert row_of[history.counted.item].tolist() == counted.item.tolist()
        assert history.counted.count.tolist() == counted.count.tolist()
        assert history.counted.age_s.tolist() == counted.age_s.tolist()
        with_snapshot += snapshot is not None
    assert with_snapshot > 20


def test_rows_of_data_of_one_domain_are_found_among_all_exposures(both: tuple[Dataset, EncodedData]) -> None:
    dataset, data = both
    some = data.of_domains(("search",))
    raw, whole = raw_requests(dataset, some)[0], raw_requests(dataset, data)[0]
    for request in range(0, len(some.domain), 11):
        rows = np.flatnonzero(some.row_request == request)
        exposed = some.exposure[rows]
        same = whole.request_of(Case(int(data.row_request[exposed[0]]), exposed))
        assert raw.request_of(Case(request, rows)) == same
        assert same.domain == "search"


def test_a_request_has_its_users_values_and_those_of_its_candidates(
    both: tuple[Dataset, EncodedData],
) -> None:
    dataset, data = both
    raw, _ = raw_requests(dataset, data)
    rows = np.array([400, 3, 77])
    request = int(data.row_request[900])
    made = raw.request_of(Case(request, rows))
    row = dataset.exposures.row(900, named=True)
    user = dataset.users.filter(dataset.users["user_id"] == row["user_id"]).row(0, named=True)
    assert (made.user_id, made.at_ms) == (row["user_id"], row["shown_at_ms"])
    assert made.domain == row["domain"] and made.domain in DOMAINS
    assert made.user_features == {"country": user["country"], "years": user["years"]}
    assert made.context == {"device": row["device"]}
    shown = dataset.exposures[rows]
    assert [c.item_id for c in made.candidates] == shown["item_id"].to_list()
    assert [c.context for c in made.candidates] == [{"position": p} for p in shown["position"]]
    assert all(c.item_id in {item_id(i) for i in range(30)} for c in made.candidates)
